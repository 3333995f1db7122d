//! Rotates queries and keys by their positions: rotary position embedding.

use candle_core::{Result, Tensor};

use crate::backend::{Backend, Serving};

mod cpu;
pub(crate) mod reference;
mod tables;

pub use tables::Rope;

/// Rotates the pairs (x\[i\], x\[i + d/2\]) by the angles of each row's position; differentiable.
///
/// x: `[rows, heads, d]`, one position for each row.
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope(backend: Backend, x: &Tensor, rope: &Rope, positions: &[u32]) -> Result<Tensor> {
    let tables = rope.tables(x, positions)?;
    match backend.serving_filled(&[x, &tables.cos]) {
        Serving::Reference => reference::rope(x, rope, positions),
        Serving::Cpu(isa) => cpu::rope(isa, x, tables, positions),
    }
}

/// The gradient of [`rope`]'s input: dy rotated back. dy: `[rows, heads, d]`. Records nothing.
///
/// # Errors
/// As [`rope`].
pub fn rope_backward(
    backend: Backend,
    dy: &Tensor,
    rope: &Rope,
    positions: &[u32],
) -> Result<Tensor> {
    let tables = rope.tables(dy, positions)?;
    match backend.serving_filled(&[dy, &tables.cos]) {
        Serving::Reference => reference::rope_backward(dy, rope, positions),
        Serving::Cpu(isa) => cpu::rope_backward(isa, dy, tables, positions),
    }
}
