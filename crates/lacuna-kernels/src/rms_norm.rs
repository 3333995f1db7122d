//! Root-mean-square normalisation.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{SERIAL, is_f32, slice, with};
use crate::reference;
use crate::simd::{dot_body, madd, simd};

/// x / sqrt(mean(x²) + eps) · weight over the last dimension; differentiable in both.
///
/// # Errors
/// If `weight` is not `[h]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let h = weight.dims1()?;
    if x.dims().last() != Some(&h) {
        bail!("rms norm: x is {:?}, expected [.., {h}] as the weight", x.dims())
    }
    if !is_f32(x) || !is_f32(weight) || x.elem_count() == 0 {
        return reference::rms_norm(x, weight, eps);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { h, eps: eps as f32 })
}

/// With r = 1 / sqrt(mean(x²) + eps) and g = dy · weight:
/// dx = r · g − x · r³ · mean(g · x), dweight = Σ over rows of dy · x · r.
struct RmsNorm {
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
        let mut y = vec![0f32; x.len()];
        if x.len() < SERIAL {
            normalise(x, weight, self.eps, &mut y);
        } else {
            let n = ROWS * self.h;
            y.par_chunks_mut(n)
                .zip(x.par_chunks(n))
                .for_each(|(y, x)| normalise(x, weight, self.eps, y));
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let mut dx = vec![0f32; x.elem_count()];
        let mut d_weight = vec![0f32; self.h];
        with(x, |x| {
            with(weight, |weight| {
                with(&dy, |dy| {
                    let n = ROWS * self.h;
                    let partial = dx
                        .par_chunks_mut(n)
                        .zip(x.par_chunks(n))
                        .zip(dy.par_chunks(n))
                        .map(|((dx, x), dy)| {
                            let mut d_weight = vec![0f32; self.h];
                            differentiate(x, weight, self.eps, dy, dx, &mut d_weight);
                            d_weight
                        })
                        .collect::<Vec<_>>();
                    for part in partial {
                        d_weight.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
                    }
                    Ok(())
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(Tensor::from_vec(d_weight, self.h, weight.device())?)))
    }
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
