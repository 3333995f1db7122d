//! The formats that compilers vectorise badly, unpacked with AVX2: the same bits as `quant`.

use std::arch::x86_64::*;

use crate::quant::six_bits;

/// w = d·q.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q8_0(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<34>().0.iter().zip(dst.as_chunks_mut::<32>().0) {
        let scale = _mm256_set1_ps(half(block[0], block[1]));
        emit32(load32(&block[2..]), out, |q| _mm256_mul_ps(q, scale));
    }
}

/// w = d·(q − 8).
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q4_0(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<18>().0.iter().zip(dst.as_chunks_mut::<32>().0) {
        let scale = _mm256_set1_ps(half(block[0], block[1]));
        let q = _mm256_sub_epi8(nibbles(&block[2..]), _mm256_set1_epi8(8));
        emit32(q, out, |q| _mm256_mul_ps(q, scale));
    }
}

/// w = d·q + m.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q4_1(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<20>().0.iter().zip(dst.as_chunks_mut::<32>().0) {
        let scale = _mm256_set1_ps(half(block[0], block[1]));
        let min = _mm256_set1_ps(half(block[2], block[3]));
        emit32(nibbles(&block[4..]), out, |q| _mm256_add_ps(_mm256_mul_ps(q, scale), min));
    }
}

/// w = d·(q − 16).
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q5_0(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<22>().0.iter().zip(dst.as_chunks_mut::<32>().0) {
        let scale = _mm256_set1_ps(half(block[0], block[1]));
        let fifth = fifth_bits([block[2], block[3], block[4], block[5]]);
        let q = _mm256_or_si256(nibbles(&block[6..]), fifth);
        let q = _mm256_sub_epi8(q, _mm256_set1_epi8(16));
        emit32(q, out, |q| _mm256_mul_ps(q, scale));
    }
}

/// w = d·q + m.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q5_1(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<24>().0.iter().zip(dst.as_chunks_mut::<32>().0) {
        let scale = _mm256_set1_ps(half(block[0], block[1]));
        let min = _mm256_set1_ps(half(block[2], block[3]));
        let fifth = fifth_bits([block[4], block[5], block[6], block[7]]);
        let q = _mm256_or_si256(nibbles(&block[8..]), fifth);
        emit32(q, out, |q| _mm256_add_ps(_mm256_mul_ps(q, scale), min));
    }
}

/// w = (d·scale)·q − dmin·min, parts of 16.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q2k(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<84>().0.iter().zip(dst.as_chunks_mut::<256>().0) {
        let (d, dmin) = (half(block[80], block[81]), half(block[82], block[83]));
        for (pair, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bytes = load32(&block[16 + pair / 4 * 32..]);
            let shifted = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((pair % 4 * 2) as i32));
            let q = _mm256_and_si256(shifted, _mm256_set1_epi8(3));
            let scale = |i: usize| _mm256_set1_ps(d * f32::from(block[2 * pair + i] & 15));
            let min = |i: usize| _mm256_set1_ps(dmin * f32::from(block[2 * pair + i] >> 4));
            let (scales, mins) = ([scale(0), scale(1)], [min(0), min(1)]);
            let (low, high) = out.split_at_mut(16);
            let (q0, q1) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
            emit16(q0, low, |q| _mm256_sub_ps(_mm256_mul_ps(q, scales[0]), mins[0]));
            emit16(q1, high, |q| _mm256_sub_ps(_mm256_mul_ps(q, scales[1]), mins[1]));
        }
    }
}

/// w = (d·scale)·q − dmin·min, parts of 32.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q4k(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<144>().0.iter().zip(dst.as_chunks_mut::<256>().0) {
        let (d, dmin) = (half(block[0], block[1]), half(block[2], block[3]));
        let (scales, mins) = six_bits(block);
        for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let bytes = load32(&block[16 + 32 * pair..]);
            let low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(15));
            let (out_low, out_high) = out.as_chunks_mut::<32>().0.split_at_mut(1);
            for (part, q, out) in
                [(2 * pair, low, &mut out_low[0]), (2 * pair + 1, high, &mut out_high[0])]
            {
                let scale = _mm256_set1_ps(d * f32::from(scales[part]));
                let min = _mm256_set1_ps(dmin * f32::from(mins[part]));
                emit32(q, out, |q| _mm256_sub_ps(_mm256_mul_ps(q, scale), min));
            }
        }
    }
}

/// w = (d·scale)·(q − 32), parts of 16.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn q6k(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<210>().0.iter().zip(dst.as_chunks_mut::<256>().0) {
        let d = half(block[208], block[209]);
        for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            // Four runs of 32 lie on top of each other in each half of the block.
            let (half, level) = (run / 4, run % 4);
            let low = load32(&block[half * 64 + level % 2 * 32..]);
            let low = _mm256_srl_epi16(low, _mm_cvtsi32_si128((level / 2 * 4) as i32));
            let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
            let high = load32(&block[128 + half * 32..]);
            let high = _mm256_srl_epi16(high, _mm_cvtsi32_si128((level * 2) as i32));
            let high = _mm256_and_si256(high, _mm256_set1_epi8(3));
            let q = _mm256_or_si256(low, _mm256_slli_epi16::<4>(high));
            let q = _mm256_sub_epi8(q, _mm256_set1_epi8(32));
            let scale = |i: usize| _mm256_set1_ps(d * f32::from(block[192 + 2 * run + i] as i8));
            let scales = [scale(0), scale(1)];
            let (first, second) = out.split_at_mut(16);
            emit16(_mm256_castsi256_si128(q), first, |q| _mm256_mul_ps(q, scales[0]));
            emit16(_mm256_extracti128_si256::<1>(q), second, |q| _mm256_mul_ps(q, scales[1]));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn half(low: u8, high: u8) -> f32 {
    let bits = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes([low, high])));
    _mm_cvtss_f32(_mm_cvtph_ps(bits))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load32(bytes: &[u8]) -> __m256i {
    let bytes: &[u8; 32] = bytes.first_chunk().expect("a block holds what its layout says");
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Sixteen low nibbles, then the sixteen high ones.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn nibbles(bytes: &[u8]) -> __m256i {
    let bytes: &[u8; 16] = bytes.first_chunk().expect("a block holds what its layout says");
    // SAFETY: 16 bytes.
    let low = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// Bit i of the word as 0 or 16 in byte i.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn fifth_bits(word: [u8; 4]) -> __m256i {
    let spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3,
        3, 3,
    );
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(word)), spread);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// 32 signed bytes through `weight`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn emit32(q: __m256i, out: &mut [f32; 32], weight: impl Fn(__m256) -> __m256) {
    let (low, high) = out.split_at_mut(16);
    emit16(_mm256_castsi256_si128(q), low, &weight);
    emit16(_mm256_extracti128_si256::<1>(q), high, &weight);
}

/// 16 signed bytes through `weight`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn emit16(q: __m128i, out: &mut [f32], weight: impl Fn(__m256) -> __m256) {
    let out: &mut [f32; 16] = out.first_chunk_mut().expect("both halves are sixteen");
    let low = weight(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)));
    let high = weight(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(q, q))));
    // SAFETY: sixteen floats.
    unsafe {
        _mm256_storeu_ps(out.as_mut_ptr(), low);
        _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
    }
}
