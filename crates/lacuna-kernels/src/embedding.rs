//! Embedding look-up.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{is_f32, slice, with};
use crate::reference;

/// Row `ids[i]` of `table` for every i; differentiable in `table`.
///
/// table: `[v, h]`, ids: u32 of any shape → `[ids.., h]`.
///
/// # Errors
/// If an id is not below v.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (v, h) = table.dims2()?;
    if !is_f32(table) || !ids.device().is_cpu() || ids.dtype() != DType::U32 || h == 0 {
        return reference::embedding(table, ids);
    }
    let mut shape = ids.dims().to_vec();
    shape.push(h);
    let ids = ids.flatten_all()?.to_vec1::<u32>()?;
    if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= v) {
        bail!("embedding: id {id} at {at}, expected one below {v}")
    }
    table.contiguous()?.apply_op1(Embedding { ids, shape })
}

struct Embedding {
    ids: Vec<u32>,
    shape: Vec<usize>,
}

/// Table rows per task of the backward pass.
const ROWS: usize = 64;

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, h) = layout.shape().dims2()?;
        let table = slice(table, layout)?;
        let mut out = Vec::with_capacity(self.ids.len() * h);
        for id in &self.ids {
            out.extend_from_slice(&table[*id as usize * h..][..h]);
        }
        Ok((CpuStorage::F32(out), Shape::from(self.shape.as_slice())))
    }

    /// Adds each row of the gradient to its token's row. Tasks own rows of the table, and each
    /// token's rows are added in order, so the sums don't depend on the thread count.
    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, h) = table.dims2()?;
        let dy = dy.contiguous()?;
        let mut order = (0..self.ids.len()).collect::<Vec<_>>();
        order.sort_by_key(|at| self.ids[*at]);
        let mut gradient = vec![0f32; table.elem_count()];
        with(&dy, |dy| {
            gradient.par_chunks_mut(ROWS * h).enumerate().for_each(|(task, rows)| {
                let first = (task * ROWS) as u32;
                let begin = order.partition_point(|at| self.ids[*at] < first);
                let end = order.partition_point(|at| self.ids[*at] < first + ROWS as u32);
                for at in &order[begin..end] {
                    let row = &mut rows[(self.ids[*at] - first) as usize * h..][..h];
                    row.iter_mut().zip(&dy[at * h..]).for_each(|(sum, x)| *sum += x);
                }
            });
            Ok(())
        })?;
        Tensor::from_vec(gradient, table.shape(), table.device()).map(Some)
    }
}
