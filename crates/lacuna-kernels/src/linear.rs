//! The dense layer: three products, none of which copies or transposes an operand.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::backend::Backend;
use crate::cpu::{slice, with, written};
use crate::gemm::{Matrix, product};
use crate::reference;

/// x · weightᵀ; differentiable in both. x: `[.., in]`, weight: `[out, in]` → `[.., out]`.
///
/// # Errors
/// If the inner dimensions differ.
pub fn linear(backend: Backend, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, shape) = reference::check_linear(x, weight)?;
    let backend = backend.serving(&[x, weight]);
    if backend == Backend::Reference {
        return reference::linear(x, weight);
    }
    let (out, inner) = weight.dims2()?;
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear { backend, rows, inner, out, shape })
}

/// y = x · wᵀ, dx = dy · w, dw = dyᵀ · x.
struct Linear {
    backend: Backend,
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
        let write = |y: &mut [f32]| product(x, weight.t(), y, false);
        // SAFETY: a product that does not add writes every element and reads none.
        let y = unsafe { written(self.rows * self.out, write) };
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
        let dx = of(x, &|| linear_input_gradient(self.backend, &[(dy, weight)]))?;
        let dw = of(weight, &|| linear_weight_gradient(self.backend, dy, x))?;
        Ok((dx, dw))
    }
}

/// The gradient of an input that several layers read: Σ dy · weight over the (dy, weight) pairs.
///
/// dy: `[.., out]`, weight: `[out, in]`, outs may differ → `[.., in]`. Records nothing.
///
/// # Errors
/// If there is no pair, or shapes disagree.
pub fn linear_input_gradient(backend: Backend, terms: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let Some((dy, weight)) = terms.first() else {
        bail!("linear: an input that no layer reads has no gradient")
    };
    let mut shape = dy.dims().to_vec();
    let inner = weight.dim(1)?;
    let Some(last) = shape.last_mut() else { bail!("linear: dy is a scalar, expected [.., out]") };
    *last = inner;
    let rows = shape.iter().product::<usize>() / inner.max(1);
    for (dy, weight) in terms {
        let (out, columns) = weight.dims2()?;
        if columns != inner || dy.elem_count() != rows * out {
            bail!("linear: dy is {:?} for weight {:?} and {rows} rows", dy.dims(), weight.dims())
        }
    }
    let tensors: Vec<_> = terms.iter().flat_map(|(dy, weight)| [*dy, *weight]).collect();
    if backend.serving(&tensors) == Backend::Reference {
        return reference::linear_input_gradient(terms)?.reshape(shape);
    }
    let mut dx = Vec::new();
    for (dy, weight) in terms {
        let out = weight.dim(0)?;
        with(&dy.contiguous()?, |dy| {
            with(&weight.contiguous()?, |weight| {
                let (dy, weight) = (Matrix::new(dy, rows, out), Matrix::new(weight, out, inner));
                if dx.is_empty() {
                    let write = |dx: &mut [f32]| product(dy, weight, dx, false);
                    // SAFETY: a product that does not add writes every element and reads none.
                    dx = unsafe { written(rows * inner, write) };
                } else {
                    product(dy, weight, &mut dx, true);
                }
                Ok(())
            })
        })?;
    }
    Tensor::from_vec(dx, shape, dy.device())
}

/// The gradient of a weight: dyᵀ · x. dy: `[.., out]`, x: `[.., in]` → `[out, in]`. Records nothing.
///
/// # Errors
/// If the numbers of rows differ.
pub fn linear_weight_gradient(backend: Backend, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (&[.., out], &[.., inner]) = (dy.dims(), x.dims()) else {
        bail!("linear: dy or x is a scalar, expected [.., out] and [.., in]")
    };
    let rows = dy.elem_count() / out.max(1);
    if rows * inner != x.elem_count() {
        bail!("linear: dy is {:?} and x {:?}, expected as many rows", dy.dims(), x.dims())
    }
    if backend.serving(&[dy, x]) == Backend::Reference {
        return reference::linear_weight_gradient(dy, x);
    }
    let dw = with(&dy.contiguous()?, |dy| {
        with(&x.contiguous()?, |x| {
            let (dy, x) = (Matrix::new(dy, rows, out), Matrix::new(x, rows, inner));
            let write = |dw: &mut [f32]| product(dy.t(), x, dw, false);
            // SAFETY: a product that does not add writes every element and reads none.
            Ok(unsafe { written(out * inner, write) })
        })
    })?;
    Tensor::from_vec(dw, (out, inner), dy.device())
}
