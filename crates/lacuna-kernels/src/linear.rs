//! The dense layer.

use candle_core::{Result, Tensor};

use crate::reference;

/// x · weightᵀ; differentiable in both. x: `[.., in]`, weight: `[out, in]` → `[.., out]`.
///
/// # Errors
/// If the inner dimensions differ.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    reference::linear(x, weight)
}
