//! Looks up embeddings, and adds up their gradients.

use candle_core::{DType, Result, Tensor, bail};

use crate::backend::{Backend, Serving};

mod cpu;
pub(crate) mod reference;

/// Row `ids[i]` of `table` for every i; differentiable in `table`.
///
/// table: `[v, h]`, ids: u32 of any shape → `[ids.., h]`.
///
/// # Errors
/// If an id is not below v.
pub fn embedding(backend: Backend, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (v, h) = table.dims2()?;
    if !ids.device().is_cpu() || ids.dtype() != DType::U32 {
        return reference::embedding(table, ids);
    }
    let list = ids.flatten_all()?.to_vec1::<u32>()?;
    if let Some((at, id)) = list.iter().enumerate().find(|(_, id)| **id as usize >= v) {
        bail!("embedding: id {id} at {at}, expected one below {v}")
    }
    match backend.serving_filled(&[table]) {
        Serving::Reference => reference::embedding(table, ids),
        Serving::Cpu(_) => {
            let mut shape = ids.dims().to_vec();
            shape.push(h);
            cpu::embedding(table, list, shape)
        }
    }
}

/// The table's gradient: `onto` plus each row of dy at its token's row. A table that is also the head has a
/// gradient already.
///
/// ids: u32 of any shape, dy: `[ids.., h]`, onto: `[v, h]`. Records nothing.
///
/// # Errors
/// If shapes disagree or an id is not below v.
pub fn embedding_backward(
    backend: Backend,
    ids: &Tensor,
    dy: &Tensor,
    onto: &Tensor,
) -> Result<Tensor> {
    let (v, h) = onto.dims2()?;
    let ids = ids.flatten_all()?.to_vec1::<u32>()?;
    if dy.elem_count() != ids.len() * h || ids.iter().any(|id| *id as usize >= v) {
        bail!("embedding: dy is {:?} for {} ids and a table [{v}, {h}]", dy.dims(), ids.len())
    }
    match backend.serving_filled(&[onto]) {
        Serving::Cpu(_) if backend.serving(&[dy]) != Serving::Reference => {
            cpu::embedding_backward(&ids, dy, onto)
        }
        _ => reference::embedding_backward(&ids, dy, onto),
    }
}
