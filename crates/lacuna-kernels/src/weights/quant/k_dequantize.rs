//! Reads blocks of 256 weights in parts of 16 or 32, each with a small integer scale: Q2_K to Q6_K.

use super::half_at;

/// Unpacks Q2_K: w = (d·scale)·q − dmin·min, in parts of 16. A block is 16 bytes of scales and minima, 64 of quants,
/// d and dmin.
#[inline(always)]
pub(super) fn dequantize_q2k(block: &[u8; 84], weights: &mut [f32; 256]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (part, out) in weights.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[part] & 15);
        let min = dmin * f32::from(scales[part] >> 4);
        // Eight parts share 32 bytes: two parts side by side, four on top of each other.
        let (bytes, shift) = (&quants[part / 8 * 32 + part % 2 * 16..][..16], part % 8 / 2 * 2);
        for (w, &byte) in out.iter_mut().zip(bytes) {
            *w = scale * f32::from((byte >> shift) & 3) - min;
        }
    }
}

/// Unpacks Q3_K: w = d·(scale − 32)·(q − 4), in parts of 16. A block is 32 bytes of third bits, 64 of two low bits,
/// 12 of scales, and d.
#[inline(always)]
pub(super) fn dequantize_q3k(block: &[u8; 110], weights: &mut [f32; 256]) {
    let (thirds, quants, scales) = (&block[..32], &block[32..96], three_bit_scales(block));
    let d = half_at(block, 108);
    for (part, out) in weights.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[part]);
        let side = part % 2 * 16;
        let (bytes, shift) = (&quants[part / 8 * 32 + side..][..16], part % 8 / 2 * 2);
        let (thirds, third) = (&thirds[side..][..16], part / 2);
        for ((w, &byte), &bits) in out.iter_mut().zip(bytes).zip(thirds) {
            let q = (byte >> shift) & 3 | ((bits >> third) & 1) << 2;
            *w = scale * f32::from(q as i8 - 4);
        }
    }
}

/// The sixteen scales of Q3_K, from the twelve bytes at 96.
#[inline(always)]
pub(crate) fn three_bit_scales(block: &[u8; 110]) -> [i8; 16] {
    let scales = &block[96..108];
    std::array::from_fn(|part| {
        let low = if part < 8 { scales[part] & 15 } else { scales[part - 8] >> 4 };
        let high = (scales[8 + part % 4] >> (part / 4 * 2)) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// Unpacks Q4_K: w = (d·scale)·q − dmin·min, in parts of 32. A block is d, dmin, 12 bytes of scales and minima, and
/// 128 of nibbles.
#[inline(always)]
pub(super) fn dequantize_q4k(block: &[u8; 144], weights: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, quants) = (six_bits(block), &block[16..144]);
    for (part, out) in weights.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales.0[part]), dmin * f32::from(scales.1[part]));
        let shift = part % 2 * 4;
        for (w, &byte) in out.iter_mut().zip(&quants[part / 2 * 32..][..32]) {
            *w = scale * f32::from((byte >> shift) & 15) - min;
        }
    }
}

/// Unpacks Q5_K: w = (d·scale)·q − dmin·min, in parts of 32. A block is d, dmin, 12 bytes of scales and minima, 32 of
/// fifth bits, and 128 of nibbles.
#[inline(always)]
pub(super) fn dequantize_q5k(block: &[u8; 176], weights: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, fifths, quants) = (six_bits(block), &block[16..48], &block[48..176]);
    for (part, out) in weights.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales.0[part]), dmin * f32::from(scales.1[part]));
        let shift = part % 2 * 4;
        let bytes = &quants[part / 2 * 32..][..32];
        for ((w, &byte), &bits) in out.iter_mut().zip(bytes).zip(fifths) {
            let q = (byte >> shift) & 15 | ((bits >> part) & 1) << 4;
            *w = scale * f32::from(q) - min;
        }
    }
}

/// Unpacks Q6_K: w = (d·scale)·(q − 32), in parts of 16. A block is 128 bytes of low nibbles, 64 of two high bits, 16
/// signed scales, and d.
#[inline(always)]
pub(super) fn dequantize_q6k(block: &[u8; 210], weights: &mut [f32; 256]) {
    let (lows, highs, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (part, out) in weights.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[part] as i8);
        // Within each half of 128: four runs of 32 on top of each other, each of two parts.
        let (half, run, side) = (part / 8, part % 8 / 2, part % 2 * 16);
        let lows = &lows[half * 64 + run % 2 * 32 + side..][..16];
        let highs = &highs[half * 32 + side..][..16];
        for ((w, &low), &high) in out.iter_mut().zip(lows).zip(highs) {
            let q = (low >> (run / 2 * 4)) & 15 | ((high >> (run * 2)) & 3) << 4;
            *w = scale * f32::from(q as i8 - 32);
        }
    }
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K, from the twelve bytes at 4.
#[inline(always)]
pub(crate) fn six_bits<const N: usize>(block: &[u8; N]) -> ([u8; 8], [u8; 8]) {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| block[4 + at + i]));
    let (a, b, c) = (word(0), word(4), word(8));
    let pair = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = pair(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | (a >> 2) & 0x3030_3030);
    let mins = pair(b & 0x3f3f_3f3f, (c >> 4) & 0x0f0f_0f0f | (b >> 2) & 0x3030_3030);
    (scales, mins)
}
