//! Reads IEEE halves as floats, in plain Rust.

use std::sync::LazyLock;

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

/// Every half as f32, looked up by its bits: blocks of quantized weights are small, so their scales
/// must come cheaply.
pub(crate) struct Halves([f32; 1 << 16]);

impl Halves {
    /// The table, made at the first call.
    pub(crate) fn table() -> &'static Self {
        static TABLE: LazyLock<Box<Halves>> = LazyLock::new(|| {
            let mut table = Box::new(Halves([0.0; 1 << 16]));
            table
                .0
                .iter_mut()
                .zip(0..=u16::MAX)
                .for_each(|(value, half)| *value = f16_to_f32(half));
            table
        });
        &TABLE
    }

    /// The half stored in the first two bytes.
    ///
    /// They are read as one number: from two single bytes compilers make two loads, and an address of both.
    #[inline(always)]
    pub(crate) fn at(&self, bytes: &[u8]) -> f32 {
        let bits = bytes.first_chunk().expect("the two bytes of a half");
        self.0[usize::from(u16::from_le_bytes(*bits))]
    }
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
