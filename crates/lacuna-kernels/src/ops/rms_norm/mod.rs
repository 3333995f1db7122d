//! Divides rows by their root mean square (RMSNorm).

use candle_core::{Result, Tensor, bail};

use crate::backend::{Backend, Serving};

mod cpu;
#[cfg(feature = "metal")]
mod metal;
pub(crate) mod reference;

/// Root-mean-square normalisation: x / sqrt(mean(x²) + eps) · weight over the last dimension, differentiable in both.
/// x: `[.., h]`, weight: `[h]`.
///
/// # Errors
/// If `weight` is not `[h]`.
pub fn rms_norm(backend: Backend, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let h = weight.dims1()?;
    if x.dims().last() != Some(&h) {
        bail!("rms norm: x is {:?}, expected [.., {h}] as the weight", x.dims())
    }
    #[cfg(feature = "metal")]
    if backend == Backend::Metal {
        return metal::rms_norm(x, weight, eps);
    }
    match backend.serving_filled(&[x, weight]) {
        Serving::Reference => reference::rms_norm(x, weight, eps),
        Serving::Cpu(isa) => cpu::rms_norm(isa, x, weight, eps),
    }
}

/// The gradients of x and weight. A gradient that reaches x by another way may be given as `carried`, and is added to
/// that of x. Records nothing.
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
    match backend.serving_filled(&[x, weight, dy, carried.unwrap_or(x)]) {
        Serving::Reference => reference::rms_norm_backward(x, weight, eps, dy, carried),
        Serving::Cpu(isa) => cpu::rms_norm_backward(isa, x, weight, eps as f32, dy, carried),
    }
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
    match backend.serving_filled(&[x, y, weight]) {
        Serving::Reference => reference::add_rms_norm(x, y, weight, eps),
        Serving::Cpu(isa) => cpu::add_rms_norm(isa, x, y, weight, eps as f32),
    }
}
