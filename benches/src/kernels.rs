//! Times every operation of `lacuna-kernels` against its reference, at the sizes of the model that
//! `train.rs` trains: hidden 384, 6 heads of 64, intermediate 1024, vocabulary 8192, 4 × 512
//! tokens.

use std::num::NonZeroUsize;
use std::rc::Rc;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use lacuna_kernels::{AttentionMask, Backend, KeyRanges, Rope, Segments, reference};

use lacuna_train::{AdamW, AdamWConfig, Parameter};

use crate::machine::Machine;
use crate::measure::{Effort, pairs};
use crate::rows::Row;

/// A benchmark; building its case may take memory and time, so that happens only when it runs.
#[derive(Debug)]
pub struct Bench {
    /// The line that `cargo xtask bench --list` shows.
    pub name: &'static str,
    case: fn() -> Result<Case>,
}

/// One call of an operation, with all its answers.
pub type Run = Box<dyn Fn() -> Result<Vec<Tensor>>>;

/// Two ways to one answer, and what the operation must at least move and compute.
pub struct Case {
    /// Our kernel: its answers, gradients among them where it has a backward pass.
    pub fast: Run,
    /// The same of candle's operations.
    pub reference: Run,
    /// Bytes that must be read or written once.
    bytes: f64,
    flop: f64,
}

/// Largest allowed error, relative to the largest value of the reference's answer: both are f32 sums of up
/// to 8192 terms in different order. Fused and composed operations were measured 2e-6 apart.
const TOLERANCE: f64 = 2e-5;

const HIDDEN: usize = 384;
const HEADS: usize = 6;
const HEAD_DIM: usize = 64;
const INTERMEDIATE: usize = 1024;
const VOCAB: usize = 8192;
const BATCH: usize = 4;
const SEQ: usize = 512;
/// Noisy and clean half.
const ROWS: usize = BATCH * 2 * SEQ;
const BLOCK_SIZE: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");

/// Every kernel's benchmark.
pub fn all() -> Vec<Bench> {
    let bench = |name, case| Bench { name, case };
    vec![
        bench("attention/block-diffusion/train", || attention_train(block_diffusion())),
        bench("attention/causal/train", || attention_train(AttentionMask::Causal)),
        bench("attention/block-diffusion/forward", attention_forward),
        bench("attention/decode/1-row", || attention_decode(1)),
        bench("attention/decode/4-rows", || attention_decode(4)),
        bench("attention/decode/8-rows", || attention_decode(8)),
        bench("rms-norm/train", rms_norm),
        bench("rope/train", rope),
        bench("swiglu/train", swiglu),
        bench("embedding/train", embedding),
        bench("linear/train", linear),
        bench("linear-cross-entropy/train", cross_entropy),
        bench("adamw/14M", adamw),
    ]
}

impl Bench {
    /// The case and how far its two answers are apart, relative to the largest value.
    ///
    /// # Errors
    /// Errors if that is more than the sums' order explains, or there is no room for the case.
    pub fn checked(&self) -> Result<(Case, f64)> {
        let case = (self.case)()?;
        let error = largest_error(&(case.fast)()?, &(case.reference)()?)?;
        ensure!(error <= TOLERANCE, "{}: off by {error:.1e}, {TOLERANCE:.0e} at most", self.name);
        Ok((case, error))
    }

    /// Checks the answer, then times both versions in turn.
    pub(crate) fn run(&self, machine: &Machine, effort: Effort) -> Result<Row> {
        let (case, error) = self.checked()?;
        let pair = pairs(effort, &case.fast, &case.reference)?;
        let floor = machine.floor(case.bytes, case.flop);
        Ok(Row { name: self.name, pair, floor, error })
    }
}

fn block_diffusion() -> AttentionMask {
    AttentionMask::BlockDiffusion { block_size: BLOCK_SIZE, seq_len: SEQ }
}

/// max |a − b| / max |b| over all tensors, each by its own scale.
fn largest_error(found: &[Tensor], expected: &[Tensor]) -> Result<f64> {
    ensure!(found.len() == expected.len(), "{} answers, not {}", found.len(), expected.len());
    let mut largest = 0f64;
    for (found, expected) in found.iter().zip(expected) {
        ensure!(found.dims() == expected.dims(), "{:?}, not {:?}", found.dims(), expected.dims());
        let top = |tensor: Tensor| -> Result<f64> {
            Ok(f64::from(tensor.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?))
        };
        let error = top((found - expected)?)? / top(expected.clone())?.max(f64::MIN_POSITIVE);
        ensure!(!error.is_nan(), "the answer holds NaN");
        largest = largest.max(error);
    }
    Ok(largest)
}

/// Values in [-1, 1) that look random and are the same everywhere: candle's generator takes no seed.
fn values(shape: &[usize], salt: u64) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let value = |index: u64| {
        let mut x = (index + (salt << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        ((x >> 40) as f32 / (1u32 << 23) as f32) - 1.0
    };
    let data: Vec<f32> = (0..count as u64).map(value).collect();
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

fn var(shape: &[usize], salt: u64) -> Result<Var> {
    Ok(Var::from_tensor(&values(shape, salt)?)?)
}

/// An operation on variables, forward and backward: answers are its output and every gradient.
fn train(inputs: &Rc<[Var]>, operation: impl Fn(&[Var]) -> Result<Tensor> + 'static) -> Run {
    let inputs = inputs.clone();
    Box::new(move || {
        let output = operation(&inputs)?;
        let probe = output.ones_like()?.affine(0.5, 0.0)?;
        let gradients = (&output * probe)?.sum_all()?.backward()?;
        let mut answers = vec![output];
        for input in inputs.iter() {
            let gradient = gradients.get(input).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
            answers.push(gradient.clone());
        }
        Ok(answers)
    })
}

fn bytes_of(floats: usize) -> f64 {
    4.0 * floats as f64
}

fn windows(mask: AttentionMask) -> Segments {
    Segments::end_to_end(vec![KeyRanges::new(mask, 2 * SEQ, 2 * SEQ, 0); BATCH])
}

fn attention_train(mask: AttentionMask) -> Result<Case> {
    let shape = [ROWS, HEADS, HEAD_DIM];
    let segments = windows(mask);
    let pairs = (HEADS * segments.pairs()) as f64;
    let inputs: Rc<[Var]> = [var(&shape, 1)?, var(&shape, 2)?, var(&shape, 3)?].into();
    let scale = (HEAD_DIM as f64).powf(-0.5);
    let slow_segments = segments.clone();
    Ok(Case {
        fast: train(&inputs, move |x| {
            Ok(lacuna_kernels::attention(Backend::cpu(), &x[0], &x[1], &x[2], &segments, scale)?)
        }),
        reference: train(&inputs, move |x| {
            Ok(reference::attention(&x[0], &x[1], &x[2], &slow_segments, scale)?)
        }),
        // q, k, v, output and their gradients.
        bytes: bytes_of(8 * ROWS * HIDDEN),
        // Two products forward, five backward with the scores computed anew, for each visible pair.
        flop: 7.0 * 2.0 * HEAD_DIM as f64 * pairs,
    })
}

fn attention_forward() -> Result<Case> {
    let shape = [ROWS, HEADS, HEAD_DIM];
    let qkv = [values(&shape, 1)?, values(&shape, 2)?, values(&shape, 3)?];
    attention_case(qkv, windows(block_diffusion()))
}

/// SmolLM2-135M's heads (9 over 3) and a cache of 512 tokens.
fn attention_decode(rows: usize) -> Result<Case> {
    let (heads, kv_heads, prefix) = (9, 3, 512);
    let kv = [prefix + rows, kv_heads, HEAD_DIM];
    let ranges = KeyRanges::new(AttentionMask::Full, rows, prefix + rows, prefix);
    let q = values(&[rows, heads, HEAD_DIM], 1)?;
    attention_case([q, values(&kv, 2)?, values(&kv, 3)?], Segments::end_to_end([ranges]))
}

fn attention_case([q, k, v]: [Tensor; 3], segments: Segments) -> Result<Case> {
    let scale = (HEAD_DIM as f64).powf(-0.5);
    let floats = 2 * q.elem_count() + k.elem_count() + v.elem_count();
    let (_, heads, _) = q.dims3()?;
    let pairs = (heads * segments.pairs()) as f64;
    let inputs = Rc::new((q, k, v, segments));
    let slow = inputs.clone();
    Ok(Case {
        fast: Box::new(move || {
            let (q, k, v, segments) = &*inputs;
            Ok(vec![lacuna_kernels::attention(Backend::cpu(), q, k, v, segments, scale)?])
        }),
        reference: Box::new(move || {
            let (q, k, v, segments) = &*slow;
            Ok(vec![reference::attention(q, k, v, segments, scale)?])
        }),
        bytes: bytes_of(floats),
        flop: 2.0 * 2.0 * HEAD_DIM as f64 * pairs,
    })
}

fn rms_norm() -> Result<Case> {
    let inputs: Rc<[Var]> = [var(&[ROWS, HIDDEN], 1)?, var(&[HIDDEN], 2)?].into();
    Ok(Case {
        fast: train(&inputs, |x| Ok(lacuna_kernels::rms_norm(Backend::cpu(), &x[0], &x[1], 1e-6)?)),
        reference: train(&inputs, |x| Ok(reference::rms_norm(&x[0], &x[1], 1e-6)?)),
        bytes: bytes_of(4 * ROWS * HIDDEN),
        flop: 0.0,
    })
}

fn rope() -> Result<Case> {
    let frequencies = Rope::frequencies(1e4, HEAD_DIM);
    let table = Rope::new(&frequencies, SEQ, DType::F32, &Device::Cpu)?;
    let positions: Vec<u32> = (0..ROWS).map(|row| (row % SEQ) as u32).collect();
    let inputs: Rc<[Var]> = [var(&[ROWS, HEADS, HEAD_DIM], 1)?].into();
    let (slow_table, slow_positions) = (table.clone(), positions.clone());
    Ok(Case {
        fast: train(&inputs, move |x| {
            Ok(lacuna_kernels::rope(Backend::cpu(), &x[0], &table, &positions)?)
        }),
        reference: train(&inputs, move |x| {
            Ok(reference::rope(&x[0], &slow_table, &slow_positions)?)
        }),
        bytes: bytes_of(4 * ROWS * HIDDEN),
        flop: 0.0,
    })
}

fn swiglu() -> Result<Case> {
    let shape = [ROWS, INTERMEDIATE];
    let inputs: Rc<[Var]> = [var(&shape, 1)?, var(&shape, 2)?].into();
    Ok(Case {
        fast: train(&inputs, |x| Ok(lacuna_kernels::swiglu(Backend::cpu(), &x[0], &x[1])?)),
        reference: train(&inputs, |x| Ok(reference::swiglu(&x[0], &x[1])?)),
        bytes: bytes_of(6 * ROWS * INTERMEDIATE),
        flop: 0.0,
    })
}

fn embedding() -> Result<Case> {
    let inputs: Rc<[Var]> = [var(&[VOCAB, HIDDEN], 1)?].into();
    let ids: Vec<u32> = (0..ROWS as u32).map(|row| row * 2_654_435 % VOCAB as u32).collect();
    let ids = Tensor::from_vec(ids, (BATCH, 2 * SEQ), &Device::Cpu)?;
    let slow_ids = ids.clone();
    Ok(Case {
        fast: train(&inputs, move |x| Ok(lacuna_kernels::embedding(Backend::cpu(), &x[0], &ids)?)),
        reference: train(&inputs, move |x| Ok(reference::embedding(&x[0], &slow_ids)?)),
        // Rows out, their gradients in, the table's gradient out.
        bytes: bytes_of((3 * ROWS + VOCAB) * HIDDEN),
        flop: 0.0,
    })
}

fn linear() -> Result<Case> {
    let inputs: Rc<[Var]> = [var(&[ROWS, HIDDEN], 1)?, var(&[INTERMEDIATE, HIDDEN], 2)?].into();
    Ok(Case {
        fast: train(&inputs, |x| Ok(lacuna_kernels::linear(Backend::cpu(), &x[0], &x[1])?)),
        reference: train(&inputs, |x| Ok(reference::linear(&x[0], &x[1])?)),
        bytes: bytes_of(2 * (ROWS * HIDDEN + ROWS * INTERMEDIATE + INTERMEDIATE * HIDDEN)),
        flop: 3.0 * 2.0 * (ROWS * HIDDEN * INTERMEDIATE) as f64,
    })
}

/// Half of the noisy tokens are masked, as they are on average.
fn cross_entropy() -> Result<Case> {
    let rows = BATCH * SEQ / 2;
    let inputs: Rc<[Var]> = [var(&[rows, HIDDEN], 1)?, var(&[VOCAB, HIDDEN], 2)?].into();
    let targets: Rc<[u32]> = (0..rows as u32).map(|row| row * 7919 % VOCAB as u32).collect();
    let weights: Rc<[f32]> = (0..rows).map(|row| 1.0 + (row % 4) as f32).collect();
    let (slow_targets, slow_weights) = (targets.clone(), weights.clone());
    Ok(Case {
        fast: train(&inputs, move |x| {
            Ok(lacuna_kernels::linear_cross_entropy(
                Backend::cpu(),
                &x[0],
                &x[1],
                &targets,
                &weights,
            )?
            .loss)
        }),
        reference: train(&inputs, move |x| {
            Ok(reference::linear_cross_entropy(&x[0], &x[1], &slow_targets, &slow_weights)?.loss)
        }),
        bytes: bytes_of(2 * (rows + VOCAB) * HIDDEN),
        flop: 3.0 * 2.0 * (rows * HIDDEN * VOCAB) as f64,
    })
}

/// One step over 14 M parameters in 14 matrices, against the same step from plain tensor operations.
fn adamw() -> Result<Case> {
    const MATRICES: usize = 14;
    let shape = [1024, 1024];
    let config = AdamWConfig::default();
    let gradients: Rc<[Tensor]> =
        (0..MATRICES).map(|index| values(&shape, index as u64)).collect::<Result<_>>()?;
    let start = values(&shape, 99)?;
    let parameters = || -> Result<Vec<Var>> {
        (0..MATRICES).map(|_| Ok(Var::from_tensor(&start.copy()?)?)).collect()
    };
    let learning_rate = 1e-3;
    let (fast_vars, slow_vars) = (parameters()?, parameters()?);
    let handles = fast_vars.iter().cloned().map(Parameter::new).collect();
    let optimizer = std::cell::RefCell::new(AdamW::new(handles, config)?);
    let fast_gradients = gradients.clone();
    let zeros = || (0..MATRICES).map(|_| Ok(start.zeros_like()?)).collect::<Result<Vec<_>>>();
    let state = std::cell::RefCell::new((0, zeros()?, zeros()?));
    Ok(Case {
        fast: Box::new(move || {
            optimizer.borrow_mut().step_tensors(Backend::cpu(), &fast_gradients, learning_rate)?;
            Ok(vec![fast_vars[0].as_tensor().clone()])
        }),
        reference: Box::new(move || {
            let (step, first, second) = &mut *state.borrow_mut();
            *step += 1;
            composed_adamw(&config, *step, learning_rate, &slow_vars, &gradients, first, second)?;
            Ok(vec![slow_vars[0].as_tensor().clone()])
        }),
        // Parameter and both moments in and out, gradient in.
        bytes: bytes_of(7 * MATRICES * shape[0] * shape[1]),
        flop: 0.0,
    })
}

fn composed_adamw(
    config: &AdamWConfig,
    step: i32,
    learning_rate: f64,
    parameters: &[Var],
    gradients: &[Tensor],
    first: &mut [Tensor],
    second: &mut [Tensor],
) -> Result<()> {
    let mut square_sum = 0f64;
    for gradient in gradients {
        square_sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let clip = config.clip_norm.map_or(1.0, |most| (most / (square_sum.sqrt() + 1e-6)).min(1.0));
    let (first_scale, second_scale) =
        (1.0 - config.beta1.powi(step), 1.0 - config.beta2.powi(step));
    for (index, parameter) in parameters.iter().enumerate() {
        let gradient = (&gradients[index] * clip)?;
        first[index] = ((&first[index] * config.beta1)? + (&gradient * (1.0 - config.beta1))?)?;
        second[index] =
            ((&second[index] * config.beta2)? + (gradient.sqr()? * (1.0 - config.beta2))?)?;
        let root = ((&second[index] / second_scale)?.sqrt()? + config.eps)?;
        let update = ((&first[index] / first_scale)? / root)?;
        let decayed = (parameter.as_tensor() * (1.0 - learning_rate * config.weight_decay))?;
        parameter.set(&(decayed - (update * learning_rate)?)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_relative_to_the_largest_expected_value() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let error = largest_error(&[tensor(&[1.0, 4.5])], &[tensor(&[1.0, 4.0])]).unwrap();
        assert_eq!(error, 0.125);
        assert!(largest_error(&[tensor(&[1.0])], &[]).is_err());
        assert!(largest_error(&[tensor(&[f32::NAN])], &[tensor(&[1.0])]).is_err());
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::BTreeSet<_> = all().iter().map(|bench| bench.name).collect();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn composed_adamw_takes_a_first_step_of_the_learning_rate() {
        let parameter = Var::new(&[1f32, -1.0], &Device::Cpu).unwrap();
        let gradient = Tensor::new(&[0.1f32, -0.2], &Device::Cpu).unwrap();
        let config = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
        let mut moments = [gradient.zeros_like().unwrap()];
        let mut squares = moments.clone();
        composed_adamw(
            &config,
            1,
            0.25,
            std::slice::from_ref(&parameter),
            &[gradient],
            &mut moments,
            &mut squares,
        )
        .unwrap();
        let moved: Vec<f32> = parameter.to_vec1().unwrap();
        assert!((moved[0] - 0.75).abs() < 1e-6 && (moved[1] + 0.75).abs() < 1e-6, "{moved:?}");
    }
}
