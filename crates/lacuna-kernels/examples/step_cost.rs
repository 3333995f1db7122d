//! What each kernel of a training step costs, against the same thing composed of candle's own
//! operations: `cargo run --release -p lacuna-kernels --example step_cost`.
//!
//! Sizes: hidden 384, 6 heads of 64, intermediate 1024, vocabulary 8192, 4 windows of 512 tokens
//! as a block-diffusion pass (1024 positions each). Times are the least of several runs, forward
//! and backward, wall clock.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use lacuna_kernels::{AttentionMask, Spans, attention_by_token, reference};

const BATCH: usize = 4;
const LEN: usize = 512;
const HEADS: usize = 6;
const HEAD: usize = 64;

fn main() -> Result<()> {
    println!(
        "{} threads; ms forward, ms forward + backward, least of runs",
        rayon::current_num_threads()
    );
    attention()?;
    Ok(())
}

fn attention() -> Result<()> {
    let block_size = NonZeroUsize::new(4).expect("4 is not 0");
    let mask = AttentionMask::BlockDiffusion { block_size, seq_len: LEN };
    let spans = Spans::new(mask, 2 * LEN, 2 * LEN, 0);
    let x = || var(&[BATCH, 2 * LEN, HEADS, HEAD]);
    let (q, k, v) = (x()?, x()?, x()?);
    let pairs = (spans.pairs() * BATCH * HEADS * HEAD) as f64;
    compare(
        "attention",
        (4. * pairs, 14. * pairs),
        || attention_by_token(&q, &k, &v, &spans, 0.125),
        || {
            let t = |x: &Tensor| x.transpose(1, 2)?.contiguous();
            reference::attention(&t(&q)?, &t(&k)?, &t(&v)?, &spans, 0.125)
        },
    )
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
        // A gradient of ones comes without work of its own.
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
