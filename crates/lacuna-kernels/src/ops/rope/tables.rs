//! Keeps the tables of a rotary embedding, which grow with the positions asked for.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Device, Result, Tensor, bail};

/// The number of positions that the tables cover at first.
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

/// The cosines and sines of all angles, `[positions, d/2]` each.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rope {
    /// The tables for these frequencies, of which a head of size d has d/2. Angles are computed in f64, and their
    /// cosines and sines rounded once, to `dtype`.
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

    /// The number of positions that tables for texts of `len` tokens cover, in a model that has `max_positions`.
    pub fn covered(len: usize, max_positions: usize) -> usize {
        len.max(FIRST).checked_next_power_of_two().unwrap_or(usize::MAX).min(max_positions)
    }

    /// θ^(−2i/d) for i in 0..d/2: the unscaled frequencies.
    pub fn frequencies(theta: f64, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2).map(|i| theta.powf(-2. * i as f64 / head_dim as f64)).collect()
    }

    /// The number of positions that the model has.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// cos and sin gathered for `positions`: `[rows, 1, d/2]` each. x: `[rows, heads, d]`.
    pub(super) fn rows(&self, x: &Tensor, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        let tables = self.tables(x, positions)?;
        let ids = Tensor::new(positions, &self.device)?;
        let half = self.inverse_frequencies.len();
        let gather = |t: &Tensor| t.index_select(&ids, 0)?.reshape((positions.len(), 1, half));
        Ok((gather(&tables.cos)?, gather(&tables.sin)?))
    }

    /// Tables that cover all `positions`, none of which may lie beyond the model's last. x: `[rows, heads, d]`.
    pub(super) fn tables(&self, x: &Tensor, positions: &[u32]) -> Result<Tables> {
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
