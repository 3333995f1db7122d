//! Computes the gated activation on CPU tensors of f32.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::backend::Isa;
use crate::raw::{Slots, elements, filled, shaped, slice, write, write_three};
use crate::simd::{exp, madd, simd};

pub(super) fn swiglu(isa: Isa, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu { isa })
}

/// The gated activation as candle records it. With σ = σ(gate):
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
        let [y] = filled(gate.len(), CHUNK, |task, [y]| {
            let own = task * CHUNK..task * CHUNK + y.len();
            [activate(self.isa, &gate[own.clone()], &up[own], y)]
        });
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [_, d_gate, d_up] = swiglu_backward(self.isa, gate, up, dy)?;
        Ok((Some(d_gate), Some(d_up)))
    }
}

pub(super) fn swiglu_backward(
    isa: Isa,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<[Tensor; 3]> {
    let like = gate;
    let (gate, up, dy) = (gate.contiguous()?, up.contiguous()?, dy.contiguous()?);
    let [gate, up, dy] = elements([&gate, &up, &dy])?;
    let (gate, up, dy): (&[f32], &[f32], &[f32]) = (&gate, &up, &dy);
    let [y, d_gate, d_up] = filled(dy.len(), CHUNK, |task, [y, d_gate, d_up]| {
        let own = || task * CHUNK..task * CHUNK + y.len();
        let (gate, up, dy) = (&gate[own()], &up[own()], &dy[own()]);
        differentiate(isa, gate, up, dy, y, d_gate, d_up)
    });
    Ok([shaped(y, like)?, shaped(d_gate, like)?, shaped(d_up, like)?])
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1. / (1. + exp::<FMA>(-x))
}

simd!(fn activate<'a>(gate: &[f32], up: &[f32], y: &'a mut Slots) -> &'a mut [f32] = activate_body);

#[inline(always)]
fn activate_body<'a, const FMA: bool>(gate: &[f32], up: &[f32], y: &'a mut Slots) -> &'a mut [f32] {
    write(y, gate.iter().zip(up).map(|(g, u)| g * sigmoid::<FMA>(*g) * u))
}

simd!(
    fn differentiate<'a>(
        gate: &[f32],
        up: &[f32],
        dy: &[f32],
        y: &'a mut Slots,
        d_gate: &'a mut Slots,
        d_up: &'a mut Slots,
    ) -> [&'a mut [f32]; 3] = differentiate_body
);

#[inline(always)]
fn differentiate_body<'a, const FMA: bool>(
    gate: &[f32],
    up: &[f32],
    dy: &[f32],
    y: &'a mut Slots,
    d_gate: &'a mut Slots,
    d_up: &'a mut Slots,
) -> [&'a mut [f32]; 3] {
    let inputs = gate.iter().zip(up).zip(dy);
    let outputs = inputs.map(|((g, u), dy)| {
        let s = sigmoid::<FMA>(*g);
        let silu = g * s;
        [silu * u, dy * u * s * madd::<FMA>(*g, 1. - s, 1.), dy * silu]
    });
    write_three([y, d_gate, d_up], outputs)
}
