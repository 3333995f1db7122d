//! Embedding look-up.

use candle_core::{Result, Tensor};

use crate::reference;

/// Row `ids[i]` of `table` for every i; differentiable in `table`.
///
/// table: `[v, h]`, ids: u32 of any shape → `[ids.., h]`.
///
/// # Errors
/// If an id is not below v.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    reference::embedding(table, ids)
}
