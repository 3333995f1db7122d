//! Lists the formats that values are stored in, in checkpoint files and as weights in memory, with the sizes of their
//! blocks.

use candle_core::DType;

/// The format that a tensor's values are stored in, in a file or in a [`WeightMatrix`](crate::WeightMatrix). The
/// names and layouts of the quantized ones are GGML's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StorageDtype {
    /// 64-bit floats, little endian like everything here.
    F64,
    /// 32-bit floats.
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

use StorageDtype::*;

impl StorageDtype {
    /// Every format, floats first.
    pub const ALL: [StorageDtype; 14] =
        [F64, F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K];

    /// The number of values that are stored together, and the number of bytes that they take.
    pub const fn block(self) -> (usize, usize) {
        match self {
            F64 => (1, 8),
            F32 => (1, 4),
            F16 | BF16 => (1, 2),
            Q4_0 => (32, 18),
            Q4_1 => (32, 20),
            Q5_0 => (32, 22),
            Q5_1 => (32, 24),
            Q8_0 => (32, 34),
            Q2K => (256, 84),
            Q3K => (256, 110),
            Q4K => (256, 144),
            Q5K => (256, 176),
            Q6K => (256, 210),
        }
    }

    /// Values in a block; a row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        self.block().0
    }

    /// Bytes in a block.
    pub const fn block_bytes(self) -> usize {
        self.block().1
    }

    /// Bytes in a row of `cols` values; none if `cols` is not a whole number of blocks or too many.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        let (values, bytes) = self.block();
        if !cols.is_multiple_of(values) {
            return None;
        }
        (cols / values).checked_mul(bytes)
    }

    /// True for formats that store values in blocks with a shared scale.
    pub const fn is_quantized(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes that a tensor takes; `None` if a row does not divide into blocks or the size overflows.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let (values, bytes) = self.block();
        if !shape.last().copied().unwrap_or(1).is_multiple_of(values) {
            return None;
        }
        let elements = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        (elements / values).checked_mul(bytes)
    }

    /// True for formats that matrices are converted into, for GGUF files and in memory: not f64, which no kernel
    /// reads faster than f32, and of the quantized ones those that have a packer.
    pub const fn is_packable(self) -> bool {
        !matches!(self, F64 | Q2K | Q3K | Q5K)
    }

    /// The format that a tensor of this shape takes if this one is asked for: this one, if the rows are whole numbers
    /// of its blocks; else the next finer one that has blocks of 32 values in place of 256 (q2_k, q3_k and q4_k
    /// become q5_0, q5_k becomes q5_1, q6_k becomes q8_0; llama.cpp does nearly the same); else f16. A vector, a norm
    /// or a bias, is never quantized but kept in f32.
    ///
    /// ```
    /// use lacuna_kernels::StorageDtype::{F16, Q4K, Q5_0};
    /// assert_eq!(Q4K.fitting(&[8, 512]), Q4K);
    /// assert_eq!(Q4K.fitting(&[8, 576]), Q5_0); // 576 = 2.25 · 256 = 18 · 32
    /// assert_eq!(Q4K.fitting(&[8, 100]), F16);
    /// ```
    pub fn fitting(self, shape: &[usize]) -> Self {
        let cols = match shape {
            _ if !self.is_quantized() => return self,
            [_, cols] => *cols,
            _ => return F32,
        };
        let of_32 = match self {
            Q2K | Q3K | Q4K => Q5_0,
            Q5K => Q5_1,
            Q6K => Q8_0,
            other => other,
        };
        let fits = |dtype: Self| cols.is_multiple_of(dtype.block().0);
        [self, of_32].into_iter().find(|dtype| fits(*dtype)).unwrap_or(F16)
    }

    /// The format for the matrix that makes the logits (the head, or an embedding that is also the head) in a model
    /// whose other matrices are in this one: q8_0 in place of q4_0 and q4_1, as llama.cpp does. Its rounding errors
    /// meet no further layer that evens them out.
    ///
    /// ```
    /// use lacuna_kernels::StorageDtype::{BF16, Q4_0, Q8_0};
    /// assert_eq!((Q4_0.for_logits(), BF16.for_logits()), (Q8_0, BF16));
    /// ```
    #[must_use]
    pub const fn for_logits(self) -> Self {
        match self {
            Q4_0 | Q4_1 => Q8_0,
            other => other,
        }
    }

    /// The name in lower case, as `--dtype` takes it and `inspect` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            F64 => "f64",
            F32 => "f32",
            F16 => "f16",
            BF16 => "bf16",
            Q4_0 => "q4_0",
            Q4_1 => "q4_1",
            Q5_0 => "q5_0",
            Q5_1 => "q5_1",
            Q8_0 => "q8_0",
            Q2K => "q2_k",
            Q3K => "q3_k",
            Q4K => "q4_k",
            Q5K => "q5_k",
            Q6K => "q6_k",
        }
    }

    /// The format that `name` names, in either case, also as `float32` or `bfloat16`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "float64" | "double" => Some(F64),
            "float32" | "float" => Some(F32),
            "float16" | "half" => Some(F16),
            "bfloat16" => Some(BF16),
            lower => Self::ALL.into_iter().find(|dtype| dtype.name() == lower),
        }
    }

    /// candle's dtype of the same values, if it has one.
    pub const fn to_candle(self) -> Option<DType> {
        match self {
            F64 => Some(DType::F64),
            F32 => Some(DType::F32),
            F16 => Some(DType::F16),
            BF16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// The storage format of candle's floats; `None` for integers.
    pub const fn from_candle(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F64 => Some(F64),
            DType::F32 => Some(F32),
            DType::F16 => Some(F16),
            DType::BF16 => Some(BF16),
            _ => None,
        }
    }
}

impl std::fmt::Display for StorageDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_format() {
        for dtype in StorageDtype::ALL {
            assert_eq!(StorageDtype::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(StorageDtype::from_name("bfloat16"), Some(BF16));
        assert_eq!(StorageDtype::from_name("int8"), None);
    }

    #[test]
    fn sizes_never_wrap() {
        assert_eq!(F32.bytes_of(&[2, 3]), Some(24));
        assert_eq!(Q4_0.bytes_of(&[2, 64]), Some(2 * 2 * 18));
        assert_eq!(Q4_0.bytes_of(&[32, 2]), None, "a row must divide into blocks");
        assert_eq!(F32.bytes_of(&[1 << 33, 1 << 33]), None);
        assert_eq!(F32.bytes_of(&[1 << 62]), None);
    }
}
