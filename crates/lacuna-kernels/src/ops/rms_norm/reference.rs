//! Defines root-mean-square normalisation.

use candle_core::{D, Result, Tensor};

use crate::reference::{gradients, widen};

/// x / sqrt(mean(x²) + eps) · weight, over the last dimension; statistics at least in f32.
///
/// # Errors
/// If `weight` is not `[h]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = widen(x)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = wide.broadcast_div(&(mean + eps)?.sqrt()?)?;
    normed.broadcast_mul(&widen(weight)?)?.to_dtype(x.dtype())
}

/// x + y and its norm.
///
/// # Errors
/// If shapes disagree.
pub fn add_rms_norm(x: &Tensor, y: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let sum = (x + y)?.detach();
    let normed = rms_norm(&sum, &weight.detach(), eps)?;
    Ok((sum, normed))
}

/// See [`crate::rms_norm_backward`].
///
/// # Errors
/// If shapes disagree.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    dy: &Tensor,
    carried: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let [dx, d_weight] = gradients([x, weight], dy, |[x, w]| rms_norm(x, w, eps))?;
    let dx = carried.map_or(Ok(dx.clone()), |carried| dx + carried.detach())?;
    Ok((dx, d_weight))
}
