//! How weights are stored: the GGML block formats, byte for byte, as plain scalar code.
//!
//! This is the definition. The fast unpackers in `gemv` give the same bits.

mod k_dequantize;
mod k_quantize;
mod small;

#[cfg(target_arch = "x86_64")]
pub(crate) use k_dequantize::six_bits;

/// How a [`WeightMatrix`](crate::WeightMatrix) is stored; the names and layouts are GGML's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WeightDtype {
    /// 32-bit floats, little endian like everything here.
    F32,
    /// IEEE 16-bit floats.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// Blocks of 32: 4 bits and a scale.
    Q4_0,
    /// Blocks of 32: 4 bits, a scale and a minimum.
    Q4_1,
    /// Blocks of 32: 5 bits and a scale.
    Q5_0,
    /// Blocks of 32: 5 bits, a scale and a minimum.
    Q5_1,
    /// Blocks of 32: 8 bits and a scale.
    Q8_0,
    /// Blocks of 256 in 16 parts: 2 bits, 4-bit scales and minima.
    Q2K,
    /// Blocks of 256 in 16 parts: 3 bits, 6-bit scales.
    Q3K,
    /// Blocks of 256 in 8 parts: 4 bits, 6-bit scales and minima.
    Q4K,
    /// Blocks of 256 in 8 parts: 5 bits, 6-bit scales and minima.
    Q5K,
    /// Blocks of 256 in 16 parts: 6 bits, 8-bit scales.
    Q6K,
}

impl WeightDtype {
    /// Every format, plain ones first.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Weights in a block; a row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes in a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes in a row of `cols` weights; none if `cols` is not a whole number of blocks or too many.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// Unpacks whole blocks: `src` holds the bytes of `dst.len()` weights.
#[inline(always)]
pub(crate) fn dequantize(dtype: WeightDtype, src: &[u8], dst: &mut [f32]) {
    debug_assert_eq!(Some(src.len()), dtype.row_bytes(dst.len()));
    match dtype {
        WeightDtype::F32 => each(src, dst, |&w, y: &mut [f32; 1]| y[0] = f32::from_le_bytes(w)),
        WeightDtype::F16 => {
            each(src, dst, |&w, y: &mut [f32; 1]| y[0] = f16_to_f32(u16::from_le_bytes(w)));
        }
        WeightDtype::BF16 => each(src, dst, |&w, y: &mut [f32; 1]| {
            y[0] = f32::from_bits(u32::from(u16::from_le_bytes(w)) << 16);
        }),
        WeightDtype::Q4_0 => each(src, dst, small::dequantize_q4_0),
        WeightDtype::Q4_1 => each(src, dst, small::dequantize_q4_1),
        WeightDtype::Q5_0 => each(src, dst, small::dequantize_q5_0),
        WeightDtype::Q5_1 => each(src, dst, small::dequantize_q5_1),
        WeightDtype::Q8_0 => each(src, dst, small::dequantize_q8_0),
        WeightDtype::Q2K => each(src, dst, k_dequantize::dequantize_q2k),
        WeightDtype::Q3K => each(src, dst, k_dequantize::dequantize_q3k),
        WeightDtype::Q4K => each(src, dst, k_dequantize::dequantize_q4k),
        WeightDtype::Q5K => each(src, dst, k_dequantize::dequantize_q5k),
        WeightDtype::Q6K => each(src, dst, k_dequantize::dequantize_q6k),
    }
}

/// Packs whole blocks of finite values no larger than an f16 holds. None for the formats that are
/// read only: Q2K, Q3K, Q5K.
pub(crate) fn quantize(dtype: WeightDtype, src: &[f32]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; dtype.row_bytes(src.len())?];
    let dst = &mut bytes[..];
    match dtype {
        WeightDtype::F32 => each_back(src, dst, |&x: &[f32; 1], y| *y = x[0].to_le_bytes()),
        WeightDtype::F16 => each_back(src, dst, |&x: &[f32; 1], y| {
            *y = half::f16::from_f32(x[0]).to_le_bytes();
        }),
        WeightDtype::BF16 => each_back(src, dst, |&x: &[f32; 1], y| {
            *y = half::bf16::from_f32(x[0]).to_le_bytes();
        }),
        WeightDtype::Q4_0 => each_back(src, dst, small::quantize_q4_0),
        WeightDtype::Q4_1 => each_back(src, dst, small::quantize_q4_1),
        WeightDtype::Q5_0 => each_back(src, dst, small::quantize_q5_0),
        WeightDtype::Q5_1 => each_back(src, dst, small::quantize_q5_1),
        WeightDtype::Q8_0 => each_back(src, dst, small::quantize_q8_0),
        WeightDtype::Q4K => each_back(src, dst, k_quantize::quantize_q4k),
        WeightDtype::Q6K => each_back(src, dst, k_quantize::quantize_q6k),
        WeightDtype::Q2K | WeightDtype::Q3K | WeightDtype::Q5K => return None,
    }
    Some(bytes)
}

#[inline(always)]
fn each<const BYTES: usize, const LEN: usize>(
    src: &[u8],
    dst: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (src, dst) = (src.as_chunks::<BYTES>().0, dst.as_chunks_mut::<LEN>().0);
    for (block_bytes, weights) in src.iter().zip(dst) {
        block(block_bytes, weights);
    }
}

fn each_back<const LEN: usize, const BYTES: usize>(
    src: &[f32],
    dst: &mut [u8],
    block: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    let (src, dst) = (src.as_chunks::<LEN>().0, dst.as_chunks_mut::<BYTES>().0);
    for (weights, block_bytes) in src.iter().zip(dst) {
        block(weights, block_bytes);
    }
}

/// The value of an IEEE half, exactly, without a branch: shift the exponent into place, then
/// multiply by 2^112 for the difference of the two biases (which makes subnormals right too).
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let bits = u32::from(half);
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    // Exponent 31 came out as 2^16 and more: infinity or NaN, whose exponent is all ones.
    let special = if magnitude >= 65536.0 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// A half stored at `at`.
#[inline(always)]
fn half_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// `value` as the two bytes of a half, and as the reader will see it.
fn to_half(value: f32) -> ([u8; 2], f32) {
    let half = half::f16::from_f32(value);
    (half.to_le_bytes(), half.to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_becomes_its_own_value() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let got = f16_to_f32(bits);
            assert!(
                got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
                "{bits:#x}: {got} instead of {expected}"
            );
        }
    }
}
