//! Root-mean-square normalisation.

use candle_core::{Result, Tensor};

use crate::reference;

/// x / sqrt(mean(x²) + eps) · weight over the last dimension; differentiable in both.
///
/// # Errors
/// If `weight` is not `[h]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    reference::rms_norm(x, weight, eps)
}
