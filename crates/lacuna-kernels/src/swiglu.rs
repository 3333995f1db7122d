//! The gated activation of Llama's feed-forward layer.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::backend::{Backend, Isa};
use crate::cpu::{SERIAL, shaped, slice, with, written};
use crate::reference;
use crate::simd::{exp, madd, simd};

/// silu(gate) · up = gate · σ(gate) · up; differentiable in both.
///
/// # Errors
/// If shapes or dtypes differ.
pub fn swiglu(backend: Backend, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("swiglu: up is {:?}, expected {:?} as gate", up.dims(), gate.dims())
    }
    match backend.serving(&[gate, up]) {
        Backend::Reference => reference::swiglu(gate, up),
        Backend::Cpu(isa) => gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu { isa }),
    }
}

/// d gate = dy · up · σ · (1 + gate · (1 − σ)), d up = dy · gate · σ.
struct SwiGlu {
    isa: Isa,
}

/// Elements per task: both inputs, the output and two gradients stay in the second-level cache.
const CHUNK: usize = 16 << 10;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let isa = self.isa;
        let write = |y: &mut [f32]| match y.len() < SERIAL {
            true => activate(isa, gate, up, y),
            false => y
                .par_chunks_mut(CHUNK)
                .zip(gate.par_chunks(CHUNK))
                .zip(up.par_chunks(CHUNK))
                .for_each(|((y, gate), up)| activate(isa, gate, up, y)),
        };
        // SAFETY: `activate` assigns every element.
        let y = unsafe { written(gate.len(), write) };
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [_, d_gate, d_up] = swiglu_backward(Backend::Cpu(self.isa), gate, up, dy)?;
        Ok((Some(d_gate), Some(d_up)))
    }
}

/// The output once more and the gradients of gate and up, in one sweep: keeping the output of a
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
    let Backend::Cpu(isa) = backend.serving(&[gate, up, dy]) else {
        return reference::swiglu_backward(gate, up, dy);
    };
    let outputs = with(&gate.contiguous()?, |gate| {
        with(&up.contiguous()?, |up| {
            with(&dy.contiguous()?, |dy| {
                let inputs =
                    || gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
                let (mut d_gate, mut d_up) = (Vec::new(), Vec::new());
                let write_all = |y: &mut [f32]| {
                    let write_gradients = |to_gate: &mut [f32]| {
                        let write_last = |to_up: &mut [f32]| {
                            y.par_chunks_mut(CHUNK)
                                .zip(to_gate.par_chunks_mut(CHUNK))
                                .zip(to_up.par_chunks_mut(CHUNK))
                                .zip(inputs())
                                .for_each(|(((y, d_gate), d_up), ((gate, up), dy))| {
                                    differentiate(isa, gate, up, dy, y, d_gate, d_up);
                                });
                        };
                        // SAFETY: `differentiate` assigns every element of all three.
                        d_up = unsafe { written(dy.len(), write_last) };
                    };
                    // SAFETY: as above.
                    d_gate = unsafe { written(dy.len(), write_gradients) };
                };
                // SAFETY: as above.
                let y = unsafe { written(dy.len(), write_all) };
                Ok([y, d_gate, d_up])
            })
        })
    })?;
    let [y, d_gate, d_up] = outputs;
    Ok([shaped(y, gate)?, shaped(d_gate, gate)?, shaped(d_up, gate)?])
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1. / (1. + exp::<FMA>(-x))
}

simd!(fn activate(gate: &[f32], up: &[f32], y: &mut [f32]) = activate_body);

#[inline(always)]
fn activate_body<const FMA: bool>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
        *y = g * sigmoid::<FMA>(*g) * u;
    }
}

simd!(
    fn differentiate(
        gate: &[f32],
        up: &[f32],
        dy: &[f32],
        y: &mut [f32],
        d_gate: &mut [f32],
        d_up: &mut [f32],
    ) = differentiate_body
);

#[inline(always)]
fn differentiate_body<const FMA: bool>(
    gate: &[f32],
    up: &[f32],
    dy: &[f32],
    y: &mut [f32],
    d_gate: &mut [f32],
    d_up: &mut [f32],
) {
    let inputs = gate.iter().zip(up).zip(dy);
    let outputs = y.iter_mut().zip(d_gate).zip(d_up);
    for (((y, d_gate), d_up), ((g, u), dy)) in outputs.zip(inputs) {
        let s = sigmoid::<FMA>(*g);
        let silu = g * s;
        *y = silu * u;
        *d_gate = dy * u * s * madd::<FMA>(*g, 1. - s, 1.);
        *d_up = dy * silu;
    }
}
