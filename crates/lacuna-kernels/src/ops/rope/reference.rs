//! Defines rotary position embedding.

use candle_core::{Result, Tensor};

use super::Rope;
use crate::reference::{gradients, widen};

/// Rotates the pairs (x\[i\], x\[i + d/2\]) by the angles of each row's position.
///
/// x: `[rows, heads, d]`.
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope(x: &Tensor, rope: &Rope, positions: &[u32]) -> Result<Tensor> {
    let (_, _, d) = x.dims3()?;
    let (cos, sin) = rope.rows(x, positions)?; // [rows, 1, d/2]
    let wide = widen(x)?;
    let (cos, sin) = (cos.to_dtype(wide.dtype())?, sin.to_dtype(wide.dtype())?);
    let lo = wide.narrow(2, 0, d / 2)?;
    let hi = wide.narrow(2, d / 2, d / 2)?;
    let first = (lo.broadcast_mul(&cos)? - hi.broadcast_mul(&sin)?)?;
    let second = (hi.broadcast_mul(&cos)? + lo.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.to_dtype(x.dtype())
}

/// See [`crate::rope_backward`].
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope_backward(dy: &Tensor, rope: &Rope, positions: &[u32]) -> Result<Tensor> {
    // The operation is linear, so any point will do.
    let [dx] = gradients([&dy.zeros_like()?], dy, |[x]| self::rope(x, rope, positions))?;
    Ok(dx)
}
