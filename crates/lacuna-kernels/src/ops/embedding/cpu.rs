//! Looks up embeddings on CPU tensors of f32.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::raw::{copy, elements, filled, shaped, slice, write_rows, zeros};

pub(super) fn embedding(table: &Tensor, ids: Vec<u32>, shape: Vec<usize>) -> Result<Tensor> {
    table.contiguous()?.apply_op1(Embedding { ids, shape })
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
        let [out] = filled(self.ids.len() * h, ROWS * h, |task, [out]| {
            let row = |i: usize| &table[self.ids[task * ROWS + i] as usize * h..][..h];
            [write_rows(out, h, |i, to| copy(to, row(i)))]
        });
        Ok((CpuStorage::F32(out), Shape::from(self.shape.as_slice())))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let gradient = add_rows(&self.ids, dy, table.elem_count(), None)?;
        shaped(gradient, table).map(Some)
    }
}

pub(super) fn embedding_backward(ids: &[u32], dy: &Tensor, onto: &Tensor) -> Result<Tensor> {
    let contiguous = onto.contiguous()?;
    let [from] = elements([&contiguous])?;
    shaped(add_rows(ids, dy, from.len(), Some(&from))?, onto)
}

/// The table's gradient, as `len` floats: `onto` (or zeros) with the rows of dy added. Tasks own rows of the table,
/// and each token's rows are added in order, so the sums don't depend on the thread count.
fn add_rows(ids: &[u32], dy: &Tensor, len: usize, onto: Option<&[f32]>) -> Result<Vec<f32>> {
    let h = dy.elem_count() / ids.len().max(1);
    if h == 0 {
        return Ok(onto.map_or_else(|| vec![0.; len], <[f32]>::to_vec));
    }
    let mut order = (0..ids.len()).collect::<Vec<_>>();
    order.sort_by_key(|at| ids[*at]);
    let dy = dy.contiguous()?;
    let [dy] = elements([&dy])?;
    let dy: &[f32] = &dy;
    let [sums] = filled(len, ROWS * h, |task, [rows]| {
        let rows = match onto {
            Some(onto) => {
                let own = &onto[task * ROWS * h..][..rows.len()];
                copy(rows, own)
            }
            None => zeros(rows),
        };
        let first = (task * ROWS) as u32;
        let begin = order.partition_point(|at| ids[*at] < first);
        let end = order.partition_point(|at| ids[*at] < first + ROWS as u32);
        for at in &order[begin..end] {
            let row = &mut rows[(ids[*at] - first) as usize * h..][..h];
            row.iter_mut().zip(&dy[at * h..]).for_each(|(sum, x)| *sum += x);
        }
        [rows]
    });
    Ok(sums)
}
