//! Updates a parameter and both of its moments in one parallel pass, on the CPU.

use candle_core::{CpuStorage, DType, Result, Tensor, Var, bail};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{AdamWUpdate, Moments};
use crate::backend::Isa;
use crate::raw::{elements, lend, lend_storage};
use crate::simd::{dot_body, madd, simd};

/// Elements per task; a constant, so that sums come out the same for any number of threads.
pub(super) const CHUNK: usize = 64 << 10;

pub(super) fn adamw(
    isa: Isa,
    parameter: &Var,
    gradient: &Tensor,
    moments: &Moments,
    update: &AdamWUpdate,
) -> Result<()> {
    let gradient = gradient.to_dtype(DType::F32)?.contiguous()?;
    let [gradient] = elements([&gradient])?;
    let update = Scalars::from(*update);
    let Moments { first, second, master } = moments;
    with_master(parameter, master.as_ref(), |p| {
        lend(first, |m| {
            lend(second, |v| {
                lend(p, |p| {
                    step_all(isa, p, &gradient, m, v, update);
                    Ok(())
                })
            })
        })
    })
}

/// Steps a parameter, or its f32 copy, which it is then the rounding of.
pub(super) fn with_master(
    parameter: &Var,
    master: Option<&Tensor>,
    step: impl FnOnce(&Tensor) -> Result<()>,
) -> Result<()> {
    let Some(master) = master else { return step(parameter) };
    step(master)?;
    let [master] = elements([master])?;
    lend_storage(parameter, |storage, own| {
        match storage {
            CpuStorage::BF16(p) => round_all(&master, &mut p[own], bf16::from_f32),
            CpuStorage::F16(p) => round_all(&master, &mut p[own], f16::from_f32),
            CpuStorage::F32(p) => {
                round_all(&master, &mut p[own], |value| bf16::from_f32(value).to_f32());
            }
            _ => bail!("adamw: a parameter changed its type, expected the one it began with"),
        }
        Ok(())
    })
}

fn round_all<T: Send>(from: &[f32], to: &mut [T], round: fn(f32) -> T) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = round(*from));
    });
}

fn step_all(isa: Isa, p: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], update: Scalars) {
    p.par_chunks_mut(CHUNK)
        .zip(grad.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
        .for_each(|((p, grad), (m, v))| step(isa, p, grad, m, v, update));
}

/// [`AdamWUpdate`] in f32, with constant factors multiplied beforehand.
#[derive(Clone, Copy)]
pub(super) struct Scalars {
    beta1: f32,
    beta2: f32,
    /// (1 − β₁) · clip factor.
    gain1: f32,
    /// The clip factor by itself.
    scale: f32,
    /// 1 − β₂.
    gain2: f32,
    eps: f32,
    step_size: f32,
    root_scale: f32,
    shrink: f32,
}

impl From<AdamWUpdate> for Scalars {
    fn from(u: AdamWUpdate) -> Self {
        Self {
            beta1: u.beta1 as f32,
            beta2: u.beta2 as f32,
            gain1: ((1. - u.beta1) * u.grad_scale) as f32,
            scale: u.grad_scale as f32,
            gain2: (1. - u.beta2) as f32,
            eps: u.eps as f32,
            step_size: u.step_size as f32,
            root_scale: u.root_scale as f32,
            shrink: u.shrink as f32,
        }
    }
}

simd!(fn step(p: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], u: Scalars) = step_body);

#[inline(always)]
pub(super) fn step_body<const FMA: bool>(
    p: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    u: Scalars,
) {
    for ((p, g), (m, v)) in p.iter_mut().zip(grad).zip(m.iter_mut().zip(v)) {
        // The factor goes in before squaring: unclipped squares could overflow.
        let clipped = g * u.scale;
        *m = madd::<FMA>(*m, u.beta1, g * u.gain1);
        *v = madd::<FMA>(*v, u.beta2, clipped * clipped * u.gain2);
        let root = madd::<FMA>(v.sqrt(), u.root_scale, u.eps);
        *p = madd::<FMA>(*p, u.shrink, -(u.step_size * *m / root));
    }
}

pub(super) fn moving_average(mean: &Tensor, value: &Tensor, decay: f64) -> Result<()> {
    let [value] = elements([value])?;
    let (kept, taken) = (decay as f32, (1. - decay) as f32);
    lend(mean, |mean| {
        mean.par_chunks_mut(CHUNK).zip(value.par_chunks(CHUNK)).for_each(|(mean, value)| {
            mean.iter_mut().zip(value).for_each(|(mean, value)| {
                *mean = kept * *mean + taken * value;
            });
        });
        Ok(())
    })
}

/// Σ x²: each block of 4096 elements is summed in f32, the blocks' sums are added in f64.
pub(super) fn sum_of_squares(isa: Isa, x: &Tensor) -> Result<f64> {
    let x = x.contiguous()?;
    let [x] = elements([&x])?;
    let parts = x.par_chunks(CHUNK).map(|x| squares(isa, x)).collect::<Vec<_>>();
    Ok(parts.iter().sum())
}

simd!(fn squares(x: &[f32]) -> f64 = squares_body);

#[inline(always)]
fn squares_body<const FMA: bool>(x: &[f32]) -> f64 {
    // This is a loop because in an iterator's closure the product would be compiled for any processor.
    let mut sum = 0.;
    for block in x.chunks(4096) {
        sum += f64::from(dot_body::<FMA>(block, block));
    }
    sum
}
