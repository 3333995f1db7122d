//! Defines the gated activation.

use candle_core::{Result, Tensor};

use crate::reference::gradients;

/// silu(gate) · up = gate · σ(gate) · up.
///
/// # Errors
/// If shapes or dtypes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()?.mul(up)
}

/// See [`crate::swiglu_backward`].
///
/// # Errors
/// If shapes differ.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<[Tensor; 3]> {
    let y = swiglu(&gate.detach(), &up.detach())?;
    let [d_gate, d_up] = gradients([gate, up], dy, |[g, u]| swiglu(g, u))?;
    Ok([y, d_gate, d_up])
}
