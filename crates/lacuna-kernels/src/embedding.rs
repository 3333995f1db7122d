//! Embedding look-up.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::backend::Backend;
use crate::cpu::{SERIAL, shaped, slice, with, written};
use crate::reference;

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
    if backend.serving(&[table]) == Backend::Reference || h == 0 {
        return reference::embedding(table, ids);
    }
    let mut shape = ids.dims().to_vec();
    shape.push(h);
    table.contiguous()?.apply_op1(Embedding { ids: list, shape })
}

struct Embedding {
    ids: Vec<u32>,
    shape: Vec<usize>,
}

/// Rows per task: of the output on the way forward, of the table on the way back.
const ROWS: usize = 64;

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, h) = layout.shape().dims2()?;
        let table = slice(table, layout)?;
        let copy = |(ids, rows): (&[u32], &mut [f32])| {
            for (id, row) in ids.iter().zip(rows.chunks_exact_mut(h)) {
                row.copy_from_slice(&table[*id as usize * h..][..h]);
            }
        };
        let write = |out: &mut [f32]| match out.len() < SERIAL {
            true => copy((&self.ids, out)),
            false => self.ids.par_chunks(ROWS).zip(out.par_chunks_mut(ROWS * h)).for_each(copy),
        };
        // SAFETY: as many rows as ids, and each is copied whole.
        let out = unsafe { written(self.ids.len() * h, write) };
        Ok((CpuStorage::F32(out), Shape::from(self.shape.as_slice())))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let gradient = add_rows(&self.ids, dy, table.elem_count(), None)?;
        shaped(gradient, table).map(Some)
    }
}

/// The table's gradient: `onto`, or zeros, plus each row of dy at its token's row. A table that is
/// also the head has a gradient already.
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
    if backend.serving(&[dy, onto]) == Backend::Reference || h == 0 {
        return reference::embedding_backward(&ids, dy, onto);
    }
    let gradient = with(&onto.contiguous()?, |onto| add_rows(&ids, dy, onto.len(), Some(onto)))?;
    shaped(gradient, onto)
}

/// `len` floats, those of `onto` or zeros, with the rows of dy added. Tasks own rows of the table, and each
/// token's rows are added in order, so the sums don't depend on the thread count.
fn add_rows(ids: &[u32], dy: &Tensor, len: usize, onto: Option<&[f32]>) -> Result<Vec<f32>> {
    let h = dy.elem_count() / ids.len().max(1);
    if h == 0 {
        return Ok(onto.map_or_else(|| vec![0.; len], <[f32]>::to_vec));
    }
    let mut order = (0..ids.len()).collect::<Vec<_>>();
    order.sort_by_key(|at| ids[*at]);
    with(&dy.contiguous()?, |dy| {
        let add = |(task, rows): (usize, &mut [f32])| {
            match onto {
                Some(onto) => rows.copy_from_slice(&onto[task * ROWS * h..][..rows.len()]),
                None => rows.fill(0.),
            }
            let first = (task * ROWS) as u32;
            let begin = order.partition_point(|at| ids[*at] < first);
            let end = order.partition_point(|at| ids[*at] < first + ROWS as u32);
            for at in &order[begin..end] {
                let row = &mut rows[(ids[*at] - first) as usize * h..][..h];
                row.iter_mut().zip(&dy[at * h..]).for_each(|(sum, x)| *sum += x);
            }
        };
        let write = |sums: &mut [f32]| sums.par_chunks_mut(ROWS * h).enumerate().for_each(add);
        // SAFETY: each task assigns all of its rows before it adds to them.
        Ok(unsafe { written(len, write) })
    })
}
