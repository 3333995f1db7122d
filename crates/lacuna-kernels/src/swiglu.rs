//! The gated activation of Llama's feed-forward layer.

use candle_core::{Result, Tensor};

use crate::reference;

/// silu(gate) · up = gate · σ(gate) · up; differentiable in both.
///
/// # Errors
/// If shapes or dtypes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    reference::swiglu(gate, up)
}
