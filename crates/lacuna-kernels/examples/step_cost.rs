//! Times each kernel of a training step, forward and backward, beside the same operation composed of candle's own:
//! `cargo run --release -p lacuna-kernels --example step_cost`.
//!
//! The sizes are those of a small model: hidden size 384, 6 heads of 64, intermediate size 1024, vocabulary 8192, and
//! 4 windows of 512 tokens as a block-diffusion pass (1024 positions each). A time is the least of several runs, in
//! wall-clock milliseconds.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var};
use lacuna_kernels::{
    AdamWUpdate, AttentionMask, Backend, KeyRanges, Moments, Rope, Segments, adamw, attention,
    embedding, global_norm, keep_freed_memory, linear, linear_cross_entropy, reference, rms_norm,
    rope, swiglu,
};

const BATCH: usize = 4;
const LEN: usize = 512;
const HEADS: usize = 6;
const HEAD: usize = 64;
const HIDDEN: usize = HEADS * HEAD;
const INNER: usize = 1024;
const VOCAB: usize = 8192;
/// Rows of a pass over the noisy and the clean half of each window.
const ROWS: usize = BATCH * 2 * LEN;
/// Rows that are masked at a mean mask rate of one half.
const MASKED: usize = BATCH * LEN / 2;

fn main() -> Result<()> {
    keep_freed_memory();
    println!("{} threads; ms forward, forward + backward", rayon::current_num_threads());
    training_attention()?;
    decode(4, 2048)?;
    head_loss()?;
    parts()?;
    optimizer()
}

/// Times one block of queries against a cache, 9 heads on 3 key heads. No gradient flows.
fn decode(q_len: usize, cached: usize) -> Result<()> {
    let backend = Backend::cpu();
    let q = var(&[q_len, 9, HEAD])?.as_detached_tensor();
    let kv = || var(&[cached + q_len, 3, HEAD]).map(|kv| kv.as_detached_tensor());
    let (k, v) = (kv()?, kv()?);
    let ranges = KeyRanges::new(AttentionMask::Full, q_len, cached + q_len, cached);
    let segments = Segments::end_to_end([ranges]);
    let pairs = (segments.pairs() * 9 * HEAD) as f64;
    compare(
        &format!("decode {q_len} x {cached}"),
        (4. * pairs, 4. * pairs),
        || attention(backend, &q, &k, &v, &segments, 0.125),
        || reference::attention(&q, &k, &v, &segments, 0.125),
    )
}

fn head_loss() -> Result<()> {
    let backend = Backend::cpu();
    let (hidden, head) = (var(&[MASKED, HIDDEN])?, var(&[VOCAB, HIDDEN])?);
    let targets = (0..MASKED).map(|i| (i * 7 % VOCAB) as u32).collect::<Vec<_>>();
    let weights = vec![1.; MASKED];
    let product = 2. * (MASKED * HIDDEN * VOCAB) as f64;
    compare(
        "head + cross-entropy",
        (3. * product, 3. * product),
        || Ok(linear_cross_entropy(backend, &hidden, &head, &targets, &weights)?.loss),
        || Ok(reference::linear_cross_entropy(&hidden, &head, &targets, &weights)?.loss),
    )
}

fn parts() -> Result<()> {
    let backend = Backend::cpu();
    let (x, w) = (var(&[ROWS, HIDDEN])?, var(&[HIDDEN])?);
    let none = (0., 0.);
    compare(
        "rms norm",
        none,
        || rms_norm(backend, &x, &w, 1e-6),
        || reference::rms_norm(&x, &w, 1e-6),
    )?;
    let (gate, up) = (var(&[ROWS, INNER])?, var(&[ROWS, INNER])?);
    compare("swiglu", none, || swiglu(backend, &gate, &up), || reference::swiglu(&gate, &up))?;
    let q = var(&[ROWS, HEADS, HEAD])?;
    let table = Rope::new(&Rope::frequencies(1e4, HEAD), LEN, DType::F32, &Device::Cpu)?;
    let at: Vec<u32> = (0..ROWS).map(|row| (row % LEN) as u32).collect();
    compare("rope", none, || rope(backend, &q, &table, &at), || reference::rope(&q, &table, &at))?;
    for (inner, out) in [(HIDDEN, HIDDEN), (HIDDEN, INNER), (INNER, HIDDEN)] {
        let (x, w) = (var(&[ROWS, inner])?, var(&[out, inner])?);
        let product = 2. * (ROWS * inner * out) as f64;
        compare(
            &format!("linear {inner} to {out}"),
            (product, 3. * product),
            || linear(backend, &x, &w),
            || reference::linear(&x, &w),
        )?;
    }
    let table = var(&[VOCAB, HIDDEN])?;
    let ids = (0..ROWS).map(|i| (i * 31 % VOCAB) as u32).collect::<Vec<_>>();
    let ids = Tensor::from_vec(ids, ROWS, &Device::Cpu)?;
    compare(
        "embedding",
        none,
        || embedding(backend, &table, &ids),
        || reference::embedding(&table, &ids),
    )
}

/// Times a step of AdamW on 13.8 M parameters. Tensors of f64 take the composed form; their time is halved, because
/// they have twice as many bytes.
fn optimizer() -> Result<()> {
    let shapes = |layers: usize| {
        let mut shapes = vec![vec![VOCAB, HIDDEN]];
        for _ in 0..layers {
            shapes.extend((0..4).map(|_| vec![HIDDEN, HIDDEN]));
            shapes.extend((0..3).map(|_| vec![INNER, HIDDEN]));
            shapes.extend((0..2).map(|_| vec![HIDDEN]));
        }
        shapes
    };
    let mut times = vec![];
    for (dtype, runs) in [(DType::F32, 9), (DType::F64, 2)] {
        let vars = shapes(6)
            .iter()
            .map(|s| Var::from_tensor(&var(s)?.to_dtype(dtype)?))
            .collect::<Result<Vec<_>>>()?;
        let grads = vars.iter().map(|v| v.affine(1e-3, 0.)).collect::<Result<Vec<_>>>()?;
        let mut moments = vars.iter().map(|v| Moments::zeros(v)).collect::<Result<Vec<_>>>()?;
        let mut least = f64::MAX;
        for _ in 0..runs {
            let start = Instant::now();
            let norm = global_norm(Backend::cpu(), &grads)?;
            let update = update(norm);
            for ((var, grad), moments) in vars.iter().zip(&grads).zip(&mut moments) {
                adamw(Backend::cpu(), var, grad, moments, &update)?;
            }
            least = least.min(start.elapsed().as_secs_f64() * 1e3);
        }
        times.push(least);
    }
    println!("{:24} fused {:8.2}   composed {:8.2}", "adamw 13.8 M", times[0], times[1] / 2.);
    Ok(())
}

fn training_attention() -> Result<()> {
    let backend = Backend::cpu();
    let block_size = NonZeroUsize::new(4).expect("4 is not 0");
    let mask = AttentionMask::BlockDiffusion { block_size, seq_len: LEN };
    let ranges = KeyRanges::new(mask, 2 * LEN, 2 * LEN, 0);
    let segments = Segments::end_to_end(vec![ranges; BATCH]);
    let x = || var(&[ROWS, HEADS, HEAD]);
    let (q, k, v) = (x()?, x()?, x()?);
    let pairs = (segments.pairs() * HEADS * HEAD) as f64;
    compare(
        "attention",
        (4. * pairs, 14. * pairs),
        || attention(backend, &q, &k, &v, &segments, 0.125),
        || reference::attention(&q, &k, &v, &segments, 0.125),
    )
}

/// The scalars of a first step with learning rate 1e-4, clipped at a norm of 1.
fn update(norm: f64) -> AdamWUpdate {
    AdamWUpdate {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        grad_scale: (1. / (norm + 1e-6)).min(1.),
        step_size: 1e-4 / (1. - 0.9),
        root_scale: 1. / (1. - 0.95f64).sqrt(),
        shrink: 1. - 1e-4 * 0.1,
    }
}

/// Prints both times and, for the fused form, GFLOP/s.
fn compare(
    name: &str,
    (forward_flop, both_flop): (f64, f64),
    fused: impl Fn() -> Result<Tensor>,
    composed: impl Fn() -> Result<Tensor>,
) -> Result<()> {
    let (f, fb) = time(&fused, 9)?;
    let (c, cb) = time(&composed, 2)?;
    println!(
        "{name:24} fused {f:8.2} {fb:8.2}   composed {c:8.2} {cb:8.2}   {:5.1}x {:5.1}x   {:5.1} {:5.1} GFLOP/s",
        c / f,
        cb / fb,
        forward_flop / f / 1e6,
        both_flop / fb / 1e6,
    );
    Ok(())
}

fn time(f: &impl Fn() -> Result<Tensor>, runs: usize) -> Result<(f64, f64)> {
    let (mut forward, mut both) = (f64::MAX, f64::MAX);
    for _ in 0..runs {
        let start = Instant::now();
        let y = f()?;
        forward = forward.min(start.elapsed().as_secs_f64() * 1e3);
        // The gradient that comes in is all ones, which takes no work of its own.
        y.backward()?;
        both = both.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok((forward, both))
}

fn var(shape: &[usize]) -> Result<Var> {
    let n: usize = shape.iter().product();
    let mut state = 1u32;
    let values = (0..n).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.
    });
    Var::from_tensor(&Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu)?)
}
