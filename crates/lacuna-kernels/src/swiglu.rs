//! The gated activation of Llama's feed-forward layer.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{SERIAL, is_f32, slice, with};
use crate::reference;
use crate::simd::{exp, madd, simd};

/// silu(gate) · up = gate · σ(gate) · up; differentiable in both.
///
/// # Errors
/// If shapes or dtypes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("swiglu: up is {:?}, expected {:?} as gate", up.dims(), gate.dims())
    }
    if !is_f32(gate) || !is_f32(up) {
        return reference::swiglu(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

/// d gate = dy · up · σ · (1 + gate · (1 − σ)), d up = dy · gate · σ.
struct SwiGlu;

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
        let mut y = vec![0f32; gate.len()];
        if y.len() < SERIAL {
            activate(gate, up, &mut y);
        } else {
            y.par_chunks_mut(CHUNK)
                .zip(gate.par_chunks(CHUNK))
                .zip(up.par_chunks(CHUNK))
                .for_each(|((y, gate), up)| activate(gate, up, y));
        }
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let mut d_gate = vec![0f32; gate.elem_count()];
        let mut d_up = vec![0f32; gate.elem_count()];
        with(gate, |gate| {
            with(up, |up| {
                with(&dy, |dy| {
                    d_gate
                        .par_chunks_mut(CHUNK)
                        .zip(d_up.par_chunks_mut(CHUNK))
                        .zip(gate.par_chunks(CHUNK))
                        .zip(up.par_chunks(CHUNK))
                        .zip(dy.par_chunks(CHUNK))
                        .for_each(|((((d_gate, d_up), gate), up), dy)| {
                            differentiate(gate, up, dy, d_gate, d_up);
                        });
                    Ok(())
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(d_gate)?), Some(tensor(d_up)?)))
    }
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
    fn differentiate(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) =
        differentiate_body
);

#[inline(always)]
fn differentiate_body<const FMA: bool>(
    gate: &[f32],
    up: &[f32],
    dy: &[f32],
    d_gate: &mut [f32],
    d_up: &mut [f32],
) {
    let inputs = gate.iter().zip(up).zip(dy);
    for ((d_gate, d_up), ((g, u), dy)) in d_gate.iter_mut().zip(d_up).zip(inputs) {
        let s = sigmoid::<FMA>(*g);
        *d_gate = dy * u * s * madd::<FMA>(*g, 1. - s, 1.);
        *d_up = dy * g * s;
    }
}
