//! Rotary position embedding with explicit positions.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, bail,
};
use rayon::prelude::*;

use crate::attention::Axes;
use crate::backend::{Backend, Isa};
use crate::cpu::{SERIAL, shaped, with, written};
use crate::reference;
use crate::simd::{madd, simd};

/// Positions that the tables cover at first.
const FIRST: usize = 4096;

/// cos and sin of position × frequency, half-split as in Hugging Face's Llama (element i is paired with i + d/2).
///
/// Models allow more positions than most texts have: the tables grow to the power of two above the last one asked for,
/// for all clones at once.
#[derive(Clone, Debug)]
pub struct Rope {
    inverse_frequencies: Arc<[f64]>,
    max_positions: usize,
    dtype: DType,
    device: Device,
    tables: Arc<RwLock<Tables>>,
}

/// `[positions, d/2]` each.
#[derive(Clone, Debug)]
struct Tables {
    cos: Tensor,
    sin: Tensor,
}

/// The position of every row of a `[b, heads, l, d]` tensor.
#[derive(Clone, Debug)]
pub enum Positions {
    /// `start`, `start + 1`, … in every batch row.
    Range {
        /// Position of the first row.
        start: usize,
    },
    /// One list of l positions per batch row, or a single list that all batch rows share.
    Explicit(Arc<[Vec<u32>]>),
}

impl Positions {
    /// `0..len` twice: both halves of the block-diffusion pass stand at the same positions.
    pub fn both_halves(len: usize) -> Self {
        let once = 0..len as u32;
        Self::Explicit(Arc::from(vec![once.clone().chain(once).collect::<Vec<_>>()]))
    }

    /// The position of row `l` in batch row `b`.
    pub fn at(&self, b: usize, l: usize) -> usize {
        match self {
            Self::Range { start } => start + l,
            Self::Explicit(rows) if rows.len() == 1 => rows[0][l] as usize,
            Self::Explicit(rows) => rows[b][l] as usize,
        }
    }

    /// Number of different batch rows: 1 if all share one list.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Range { .. } => 1,
            Self::Explicit(rows) => rows.len(),
        }
    }
}

impl Rope {
    /// Angles are products in f64, rounded once to `dtype`.
    ///
    /// # Errors
    /// If the device can't hold the tables.
    pub fn new(
        inverse_frequencies: &[f64],
        max_positions: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let tables =
            Tables::new(inverse_frequencies, Self::covered(0, max_positions), dtype, device)?;
        Ok(Self {
            inverse_frequencies: inverse_frequencies.into(),
            max_positions,
            dtype,
            device: device.clone(),
            tables: Arc::new(RwLock::new(tables)),
        })
    }

    /// Positions that tables for texts of `len` tokens cover, in a model that has `max_positions`.
    pub fn covered(len: usize, max_positions: usize) -> usize {
        len.max(FIRST).checked_next_power_of_two().unwrap_or(usize::MAX).min(max_positions)
    }

    /// θ^(−2i/d) for i in 0..d/2: the unscaled frequencies.
    pub fn frequencies(theta: f64, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2).map(|i| theta.powf(-2. * i as f64 / head_dim as f64)).collect()
    }

    /// Positions there are.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// cos and sin gathered for `positions`: `[b or 1, 1, l, d/2]` each.
    pub(crate) fn rows(
        &self,
        positions: &Positions,
        b: usize,
        l: usize,
        d: usize,
    ) -> Result<(Tensor, Tensor)> {
        let tables = self.tables(positions, b, l, d)?;
        let rows = positions.rows();
        let ids = (0..rows)
            .flat_map(|row| (0..l).map(move |i| positions.at(row, i) as u32))
            .collect::<Vec<_>>();
        let ids = Tensor::from_vec(ids, rows * l, &self.device)?;
        let gather = |t: &Tensor| t.index_select(&ids, 0)?.reshape((rows, 1, l, d / 2));
        Ok((gather(&tables.cos)?, gather(&tables.sin)?))
    }

    /// Tables that cover the positions, of which none is beyond the last there is.
    fn tables(&self, positions: &Positions, b: usize, l: usize, d: usize) -> Result<Tables> {
        let (max, half) = (self.max_positions, self.inverse_frequencies.len());
        if d != 2 * half {
            bail!("rope: head size is {d}, expected {} as in the table", 2 * half)
        }
        if let Positions::Explicit(rows) = positions {
            if rows.len() != 1 && rows.len() != b {
                bail!("rope: positions have {} rows, expected 1 or {b}", rows.len())
            }
            if let Some(row) = rows.iter().find(|row| row.len() != l) {
                bail!("rope: a row has {} positions, expected {l}", row.len())
            }
        }
        let last = match positions {
            Positions::Range { start } => (start + l).saturating_sub(1),
            Positions::Explicit(rows) => rows.iter().flatten().max().map_or(0, |max| *max as usize),
        };
        if l > 0 && last >= max {
            bail!("rope: position {last}, expected one below {max}; raise max positions")
        }
        self.covering(if l > 0 { last + 1 } else { 0 })
    }

    fn covering(&self, len: usize) -> Result<Tables> {
        let held = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        if held.cos.dim(0)? >= len {
            return Ok(held.clone());
        }
        drop(held);
        let mut held = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if held.cos.dim(0)? < len {
            let covered = Self::covered(len, self.max_positions);
            *held = Tables::new(&self.inverse_frequencies, covered, self.dtype, &self.device)?;
        }
        Ok(held.clone())
    }
}

impl Tables {
    fn new(
        inverse_frequencies: &[f64],
        positions: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = (positions, inverse_frequencies.len());
        let table = |f: fn(f64) -> f64| {
            let angles =
                (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |w| p as f64 * w));
            let table = match dtype {
                DType::F32 => Tensor::from_iter(angles.map(|a| f(a) as f32), &Device::Cpu)?,
                _ => Tensor::from_iter(angles.map(f), &Device::Cpu)?.to_dtype(dtype)?,
            };
            table.reshape(shape)?.to_device(device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }
}

/// Rotates the pairs (x\[i\], x\[i + d/2\]) by the angles of each row's position; differentiable.
///
/// x: `[b, heads, l, d]`.
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope(backend: Backend, x: &Tensor, rope: &Rope, positions: &Positions) -> Result<Tensor> {
    let (b, _, l, d) = x.dims4()?;
    let tables = rope.tables(positions, b, l, d)?;
    if let Backend::Cpu(isa) = backend.serving_filled(&[x, &tables.cos]) {
        return fused(isa, x, tables, positions, Axes::HeadsFirst);
    }
    reference::rope(x, rope, positions)
}

/// [`rope`] on `[b, l, heads, d]`, as the projections leave it.
///
/// # Errors
/// As [`rope`].
pub fn rope_by_token(
    backend: Backend,
    x: &Tensor,
    rope: &Rope,
    positions: &Positions,
) -> Result<Tensor> {
    let (b, l, _, d) = x.dims4()?;
    let tables = rope.tables(positions, b, l, d)?;
    if let Backend::Cpu(isa) = backend.serving_filled(&[x, &tables.cos]) {
        return fused(isa, x, tables, positions, Axes::TokensFirst);
    }
    reference::rope(&x.transpose(1, 2)?, rope, positions)?.transpose(1, 2)
}

fn fused(
    isa: Isa,
    x: &Tensor,
    tables: Tables,
    positions: &Positions,
    axes: Axes,
) -> Result<Tensor> {
    let x = if x.stride()[3] == 1 { x.clone() } else { x.contiguous()? };
    x.apply_op1(Rotate { isa, tables, positions: positions.clone(), axes, sign: 1. })
}

/// Rotation by `sign` times the angle; its gradient is the rotation back.
struct Rotate {
    isa: Isa,
    tables: Tables,
    positions: Positions,
    axes: Axes,
    sign: f32,
}

impl Rotate {
    /// Rows may have any strides; the result is contiguous.
    fn apply(&self, x: &[f32], layout: &Layout) -> Result<Vec<f32>> {
        let (dims, stride) = (layout.dims(), layout.stride());
        let (_, heads, l, d) = self.axes.split(dims)?;
        let x = &x[layout.start_offset()..];
        debug_assert_eq!(layout.shape().elem_count(), dims[0] * heads * l * d);
        with(&self.tables.cos, |cos| {
            with(&self.tables.sin, |sin| {
                // One task for each pair of the two outer dimensions.
                let inner = dims[2];
                let rotate_all = |(task, out): (usize, &mut [f32])| {
                    let (b, middle) = (task / dims[1], task % dims[1]);
                    for (i, out) in out.chunks_exact_mut(d).enumerate() {
                        let at = b * stride[0] + middle * stride[1] + i * stride[2];
                        let row = if self.axes == Axes::HeadsFirst { i } else { middle };
                        let angles = self.positions.at(b, row) * (d / 2);
                        let (cos, sin) = (&cos[angles..][..d / 2], &sin[angles..][..d / 2]);
                        rotate(self.isa, &x[at..][..d], cos, sin, self.sign, out);
                    }
                };
                let write = |out: &mut [f32]| match out.len() < SERIAL {
                    true => out.chunks_mut(inner * d).enumerate().for_each(rotate_all),
                    false => out.par_chunks_mut(inner * d).enumerate().for_each(rotate_all),
                };
                // SAFETY: `rotate` assigns both halves of every row.
                Ok(unsafe { written(layout.shape().elem_count(), write) })
            })
        })
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
        let dy = dy.contiguous()?;
        back(self.isa, &dy, self.tables.clone(), &self.positions, self.axes, -self.sign).map(Some)
    }
}

/// The gradient of [`rope_by_token`]'s input: dy rotated back. dy: `[b, l, heads, d]`. Records
/// nothing.
///
/// # Errors
/// As [`rope`].
pub fn rope_by_token_backward(
    backend: Backend,
    dy: &Tensor,
    rope: &Rope,
    positions: &Positions,
) -> Result<Tensor> {
    let (b, l, _, d) = dy.dims4()?;
    let tables = rope.tables(positions, b, l, d)?;
    let Backend::Cpu(isa) = backend.serving_filled(&[dy, &tables.cos]) else {
        return reference::rope_by_token_backward(dy, rope, positions);
    };
    let dy = if dy.stride()[3] == 1 { dy.clone() } else { dy.contiguous()? };
    back(isa, &dy, tables, positions, Axes::TokensFirst, -1.)
}

fn back(
    isa: Isa,
    dy: &Tensor,
    tables: Tables,
    positions: &Positions,
    axes: Axes,
    sign: f32,
) -> Result<Tensor> {
    let rotation = Rotate { isa, tables, positions: positions.clone(), axes, sign };
    let (storage, layout) = dy.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("rope: a gradient is not on the CPU") };
    shaped(rotation.apply(storage.as_slice::<f32>()?, layout)?, dy)
}

simd!(fn rotate(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [f32]) = rotate_body);

#[inline(always)]
fn rotate_body<const FMA: bool>(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [f32]) {
    let (low, high) = x.split_at(cos.len());
    let (out_low, out_high) = out.split_at_mut(cos.len());
    let inputs = low.iter().zip(high).zip(cos.iter().zip(sin));
    for ((a, b), ((x, y), (c, s))) in out_low.iter_mut().zip(out_high).zip(inputs) {
        let s = sign * s;
        *a = madd::<FMA>(*x, *c, -y * s);
        *b = madd::<FMA>(*y, *c, x * s);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

    use super::*;

    #[test]
    fn tables_that_grow_are_those_made_at_once() {
        let frequencies = Rope::frequencies(1e4, 6);
        let rope = Rope::new(&frequencies, 20_000, DType::F32, &Device::Cpu).unwrap();
        let bits = |tables: &Tables| {
            let rows = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            [rows(&tables.cos), rows(&tables.sin)].concat()
        };
        for (last, covered) in [(0, 4096), (4095, 4096), (4096, 8192), (19_999, 20_000)] {
            let tables = rope.tables(&Positions::Range { start: last }, 1, 1, 6).unwrap();
            assert_eq!(tables.cos.dims(), [covered, 3]);
            let whole = Tables::new(&frequencies, covered, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(bits(&tables), bits(&whole));
        }
        let beyond = rope.tables(&Positions::Range { start: 19_999 }, 1, 2, 6).unwrap_err();
        assert!(
            beyond.to_string().contains("position 20000, expected one below 20000"),
            "{beyond}"
        );
    }
}
