//! Computes the dense layer on CPU tensors of f32.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::gemm::{Matrix, product, product_added};
use crate::raw::{elements, filled_at_once, slice};

pub(super) fn linear(
    x: &Tensor,
    weight: &Tensor,
    rows: usize,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear { rows, inner, out, shape })
}

/// The dense layer as candle records it: y = x · wᵀ, dx = dy · w, dw = dyᵀ · x.
struct Linear {
    rows: usize,
    inner: usize,
    out: usize,
    shape: Vec<usize>,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Matrix::new(slice(x, x_layout)?, self.rows, self.inner);
        let weight = Matrix::new(slice(weight, weight_layout)?, self.out, self.inner);
        let y = filled_at_once(self.rows * self.out, |y| product(x, weight.t(), y));
        Ok((CpuStorage::F32(y), Shape::from(self.shape.as_slice())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of = |wanted: &Tensor, gradient: &dyn Fn() -> Result<Tensor>| {
            wanted.track_op().then(|| gradient()?.reshape(wanted.shape())).transpose()
        };
        let (rows, shape) = (self.rows, x.dims());
        let dx = of(x, &|| linear_input_gradient(&[(dy, weight)], rows, shape.to_vec()))?;
        let dw = of(weight, &|| linear_weight_gradient(dy, x, [rows, self.out, self.inner]))?;
        Ok((dx, dw))
    }
}

pub(super) fn linear_input_gradient(
    terms: &[(&Tensor, &Tensor)],
    rows: usize,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let mut sum: Option<Vec<f32>> = None;
    for (dy, weight) in terms {
        let (out, inner) = weight.dims2()?;
        let (dy, weight) = (dy.contiguous()?, weight.contiguous()?);
        let [dy, weight] = elements([&dy, &weight])?;
        let (dy, weight) = (Matrix::new(&dy, rows, out), Matrix::new(&weight, out, inner));
        match &mut sum {
            None => sum = Some(filled_at_once(rows * inner, |dx| product(dy, weight, dx))),
            Some(dx) => product_added(dy, weight, dx),
        }
    }
    Tensor::from_vec(sum.unwrap_or_default(), shape, terms[0].0.device())
}

pub(super) fn linear_weight_gradient(
    dy: &Tensor,
    x: &Tensor,
    [rows, out, inner]: [usize; 3],
) -> Result<Tensor> {
    let device = dy.device();
    let (dy, x) = (dy.contiguous()?, x.contiguous()?);
    let dw = {
        let [dy, x] = elements([&dy, &x])?;
        let (dy, x) = (Matrix::new(&dy, rows, out), Matrix::new(&x, rows, inner));
        filled_at_once(out * inner, |dw| product(dy.t(), x, dw))
    };
    Tensor::from_vec(dw, (out, inner), device)
}
