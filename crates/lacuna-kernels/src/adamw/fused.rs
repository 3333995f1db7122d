//! One pass over parameter, gradient and both moments, in parallel, on the CPU.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor, Var, bail,
};
use half::{bf16, f16};
use rayon::prelude::*;

use super::Update;
use crate::Isa;
use crate::cpu::with;
use crate::simd::{dot_body, madd, simd};

/// Elements per task; a constant, so that sums come out the same for any number of threads.
const CHUNK: usize = 64 << 10;

/// f32 moments, and the f32 master of a half-precision parameter.
#[derive(Debug)]
pub(super) struct Moments {
    m: Vec<f32>,
    v: Vec<f32>,
    master: Option<Vec<f32>>,
}

impl Moments {
    pub(super) fn new(m: &Tensor, v: &Tensor, master: Option<&Tensor>) -> Result<Self> {
        let values = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        Ok(Self { m: values(m)?, v: values(v)?, master: master.map(values).transpose()? })
    }

    pub(super) fn state(&self, shape: &Shape) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let tensor = |values: &Vec<f32>| Tensor::from_slice(values, shape, &Device::Cpu);
        let master = self.master.as_ref().map(tensor).transpose()?;
        Ok((tensor(&self.m)?, tensor(&self.v)?, master))
    }

    pub(super) fn update(
        &mut self,
        isa: Isa,
        var: &Var,
        grad: &Tensor,
        update: Update,
    ) -> Result<()> {
        let grad = grad.to_dtype(DType::F32)?.contiguous()?;
        with(&grad, |grad| {
            var.inplace_op1(&Step { isa, moments: Mutex::new(self), grad, update: update.into() })
        })
    }
}

/// candle hands out an operation's target only; everything else rides in the operation.
struct Step<'a> {
    isa: Isa,
    moments: Mutex<&'a mut Moments>,
    grad: &'a [f32],
    update: Scalars,
}

impl InplaceOp1 for Step<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("adamw: a parameter is strided, expected a contiguous one")
        };
        let mut moments = self.moments.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Moments { m, v, master } = &mut **moments;
        let (isa, grad, update) = (self.isa, self.grad, self.update);
        match (storage, master) {
            (CpuStorage::F32(p), _) => step_all(isa, &mut p[start..end], grad, m, v, update),
            (CpuStorage::BF16(p), Some(master)) => {
                step_all(isa, master, grad, m, v, update);
                round_all(master, &mut p[start..end], bf16::from_f32);
            }
            (CpuStorage::F16(p), Some(master)) => {
                step_all(isa, master, grad, m, v, update);
                round_all(master, &mut p[start..end], f16::from_f32);
            }
            _ => bail!("adamw: a parameter changed its type, expected the one it began with"),
        }
        Ok(())
    }
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

/// [`Update`] in f32, the parts multiplied out.
#[derive(Clone, Copy)]
struct Scalars {
    beta1: f32,
    beta2: f32,
    /// (1 − β₁) · clip factor; the factor by itself.
    gain1: f32,
    scale: f32,
    gain2: f32,
    eps: f32,
    step_size: f32,
    root_scale: f32,
    shrink: f32,
}

impl From<Update> for Scalars {
    fn from(u: Update) -> Self {
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
fn step_body<const FMA: bool>(
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

/// Σ x², blocks of 4096 in f32, everything above in f64.
pub(super) fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    let parts = x.par_chunks(CHUNK).map(|x| squares(isa, x)).collect::<Vec<_>>();
    parts.iter().sum()
}

simd!(fn squares(x: &[f32]) -> f64 = squares_body);

#[inline(always)]
fn squares_body<const FMA: bool>(x: &[f32]) -> f64 {
    // A loop: in an iterator's closure the product would be compiled for any processor.
    let mut sum = 0.;
    for block in x.chunks(4096) {
        sum += f64::from(dot_body::<FMA>(block, block));
    }
    sum
}
