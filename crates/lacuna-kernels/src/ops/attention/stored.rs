//! Keeps keys and values of a cache in fewer bits than they are computed in.

use std::fmt;
use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor, bail};

use crate::reference::widen;
use crate::weights::{StorageDtype, quant};

/// The format in which a cache keeps keys and values. They are rounded once, when they are written, and attention
/// reads them as they are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CachePrecision {
    /// As they are computed, which on the CPU is f32: nothing is lost.
    #[default]
    F32,
    /// The upper half of f32. Each value is off by at most 2⁻⁸ of itself.
    BF16,
    /// Blocks of 32 values of a head: 8 bits and a scale. Each value is off by at most half a step, 1/254 of the largest
    /// magnitude of its block, and by what the scale loses as a half, at most 1/2048 of the value.
    Q8_0,
}

impl CachePrecision {
    /// Every precision, the exact one first.
    pub const ALL: [Self; 3] = [Self::F32, Self::BF16, Self::Q8_0];

    /// The name in lower case, as `--cache-precision` takes it.
    pub const fn name(self) -> &'static str {
        self.dtype().name()
    }

    /// The precision of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }

    /// Bytes of `head_dim` values.
    ///
    /// # Errors
    /// If they are no whole number of blocks; says what else there is.
    pub fn row_bytes(self, head_dim: usize) -> Result<usize> {
        match self.dtype().row_bytes(head_dim) {
            Some(bytes) => Ok(bytes),
            None => bail!(
                "keys and values in {self} come in blocks of {}, and the model's heads have {head_dim} values: keep \
                 them in {} or {}",
                self.dtype().block_len(),
                Self::BF16,
                Self::F32
            ),
        }
    }

    const fn dtype(self) -> StorageDtype {
        match self {
            Self::F32 => StorageDtype::F32,
            Self::BF16 => StorageDtype::BF16,
            Self::Q8_0 => StorageDtype::Q8_0,
        }
    }
}

impl fmt::Display for CachePrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Keys or values of a cache, `[rows, kv_heads, d]`, as a [`CachePrecision`] keeps them. Clones share their memory.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lacuna_kernels::{CachePrecision, StoredRows};
///
/// let kept = StoredRows::zeros(CachePrecision::BF16, [8, 1, 2], DType::F32, &Device::Cpu)?;
/// kept.write(3, &Tensor::new(&[[[1f32, 1.003]]], &Device::Cpu)?)?;
/// assert_eq!(kept.narrow(4)?.unpacked()?.to_vec3::<f32>()?[3], [[1., 1.]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StoredRows {
    precision: CachePrecision,
    /// `[rows, kv_heads, d]` floats, or `[rows, kv_heads, bytes]`.
    data: Tensor,
    d: usize,
}

/// Rows as they are: exactly what a tensor holds.
impl From<Tensor> for StoredRows {
    fn from(data: Tensor) -> Self {
        let d = data.dim(D::Minus1).unwrap_or(0);
        Self { precision: CachePrecision::F32, data, d }
    }
}

impl StoredRows {
    /// Zeros. `dtype` is that of exact rows.
    ///
    /// # Errors
    /// If d is no whole number of blocks, rows are to be packed on another device than the CPU, or there is no room.
    pub fn zeros(
        precision: CachePrecision,
        [rows, heads, d]: [usize; 3],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let (width, dtype) = match precision {
            CachePrecision::F32 => (d, dtype),
            packed if device.is_cpu() => (packed.row_bytes(d)?, DType::U8),
            packed => bail!(
                "keys and values in {packed} are kept on the CPU; on another device they are as the model computes them"
            ),
        };
        let data = Tensor::zeros((rows, heads, width), dtype, device)?;
        Ok(Self { precision, data, d })
    }

    /// Zeros of the same kind in `rows` rows, the first `kept` of which are copied.
    ///
    /// # Errors
    /// If there are fewer rows, or there is no room.
    pub fn grown(&self, rows: usize, kept: usize) -> Result<Self> {
        let (_, heads, width) = self.data.dims3()?;
        let data = Tensor::zeros((rows, heads, width), self.data.dtype(), self.data.device())?;
        if kept > 0 {
            data.slice_set(&self.data.narrow(0, 0, kept)?.contiguous()?, 0, 0)?;
        }
        Ok(Self { data, ..*self })
    }

    /// Rounds rows `[n, kv_heads, d]` and writes them from row `at` on.
    ///
    /// # Errors
    /// If shapes disagree or there are too few rows.
    pub fn write(&self, at: usize, rows: &Tensor) -> Result<()> {
        let rows = match self.precision {
            CachePrecision::F32 => rows.contiguous()?,
            packed => pack(packed, rows)?,
        };
        self.data.slice_set(&rows, 0, at)
    }

    /// Copies rows `from` to row `to` on.
    ///
    /// # Errors
    /// If there are too few rows.
    pub fn copy_within(&self, from: Range<usize>, to: usize) -> Result<()> {
        let rows = self.data.narrow(0, from.start, from.len())?.force_contiguous()?;
        self.data.slice_set(&rows, 0, to)
    }

    /// The first `rows` rows.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn narrow(&self, rows: usize) -> Result<Self> {
        Ok(Self { data: self.data.narrow(0, 0, rows)?, ..*self })
    }

    /// `[rows, kv_heads, d]`: exact rows as they are, packed ones in f32.
    ///
    /// # Errors
    /// If there is no room.
    pub fn unpacked(&self) -> Result<Tensor> {
        if self.precision == CachePrecision::F32 {
            return Ok(self.data.clone());
        }
        let [rows, heads, d] = self.dims()?;
        let mut values = vec![0.; rows * heads * d];
        let bytes = self.data.flatten_all()?.to_vec1::<u8>()?;
        quant::dequantize(self.precision.dtype(), &bytes, &mut values);
        Tensor::from_vec(values, (rows, heads, d), self.data.device())
    }

    /// The format that the rows are kept in.
    pub fn precision(&self) -> CachePrecision {
        self.precision
    }

    /// `[rows, kv_heads, d]`.
    ///
    /// # Errors
    /// If it was made from a tensor of another rank.
    pub fn dims(&self) -> Result<[usize; 3]> {
        let (rows, heads, _) = self.data.dims3()?;
        Ok([rows, heads, self.d])
    }

    /// The rows as a tensor, of floats or of the bytes of packed rows.
    pub(super) fn data(&self) -> &Tensor {
        &self.data
    }
}

/// The bytes of rows, `[n, kv_heads, bytes]`.
fn pack(precision: CachePrecision, rows: &Tensor) -> Result<Tensor> {
    let (n, heads, d) = rows.dims3()?;
    let values = widen(rows)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let width = precision.row_bytes(d)?;
    let bytes =
        quant::quantize(precision.dtype(), &values).expect("whole blocks, as `row_bytes` saw");
    Tensor::from_vec(bytes, (n, heads, width), rows.device())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, of many magnitudes: [24, 3, 64].
    fn rows() -> Tensor {
        let value = |i: u32| {
            let x = i.wrapping_mul(0x9e37_79b9) ^ 0x85eb_ca6b;
            let x = (x ^ x >> 15).wrapping_mul(0x2c1b_3c6d);
            (x as f32 / (1u64 << 31) as f32 - 1.) * 2f32.powi((i / 64 % 13) as i32 - 6)
        };
        Tensor::from_iter((0..24 * 3 * 64).map(value), &Device::Cpu)
            .unwrap()
            .reshape((24, 3, 64))
            .unwrap()
    }

    fn kept(precision: CachePrecision) -> StoredRows {
        let kept = StoredRows::zeros(precision, [30, 3, 64], DType::F32, &Device::Cpu).unwrap();
        kept.write(2, &rows()).unwrap();
        kept
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn values_are_off_by_no_more_than_is_said() {
        let exact = values(&rows());
        for precision in CachePrecision::ALL {
            let found = values(&kept(precision).unpacked().unwrap().narrow(0, 2, 24).unwrap());
            for (found, exact) in found.chunks(32).zip(exact.chunks(32)) {
                let largest = exact.iter().fold(0f32, |most, x| most.max(x.abs()));
                for (found, exact) in found.iter().zip(exact) {
                    let allowed = match precision {
                        CachePrecision::F32 => 0.,
                        CachePrecision::BF16 => exact.abs() / 256.,
                        CachePrecision::Q8_0 => {
                            largest / 254. + found.abs().max(exact.abs()) / 2048.
                        }
                    };
                    assert!(
                        (found - exact).abs() <= allowed * 1.000_01,
                        "{precision}: {found} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_that_move_keep_their_bits() {
        for precision in CachePrecision::ALL {
            let kept = kept(precision);
            let before = values(&kept.unpacked().unwrap());
            let row = |i: usize| &before[i * 3 * 64..(i + 1) * 3 * 64];
            kept.copy_within(5..9, 3).unwrap();
            let grown = kept.grown(70, 7).unwrap();
            let after = values(&grown.unpacked().unwrap());
            assert_eq!(grown.dims().unwrap(), [70, 3, 64]);
            assert_eq!(
                after[..7 * 3 * 64],
                [row(0), row(1), row(2), row(5), row(6), row(7), row(8)].concat()
            );
            assert!(after[7 * 3 * 64..].iter().all(|x| *x == 0.));
        }
    }

    #[test]
    fn heads_that_are_no_whole_blocks_are_refused_in_words() {
        let kept = |precision| StoredRows::zeros(precision, [1, 1, 80], DType::F32, &Device::Cpu);
        let refused = kept(CachePrecision::Q8_0).unwrap_err().to_string();
        assert!(
            refused.contains("q8_0 come in blocks of 32, and the model's heads have 80"),
            "{refused}"
        );
        assert!(kept(CachePrecision::BF16).is_ok());
    }

    #[test]
    fn a_name_leads_back_to_its_precision() {
        for precision in CachePrecision::ALL {
            assert_eq!(CachePrecision::from_name(precision.name()), Some(precision));
        }
        assert_eq!(CachePrecision::from_name("q4_0"), None);
    }
}
