//! Computes the dense layer and its gradients: three products, none of which copies or transposes an operand.

use candle_core::{Result, Tensor, bail};

use crate::backend::{Backend, Serving};

mod cpu;
pub(crate) mod reference;

/// The dense layer: x · weightᵀ, differentiable in both. x: `[.., in]`, weight: `[out, in]` → `[.., out]`.
///
/// # Errors
/// If the inner dimensions differ.
pub fn linear(backend: Backend, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, shape) = check(x, weight)?;
    match backend.serving(&[x, weight]) {
        Serving::Reference => reference::linear(x, weight),
        Serving::Cpu(_) => cpu::linear(x, weight, rows, shape),
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
    match backend.serving(&tensors) {
        Serving::Reference => reference::linear_input_gradient(terms)?.reshape(shape),
        Serving::Cpu(_) => cpu::linear_input_gradient(terms, rows, shape),
    }
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
    match backend.serving(&[dy, x]) {
        Serving::Reference => reference::linear_weight_gradient(dy, x),
        Serving::Cpu(_) => cpu::linear_weight_gradient(dy, x, [rows, out, inner]),
    }
}

/// Checks the shapes; returns the number of rows of x and the shape of x · weightᵀ.
fn check(x: &Tensor, weight: &Tensor) -> Result<(usize, Vec<usize>)> {
    let (out, inner) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut() else {
        bail!("linear: x is a scalar, expected [.., {inner}]")
    };
    if *last != inner {
        bail!("linear: x is {:?}, expected [.., {inner}] for weight {:?}", x.dims(), weight.dims())
    }
    *last = out;
    Ok((x.dims()[..x.rank() - 1].iter().product(), shape))
}
