//! Divides rows by their root mean square, on CPU tensors of f32.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::backend::Isa;
use crate::raw::{RowsToWrite, Slots, elements, filled, filled_and, shaped, slice, write};
use crate::simd::{dot_body, madd, simd};

pub(super) fn rms_norm(isa: Isa, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let h = weight.elem_count();
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { isa, h, eps: eps as f32 })
}

/// Root-mean-square normalisation as candle records it. With r = 1 / sqrt(mean(x²) + eps) and g = dy · weight:
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
        let [y] = filled(x.len(), n, |task, [y]| {
            [normalise(self.isa, &x[task * n..][..y.len()], weight, self.eps, y)]
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, d_weight) = rms_norm_backward(self.isa, x, weight, self.eps, dy, None)?;
        Ok((Some(dx), Some(d_weight)))
    }
}

pub(super) fn rms_norm_backward(
    isa: Isa,
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    dy: &Tensor,
    carried: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (h, like) = (weight.elem_count(), (x, weight));
    let (x, weight, dy) = (x.contiguous()?, weight.contiguous()?, dy.contiguous()?);
    let carried = carried.map(Tensor::contiguous).transpose()?;
    let carried = carried.as_ref().map(|carried| elements([carried])).transpose()?;
    let carried = carried.as_ref().map(|[carried]| &**carried);
    let [x, weight, dy] = elements([&x, &weight, &dy])?;
    let (x, weight, dy): (&[f32], &[f32], &[f32]) = (&x, &weight, &dy);
    let n = ROWS * h;
    let ([dx], partial) = filled_and(x.len(), n, |task, [dx]| {
        let own = || task * n..task * n + dx.len();
        let mut d_weight = vec![0f32; h];
        let (x, dy, carried) = (&x[own()], &dy[own()], carried.map(|c| &c[own()]));
        let dx = differentiate(isa, x, weight, eps, dy, dx, &mut d_weight);
        if let Some(carried) = carried {
            dx.iter_mut().zip(carried).for_each(|(dx, c)| *dx += c);
        }
        ([dx], d_weight)
    });
    let mut d_weight = vec![0f32; h];
    for part in partial {
        d_weight.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    Ok((shaped(dx, like.0)?, shaped(d_weight, like.1)?))
}

pub(super) fn add_rms_norm(
    isa: Isa,
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    let like = x;
    let (x, y, weight) = (x.contiguous()?, y.contiguous()?, weight.contiguous()?);
    let [x, y, weight] = elements([&x, &y, &weight])?;
    let (x, y, weight): (&[f32], &[f32], &[f32]) = (&x, &y, &weight);
    let n = ROWS * weight.len();
    let [sum, normed] = filled(x.len(), n, |task, [sum, normed]| {
        let own = || task * n..task * n + sum.len();
        let (x, y) = (&x[own()], &y[own()]);
        let sum = write(sum, x.iter().zip(y).map(|(x, y)| x + y));
        let normed = normalise(isa, sum, weight, eps, normed);
        [sum, normed]
    });
    Ok((shaped(sum, like)?, shaped(normed, like)?))
}

simd!(
    fn normalise<'a>(x: &[f32], weight: &[f32], eps: f32, y: &'a mut Slots) -> &'a mut [f32] =
        normalise_body
);

#[inline(always)]
fn normalise_body<'a, const FMA: bool>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    y: &'a mut Slots,
) -> &'a mut [f32] {
    let h = weight.len();
    let mut rows = RowsToWrite::new(y, h);
    for x in x.chunks_exact(h) {
        let r = 1. / (dot_body::<FMA>(x, x) / h as f32 + eps).sqrt();
        rows.write(x.iter().zip(weight).map(|(x, w)| x * r * w));
    }
    rows.floats()
}

simd!(
    fn differentiate<'a>(
        x: &[f32],
        weight: &[f32],
        eps: f32,
        dy: &[f32],
        dx: &'a mut Slots,
        d_weight: &mut [f32],
    ) -> &'a mut [f32] = differentiate_body
);

#[inline(always)]
fn differentiate_body<'a, const FMA: bool>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &'a mut Slots,
    d_weight: &mut [f32],
) -> &'a mut [f32] {
    let h = weight.len();
    let mut rows = RowsToWrite::new(dx, h);
    for (x, dy) in x.chunks_exact(h).zip(dy.chunks_exact(h)) {
        let r = 1. / (dot_body::<FMA>(x, x) / h as f32 + eps).sqrt();
        let dx = rows.write(dy.iter().zip(weight).map(|(dy, w)| dy * w));
        let pull = dot_body::<FMA>(dx, x) * r * r * r / h as f32;
        let sums = d_weight.iter_mut().zip(dy);
        for ((dx, x), (sum, dy)) in dx.iter_mut().zip(x).zip(sums) {
            *dx = madd::<FMA>(*dx, r, -x * pull);
            *sum = madd::<FMA>(dy * x, r, *sum);
        }
    }
    rows.floats()
}
