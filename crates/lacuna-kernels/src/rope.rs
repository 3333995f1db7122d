//! Rotary position embedding with explicit positions.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::reference;

/// cos and sin of position × frequency: `[max_positions, d/2]` each, half-split as in Hugging
/// Face's Llama (element i is paired with i + d/2).
#[derive(Clone, Debug)]
pub struct Rope {
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
        let angles = (0..max_positions)
            .flat_map(|p| inverse_frequencies.iter().map(move |f| p as f64 * f))
            .collect::<Vec<_>>();
        let table = |f: fn(f64) -> f64| {
            let values = angles.iter().map(|a| f(*a)).collect::<Vec<_>>();
            let shape = (max_positions, inverse_frequencies.len());
            Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// θ^(−2i/d) for i in 0..d/2: the unscaled frequencies.
    pub fn frequencies(theta: f64, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2).map(|i| theta.powf(-2. * i as f64 / head_dim as f64)).collect()
    }

    /// Positions the tables cover.
    pub fn max_positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// cos and sin gathered for `positions`: `[b or 1, 1, l, d/2]` each.
    pub(crate) fn rows(
        &self,
        positions: &Positions,
        b: usize,
        l: usize,
        d: usize,
    ) -> Result<(Tensor, Tensor)> {
        self.check(positions, b, l, d)?;
        let rows = positions.rows();
        let ids = (0..rows)
            .flat_map(|row| (0..l).map(move |i| positions.at(row, i) as u32))
            .collect::<Vec<_>>();
        let ids = Tensor::from_vec(ids, rows * l, self.cos.device())?;
        let gather = |t: &Tensor| t.index_select(&ids, 0)?.reshape((rows, 1, l, d / 2));
        Ok((gather(&self.cos)?, gather(&self.sin)?))
    }

    fn check(&self, positions: &Positions, b: usize, l: usize, d: usize) -> Result<()> {
        let (max, half) = self.cos.dims2()?;
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
        Ok(())
    }
}

/// Rotates the pairs (x\[i\], x\[i + d/2\]) by the angles of each row's position; differentiable.
///
/// x: `[b, heads, l, d]`.
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope(x: &Tensor, rope: &Rope, positions: &Positions) -> Result<Tensor> {
    reference::rope(x, rope, positions)
}
