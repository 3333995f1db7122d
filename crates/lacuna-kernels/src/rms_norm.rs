//! Root-mean-square normalisation.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::backend::{Backend, Isa};
use crate::cpu::{SERIAL, shaped, slice, with, written};
use crate::reference;
use crate::simd::{dot_body, madd, simd};

/// x / sqrt(mean(x²) + eps) · weight over the last dimension; differentiable in both.
///
/// # Errors
/// If `weight` is not `[h]`.
pub fn rms_norm(backend: Backend, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let h = weight.dims1()?;
    if x.dims().last() != Some(&h) {
        bail!("rms norm: x is {:?}, expected [.., {h}] as the weight", x.dims())
    }
    let Backend::Cpu(isa) = backend.serving_filled(&[x, weight]) else {
        return reference::rms_norm(x, weight, eps);
    };
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { isa, h, eps: eps as f32 })
}

/// With r = 1 / sqrt(mean(x²) + eps) and g = dy · weight:
/// dx = r · g − x · r³ · mean(g · x), dweight = Σ over rows of dy · x · r.
struct RmsNorm {
    isa: Isa,
    h: usize,
    eps: f32,
}

/// Rows per task. A constant, so that dweight's partial sums don't depend on the thread count.
const ROWS: usize = 64;

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let n = ROWS * self.h;
        let write = |y: &mut [f32]| match y.len() < SERIAL {
            true => normalise(self.isa, x, weight, self.eps, y),
            false => y
                .par_chunks_mut(n)
                .zip(x.par_chunks(n))
                .for_each(|(y, x)| normalise(self.isa, x, weight, self.eps, y)),
        };
        // SAFETY: whole rows, each of which `normalise` writes.
        let y = unsafe { written(x.len(), write) };
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, d_weight) = gradients(self.isa, x, weight, self.eps, dy, None)?;
        Ok((Some(dx), Some(d_weight)))
    }
}

/// The gradients of x and weight. `carried`, if any, is added to that of x: what reaches x by another
/// way. Records nothing.
///
/// # Errors
/// If shapes disagree.
pub fn rms_norm_backward(
    backend: Backend,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    dy: &Tensor,
    carried: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let h = weight.dims1()?;
    let same = dy.dims() == x.dims() && carried.is_none_or(|c| c.dims() == x.dims());
    if x.dims().last() != Some(&h) || !same {
        bail!("rms norm: x is {:?}, dy {:?}, weight [{h}]", x.dims(), dy.dims())
    }
    let Backend::Cpu(isa) = backend.serving_filled(&[x, weight, dy, carried.unwrap_or(x)]) else {
        return reference::rms_norm_backward(x, weight, eps, dy, carried);
    };
    gradients(isa, &x.contiguous()?, &weight.contiguous()?, eps as f32, dy, carried)
}

fn gradients(
    isa: Isa,
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    dy: &Tensor,
    carried: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let h = weight.elem_count();
    let dy = dy.contiguous()?;
    let carried = carried.map(Tensor::contiguous).transpose()?;
    let n = ROWS * h;
    let tasks = x.elem_count().div_ceil(n);
    let mut partial = vec![0f32; tasks * h];
    let dx = with(x, |x| {
        with(weight, |weight| {
            with(&dy, |dy| {
                let mut run = |carried: Option<&[f32]>| {
                    let partial = &mut partial;
                    let write = |dx: &mut [f32]| {
                        let tasks = dx.par_chunks_mut(n).zip(x.par_chunks(n)).zip(dy.par_chunks(n));
                        tasks.zip(partial.par_chunks_mut(h)).enumerate().for_each(
                            |(task, (((dx, x), dy), d_weight))| {
                                differentiate(isa, x, weight, eps, dy, dx, d_weight);
                                if let Some(carried) = carried {
                                    let carried = &carried[task * n..];
                                    dx.iter_mut().zip(carried).for_each(|(dx, c)| *dx += c);
                                }
                            },
                        );
                    };
                    // SAFETY: whole rows, each of which `differentiate` writes before it reads it.
                    Ok(unsafe { written(x.len(), write) })
                };
                match &carried {
                    Some(carried) => with(carried, |carried| run(Some(carried))),
                    None => run(None),
                }
            })
        })
    })?;
    let mut d_weight = vec![0f32; h];
    for part in partial.chunks_exact(h) {
        d_weight.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    Ok((shaped(dx, x)?, shaped(d_weight, weight)?))
}

/// x + y and its [`rms_norm`] in one sweep. Records nothing.
///
/// # Errors
/// If shapes disagree.
pub fn add_rms_norm(
    backend: Backend,
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let h = weight.dims1()?;
    if x.dims().last() != Some(&h) || x.dims() != y.dims() {
        bail!("rms norm: x is {:?}, y {:?}, weight [{h}]", x.dims(), y.dims())
    }
    let Backend::Cpu(isa) = backend.serving_filled(&[x, y, weight]) else {
        let sum = (x + y)?.detach();
        let normed = reference::rms_norm(&sum, &weight.detach(), eps)?;
        return Ok((sum, normed));
    };
    let n = ROWS * h;
    let mut normed = Vec::new();
    let sum = with(&x.contiguous()?, |x| {
        with(&y.contiguous()?, |y| {
            with(&weight.contiguous()?, |weight| {
                let write_both = |sum: &mut [f32]| {
                    let write = |normed: &mut [f32]| {
                        let outputs = sum.par_chunks_mut(n).zip(normed.par_chunks_mut(n));
                        let tasks = outputs.zip(x.par_chunks(n)).zip(y.par_chunks(n));
                        tasks.for_each(|(((sum, normed), x), y)| {
                            let terms = x.iter().zip(y);
                            sum.iter_mut().zip(terms).for_each(|(sum, (x, y))| *sum = x + y);
                            normalise(isa, sum, weight, eps as f32, normed);
                        });
                    };
                    // SAFETY: whole rows, each of which `normalise` writes.
                    normed = unsafe { written(x.len(), write) };
                };
                // SAFETY: every element is assigned before `normalise` reads it.
                Ok(unsafe { written(x.len(), write_both) })
            })
        })
    })?;
    Ok((shaped(sum, x)?, shaped(normed, x)?))
}

simd!(fn normalise(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) = normalise_body);

#[inline(always)]
fn normalise_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let h = weight.len();
    for (x, y) in x.chunks_exact(h).zip(y.chunks_exact_mut(h)) {
        let r = 1. / (dot_body::<FMA>(x, x) / h as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * r * w;
        }
    }
}

simd!(
    fn differentiate(
        x: &[f32],
        weight: &[f32],
        eps: f32,
        dy: &[f32],
        dx: &mut [f32],
        d_weight: &mut [f32],
    ) = differentiate_body
);

#[inline(always)]
fn differentiate_body<const FMA: bool>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    d_weight: &mut [f32],
) {
    let h = weight.len();
    let rows = x.chunks_exact(h).zip(dy.chunks_exact(h)).zip(dx.chunks_exact_mut(h));
    for ((x, dy), dx) in rows {
        let r = 1. / (dot_body::<FMA>(x, x) / h as f32 + eps).sqrt();
        for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
            *dx = dy * w;
        }
        let pull = dot_body::<FMA>(dx, x) * r * r * r / h as f32;
        let sums = d_weight.iter_mut().zip(dy);
        for ((dx, x), (sum, dy)) in dx.iter_mut().zip(x).zip(sums) {
            *dx = madd::<FMA>(*dx, r, -x * pull);
            *sum = madd::<FMA>(dy * x, r, *sum);
        }
    }
}
