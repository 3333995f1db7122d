//! Defines the embedding look-up.

use candle_core::{Result, Tensor};

/// Row `ids[i]` of `table` for every i. table: `[v, h]`, ids: u32 of any shape → `[ids.., h]`.
///
/// # Errors
/// If an id is not below v.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (_, h) = table.dims2()?;
    let mut shape = ids.dims().to_vec();
    shape.push(h);
    table.contiguous()?.index_select(&ids.flatten_all()?, 0)?.reshape(shape)
}

/// `onto` plus each row of dy at its token's row.
///
/// # Errors
/// If shapes disagree or an id is not below the number of rows.
pub fn embedding_backward(ids: &[u32], dy: &Tensor, onto: &Tensor) -> Result<Tensor> {
    let ids = Tensor::new(ids, dy.device())?;
    onto.detach().index_add(&ids, &dy.detach().flatten_to(dy.rank().saturating_sub(2))?, 0)
}
