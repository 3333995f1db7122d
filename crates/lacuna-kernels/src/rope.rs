//! Rotary position embedding with explicit positions.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, bail,
};
use rayon::prelude::*;

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

/// The position of every row of a `[b, l, heads, d]` tensor.
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

    /// The rows of x `[b, l, heads, d]` end to end, and their positions.
    fn rows(&self, x: &Tensor) -> Result<(Tensor, Vec<u32>)> {
        let (b, l, ..) = x.dims4()?;
        if let Self::Explicit(rows) = self {
            if rows.len() != 1 && rows.len() != b {
                bail!("rope: positions have {} rows, expected 1 or {b}", rows.len())
            }
            if let Some(row) = rows.iter().find(|row| row.len() != l) {
                bail!("rope: a row has {} positions, expected {l}", row.len())
            }
        }
        let of_row = |b: usize| (0..l).map(move |i| self.at(b, i) as u32);
        let rows = if b == 1 { x.squeeze(0)? } else { x.flatten(0, 1)? };
        Ok((rows, (0..b).flat_map(of_row).collect()))
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

    /// cos and sin gathered for `positions`: `[rows, 1, d/2]` each. x: `[rows, heads, d]`.
    pub(crate) fn rows(&self, x: &Tensor, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        let tables = self.tables(x, positions)?;
        let ids = Tensor::new(positions, &self.device)?;
        let half = self.inverse_frequencies.len();
        let gather = |t: &Tensor| t.index_select(&ids, 0)?.reshape((positions.len(), 1, half));
        Ok((gather(&tables.cos)?, gather(&tables.sin)?))
    }

    /// Tables that cover the positions, of which none is beyond the last there is. x: `[rows, heads, d]`.
    fn tables(&self, x: &Tensor, positions: &[u32]) -> Result<Tables> {
        let ((rows, _, d), half) = (x.dims3()?, self.inverse_frequencies.len());
        if d != 2 * half {
            bail!("rope: head size is {d}, expected {} as in the table", 2 * half)
        }
        if rows != positions.len() {
            bail!("rope: {} positions for {rows} rows", positions.len())
        }
        let Some(last) = positions.iter().max() else { return self.covering(0) };
        let (last, max) = (*last as usize, self.max_positions);
        if last >= max {
            bail!("rope: position {last}, expected one below {max}; raise max positions")
        }
        self.covering(last + 1)
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
/// x: `[rows, heads, d]`, one position for each row.
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope(backend: Backend, x: &Tensor, rope: &Rope, positions: &[u32]) -> Result<Tensor> {
    let tables = rope.tables(x, positions)?;
    match backend.serving_filled(&[x, &tables.cos]) {
        Backend::Reference => reference::rope(x, rope, positions),
        Backend::Cpu(isa) => {
            by_rows(x)?.apply_op1(Rotate { isa, tables, positions: positions.into(), sign: 1. })
        }
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
        Backend::Reference => reference::rope_backward(dy, rope, positions),
        Backend::Cpu(isa) => {
            Rotate { isa, tables, positions: positions.into(), sign: -1. }.of(&by_rows(dy)?)
        }
    }
}

/// [`rope`] on `[b, l, heads, d]`.
///
/// # Errors
/// As [`rope`].
pub fn rope_by_token(
    backend: Backend,
    x: &Tensor,
    rope: &Rope,
    positions: &Positions,
) -> Result<Tensor> {
    let (rows, positions) = positions.rows(x)?;
    self::rope(backend, &rows, rope, &positions)?.reshape(x.shape())
}

/// [`rope_backward`] on `[b, l, heads, d]`.
///
/// # Errors
/// As [`rope`].
pub fn rope_by_token_backward(
    backend: Backend,
    dy: &Tensor,
    rope: &Rope,
    positions: &Positions,
) -> Result<Tensor> {
    let (rows, positions) = positions.rows(dy)?;
    rope_backward(backend, &rows, rope, &positions)?.reshape(dy.shape())
}

/// Rows may lie anywhere, but each is contiguous.
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
    /// x: rows anywhere, each contiguous; the result is contiguous.
    fn apply(&self, x: &[f32], layout: &Layout) -> Result<Vec<f32>> {
        let (_, heads, d) = layout.shape().dims3()?;
        let x = &x[layout.start_offset()..];
        let stride = layout.stride();
        with(&self.tables.cos, |cos| {
            with(&self.tables.sin, |sin| {
                let rotate_all = |(task, out): (usize, &mut [f32])| {
                    for (i, out) in out.chunks_exact_mut(heads * d).enumerate() {
                        let row = task * ROWS + i;
                        let angles = self.positions[row] as usize * (d / 2);
                        let (cos, sin) = (&cos[angles..][..d / 2], &sin[angles..][..d / 2]);
                        for (head, out) in out.chunks_exact_mut(d).enumerate() {
                            let x = &x[row * stride[0] + head * stride[1]..][..d];
                            rotate(self.isa, x, cos, sin, self.sign, out);
                        }
                    }
                };
                let write = |out: &mut [f32]| match out.len() < SERIAL {
                    true => out.chunks_mut(ROWS * heads * d).enumerate().for_each(rotate_all),
                    false => out.par_chunks_mut(ROWS * heads * d).enumerate().for_each(rotate_all),
                };
                // SAFETY: `rotate` assigns both halves of every row.
                Ok(unsafe { written(layout.shape().elem_count(), write) })
            })
        })
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
        let row = Tensor::zeros((1, 1, 6), DType::F32, &Device::Cpu).unwrap();
        let bits = |tables: &Tables| {
            let rows = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            [rows(&tables.cos), rows(&tables.sin)].concat()
        };
        for (last, covered) in [(0, 4096), (4095, 4096), (4096, 8192), (19_999, 20_000)] {
            let tables = rope.tables(&row, &[last]).unwrap();
            assert_eq!(tables.cos.dims(), [covered, 3]);
            let whole = Tables::new(&frequencies, covered, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(bits(&tables), bits(&whole));
        }
        let beyond = rope.tables(&row, &[20_000]).unwrap_err();
        assert!(
            beyond.to_string().contains("position 20000, expected one below 20000"),
            "{beyond}"
        );
    }
}
