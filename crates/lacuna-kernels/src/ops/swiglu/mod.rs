//! Computes the gated activation of Llama's feed-forward layer.

use candle_core::{Result, Tensor, bail};

use crate::backend::{Backend, Serving};

mod cpu;
pub(crate) mod reference;

/// The gated activation: silu(gate) · up = gate · σ(gate) · up, differentiable in both.
///
/// # Errors
/// If shapes or dtypes differ.
pub fn swiglu(backend: Backend, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("swiglu: up is {:?}, expected {:?} as gate", up.dims(), gate.dims())
    }
    match backend.serving(&[gate, up]) {
        Serving::Reference => reference::swiglu(gate, up),
        Serving::Cpu(isa) => cpu::swiglu(isa, gate, up),
    }
}

/// The output once more and the gradients of gate and up, in this order and in one sweep: keeping the output of a
/// forward pass would cost more than computing it again. Records nothing.
///
/// # Errors
/// If shapes differ.
pub fn swiglu_backward(
    backend: Backend,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<[Tensor; 3]> {
    if gate.dims() != up.dims() || gate.dims() != dy.dims() {
        bail!("swiglu: gate is {:?}, up {:?}, dy {:?}", gate.dims(), up.dims(), dy.dims())
    }
    match backend.serving(&[gate, up, dy]) {
        Serving::Reference => reference::swiglu_backward(gate, up, dy),
        Serving::Cpu(isa) => cpu::swiglu_backward(isa, gate, up, dy),
    }
}
