//! Rotates queries and keys by their positions, on CPU tensors of f32.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};

use super::tables::Tables;
use crate::backend::Isa;
use crate::raw::{Slots, elements, filled, shaped, write_halves, write_rows};
use crate::simd::{madd, simd};

pub(super) fn rope(isa: Isa, x: &Tensor, tables: Tables, positions: &[u32]) -> Result<Tensor> {
    by_rows(x)?.apply_op1(Rotate { isa, tables, positions: positions.into(), sign: 1. })
}

pub(super) fn rope_backward(
    isa: Isa,
    dy: &Tensor,
    tables: Tables,
    positions: &[u32],
) -> Result<Tensor> {
    Rotate { isa, tables, positions: positions.into(), sign: -1. }.of(&by_rows(dy)?)
}

/// The same tensor with contiguous rows, which may lie anywhere; only rows that are not contiguous are copied.
fn by_rows(x: &Tensor) -> Result<Tensor> {
    if x.stride()[2] == 1 { Ok(x.clone()) } else { x.contiguous() }
}

/// Rotation by `sign` times the angle; its gradient is the rotation back.
struct Rotate {
    isa: Isa,
    tables: Tables,
    positions: Arc<[u32]>,
    sign: f32,
}

/// Rows of x per task.
const ROWS: usize = 32;

impl Rotate {
    /// Rotates x, whose rows may lie anywhere as long as each is contiguous; the result is contiguous.
    fn apply(&self, x: &[f32], layout: &Layout) -> Result<Vec<f32>> {
        let (rows, heads, d) = layout.shape().dims3()?;
        let x = &x[layout.start_offset()..];
        let stride = layout.stride();
        let [cos, sin] = elements([&self.tables.cos, &self.tables.sin])?;
        let (cos, sin): (&[f32], &[f32]) = (&cos, &sin);
        let [out] = filled(rows * heads * d, ROWS * heads * d, |task, [out]| {
            let out = write_rows(out, d, |i, out| {
                let (row, head) = (task * ROWS + i / heads, i % heads);
                let angles = self.positions[row] as usize * (d / 2);
                let (cos, sin) = (&cos[angles..][..d / 2], &sin[angles..][..d / 2]);
                let x = &x[row * stride[0] + head * stride[1]..][..d];
                rotate(self.isa, x, cos, sin, self.sign, out)
            });
            [out]
        });
        Ok(out)
    }

    fn of(&self, x: &Tensor) -> Result<Tensor> {
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("rope: a gradient is not on the CPU") };
        shaped(self.apply(storage.as_slice::<f32>()?, layout)?, x)
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.apply(x.as_slice::<f32>()?, layout)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let Self { isa, tables, positions, sign } = self;
        let back =
            Self { isa: *isa, tables: tables.clone(), positions: positions.clone(), sign: -sign };
        back.of(&dy.contiguous()?).map(Some)
    }
}

simd!(
    fn rotate<'a>(
        x: &[f32],
        cos: &[f32],
        sin: &[f32],
        sign: f32,
        out: &'a mut Slots,
    ) -> &'a mut [f32] = rotate_body
);

#[inline(always)]
fn rotate_body<'a, const FMA: bool>(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    sign: f32,
    out: &'a mut Slots,
) -> &'a mut [f32] {
    let (low, high) = x.split_at(cos.len());
    let inputs = low.iter().zip(high).zip(cos.iter().zip(sin));
    let rotated = inputs.map(|((x, y), (c, s))| {
        let s = sign * s;
        (madd::<FMA>(*x, *c, -y * s), madd::<FMA>(*y, *c, x * s))
    });
    write_halves(out, rotated)
}
