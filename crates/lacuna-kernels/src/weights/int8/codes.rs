//! Reads packed weights as scale · code + offset, with codes that are whole numbers below 256.

use crate::simd::Halves;
use crate::weights::dtype::StorageDtype;
use crate::weights::quant::six_bits;

/// Tells whether a format's weights can be multiplied as integers.
pub(in crate::weights) fn has_codes(dtype: StorageDtype) -> bool {
    use StorageDtype::{Q4_0, Q4_1, Q4K, Q6K, Q8_0};
    matches!(dtype, Q4_0 | Q4_1 | Q4K | Q6K | Q8_0)
}

/// A format that is read as codes. All of its functions are `#[inline(always)]`.
pub(super) trait Codes {
    /// A block of weights as a file stores it.
    type Stored;
    /// The number of parts of 32 weights in a block.
    const PARTS: usize;
    /// The number of scales in a part: 1, or 2 where each half has its own.
    const HALVES: usize;
    /// True if codes can be 128 and more.
    const WIDE: bool;

    fn blocks(row: &[u8]) -> &[Self::Stored];
    /// Reads the scales and the offsets of every half (or whole) part in turn.
    fn scales(block: &Self::Stored, halves: &Halves) -> ([f32; 16], [f32; 16]);
    /// Reads the codes of a part, four to a word, the first one lowest.
    fn codes(block: &Self::Stored, part: usize) -> [u32; 8];
}

/// Writes the part of an implementation that all formats share, for blocks of so many parts, halves and bytes.
macro_rules! stored {
    ($parts:literal, $halves:literal, $bytes:literal, wide: $wide:literal) => {
        type Stored = [u8; $bytes];
        const PARTS: usize = $parts;
        const HALVES: usize = $halves;
        const WIDE: bool = $wide;

        #[inline(always)]
        fn blocks(row: &[u8]) -> &[[u8; $bytes]] {
            row.as_chunks().0
        }
    };
}

pub(super) struct Q4_0;

impl Codes for Q4_0 {
    stored!(1, 1, 18, wide: false);

    #[inline(always)]
    fn scales(block: &[u8; 18], halves: &Halves) -> ([f32; 16], [f32; 16]) {
        let d = halves.at(&block[0..]);
        ([d; 16], [-8. * d; 16])
    }

    #[inline(always)]
    fn codes(block: &[u8; 18], _: usize) -> [u32; 8] {
        nibbles(&block[2..])
    }
}

pub(super) struct Q4_1;

impl Codes for Q4_1 {
    stored!(1, 1, 20, wide: false);

    #[inline(always)]
    fn scales(block: &[u8; 20], halves: &Halves) -> ([f32; 16], [f32; 16]) {
        ([halves.at(&block[0..]); 16], [halves.at(&block[2..]); 16])
    }

    #[inline(always)]
    fn codes(block: &[u8; 20], _: usize) -> [u32; 8] {
        nibbles(&block[4..])
    }
}

/// Signed bytes, raised by 128.
pub(super) struct Q8_0;

impl Codes for Q8_0 {
    stored!(1, 1, 34, wide: true);

    #[inline(always)]
    fn scales(block: &[u8; 34], halves: &Halves) -> ([f32; 16], [f32; 16]) {
        let d = halves.at(&block[0..]);
        ([d; 16], [-128. * d; 16])
    }

    #[inline(always)]
    fn codes(block: &[u8; 34], _: usize) -> [u32; 8] {
        let mut words: [u32; 8] = words(&block[2..]);
        for word in &mut words {
            *word ^= 0x8080_8080;
        }
        words
    }
}

pub(super) struct Q4K;

impl Codes for Q4K {
    stored!(8, 1, 144, wide: false);

    #[inline(always)]
    fn scales(block: &[u8; 144], halves: &Halves) -> ([f32; 16], [f32; 16]) {
        let (d, dmin) = (halves.at(&block[0..]), halves.at(&block[2..]));
        let (bytes, mins) = six_bits(block);
        let (mut scales, mut offsets) = ([0.; 16], [0.; 16]);
        for i in 0..8 {
            scales[i] = d * f32::from(bytes[i]);
            offsets[i] = -dmin * f32::from(mins[i]);
        }
        (scales, offsets)
    }

    #[inline(always)]
    fn codes(block: &[u8; 144], part: usize) -> [u32; 8] {
        let mut words: [u32; 8] = words(&block[16 + part / 2 * 32..]);
        for word in &mut words {
            *word = (*word >> (part % 2 * 4)) & 0x0f0f_0f0f;
        }
        words
    }
}

pub(super) struct Q6K;

impl Codes for Q6K {
    stored!(8, 2, 210, wide: false);

    #[inline(always)]
    fn scales(block: &[u8; 210], halves: &Halves) -> ([f32; 16], [f32; 16]) {
        let d = halves.at(&block[208..]);
        let (mut scales, mut offsets) = ([0.; 16], [0.; 16]);
        for i in 0..16 {
            scales[i] = d * f32::from(block[192 + i] as i8);
            offsets[i] = -32. * scales[i];
        }
        (scales, offsets)
    }

    #[inline(always)]
    fn codes(block: &[u8; 210], part: usize) -> [u32; 8] {
        let (side, level) = (part / 4, part % 4);
        let mut lows: [u32; 8] = words(&block[side * 64 + level % 2 * 32..]);
        let highs: [u32; 8] = words(&block[128 + side * 32..]);
        for (low, high) in lows.iter_mut().zip(highs) {
            let high = (high >> (level * 2)) & 0x0303_0303;
            *low = (*low >> (level / 2 * 4)) & 0x0f0f_0f0f | high << 4;
        }
        lows
    }
}

/// Reads sixteen low nibbles, then the sixteen high ones, as codes.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u32; 8] {
    let four: [u32; 4] = words(bytes);
    let mut both = [0; 8];
    for (i, word) in four.into_iter().enumerate() {
        both[i] = word & 0x0f0f_0f0f;
        both[4 + i] = (word >> 4) & 0x0f0f_0f0f;
    }
    both
}

#[inline(always)]
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let bytes: &[[u8; 4]; N] = bytes.as_chunks().0.first_chunk().expect("a part's bytes");
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}
