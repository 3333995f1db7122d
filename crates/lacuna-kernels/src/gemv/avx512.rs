//! The innermost loops for AVX-512: sixteen lanes.

use std::arch::x86_64::*;

use super::format::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q6K, Q8_0, block_of};
use super::{Halves, Leaves, Multiply, PART, Panel, avx2};
use crate::dtype::StorageDtype;
use crate::quant::{self, six_bits};

/// The leaves, if this processor runs them.
pub(super) fn leaves() -> Option<Leaves> {
    let narrow = avx2::leaves()?;
    // VL, because without it the compiler keeps out of half of the registers.
    let runs_here = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let direct = |dtype| {
        Some(match dtype {
            StorageDtype::F32 => multiply::<F32> as Multiply,
            StorageDtype::F16 => multiply::<F16>,
            StorageDtype::BF16 => multiply::<BF16>,
            StorageDtype::Q4_0 => multiply::<Q4_0>,
            StorageDtype::Q4_1 => multiply::<Q4_1>,
            StorageDtype::Q8_0 => multiply::<Q8_0>,
            StorageDtype::Q4K => multiply::<Q4K>,
            StorageDtype::Q6K => multiply::<Q6K>,
            _ => return None,
        })
    };
    let unpack = |dtype, src: &[u8], dst: &mut [f32]| {
        // SAFETY: the features were detected.
        unsafe { unpack_blocks(dtype, src, dst) }
    };
    runs_here.then_some(Leaves { unpack, multiply: multiply::<F32>, direct, ..narrow })
}

/// Unpacks `src`, whole blocks of `dtype`, to as many weights.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
fn unpack_blocks(dtype: StorageDtype, src: &[u8], dst: &mut [f32]) {
    match dtype {
        StorageDtype::F16 => unpack_format::<F16>(dtype, src, dst),
        StorageDtype::BF16 => unpack_format::<BF16>(dtype, src, dst),
        StorageDtype::Q4_0 => unpack_format::<Q4_0>(dtype, src, dst),
        StorageDtype::Q4_1 => unpack_format::<Q4_1>(dtype, src, dst),
        StorageDtype::Q8_0 => unpack_format::<Q8_0>(dtype, src, dst),
        StorageDtype::Q4K => unpack_format::<Q4K>(dtype, src, dst),
        StorageDtype::Q6K => unpack_format::<Q6K>(dtype, src, dst),
        _ => avx2::unpack(dtype, src, dst),
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
fn unpack_format<const FORMAT: u8>(dtype: StorageDtype, src: &[u8], dst: &mut [f32]) {
    let (parts, block_bytes) = const { block_of(FORMAT) };
    let halves = &*super::HALVES;
    let (blocks, weights) = (src.chunks_exact(block_bytes), dst.chunks_exact_mut(PART * parts));
    for (block, weights) in blocks.zip(weights) {
        // SAFETY: a whole block, and room for its weights, sixteen at a time.
        unsafe {
            let block = block.as_ptr();
            let scales = Scales::of_if_any::<FORMAT>(halves, block);
            for part in 0..parts {
                for half in 0..2 {
                    let to = weights.as_mut_ptr().add(PART * part + 16 * half);
                    _mm512_storeu_ps(to, sixteen_of::<FORMAT>(halves, &scales, block, part, half));
                }
            }
        }
    }
    let done = dst.len() / (PART * parts);
    let (src, dst) = (&src[done * block_bytes..], &mut dst[done * PART * parts..]);
    quant::dequantize(dtype, src, dst);
}

/// # Safety
/// See [`Panel`], with weights in `FORMAT`; the processor has AVX-512 F, DQ and VL.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn multiply<const FORMAT: u8>(panel: &Panel) {
    // SAFETY: the panel's promise.
    unsafe {
        match panel.x_rows {
            1 => rows::<FORMAT, 4, 1>(panel),
            2 => rows::<FORMAT, 4, 2>(panel),
            3 => rows::<FORMAT, 4, 3>(panel),
            4 => rows::<FORMAT, 4, 4>(panel),
            5 => rows::<FORMAT, 3, 5>(panel),
            6 => rows::<FORMAT, 3, 6>(panel),
            7 => eight_or_so::<FORMAT, 7>(panel),
            8 => eight_or_so::<FORMAT, 8>(panel),
            rows => unreachable!("a group of {rows} rows"),
        }
    }
}

/// As many weight rows at a time as the registers hold beside what unpacking needs.
///
/// # Safety
/// See [`multiply`]; X = x_rows.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn eight_or_so<const FORMAT: u8, const X: usize>(panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        match FORMAT {
            F32 | F16 | BF16 => rows::<FORMAT, 3, X>(panel),
            _ => rows::<FORMAT, 2, X>(panel),
        }
    }
}

/// All weight rows against the X rows of x, W weight rows at a time.
///
/// # Safety
/// See [`multiply`]; X = x_rows.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn rows<const FORMAT: u8, const W: usize, const X: usize>(panel: &Panel) {
    let mut row = 0;
    // SAFETY: row + W ≤ w_rows, or row + 1 ≤ w_rows.
    unsafe {
        while row + W <= panel.w_rows {
            block::<FORMAT, W, X>(panel, row);
            row += W;
        }
        while row < panel.w_rows {
            block::<FORMAT, 1, X>(panel, row);
            row += 1;
        }
    }
}

/// W × X running sums in registers; each weight is unpacked once for X rows of x.
///
/// # Safety
/// See [`multiply`]; w_row + W ≤ w_rows, X = x_rows.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn block<const FORMAT: u8, const W: usize, const X: usize>(panel: &Panel, w_row: usize) {
    let (parts, block_bytes) = const { block_of(FORMAT) };
    let mut lanes = [[_mm512_setzero_ps(); W]; X];
    let mut scales = [Scales::default(); W];
    // SAFETY: all offsets are within what the panel promises.
    unsafe {
        let mut w = panel.w.add(w_row * panel.w_stride);
        let mut x = panel.x;
        let carried = panel.sums.carried.add(w_row);
        let carried = |i: usize, j: usize| carried.add(i * panel.w_rows + j).cast::<f32>();
        if !panel.sums.first {
            for (i, lanes) in lanes.iter_mut().enumerate() {
                for (j, lanes) in lanes.iter_mut().enumerate() {
                    *lanes = _mm512_loadu_ps(carried(i, j));
                }
            }
        }
        for _ in 0..panel.len / (PART * parts) {
            for (j, scales) in scales.iter_mut().enumerate() {
                *scales = Scales::of_if_any::<FORMAT>(panel.halves, w.add(j * panel.w_stride));
            }
            for part in 0..parts {
                for half in 0..2 {
                    let mut weights = [_mm512_setzero_ps(); W];
                    for (j, weights) in weights.iter_mut().enumerate() {
                        let block = w.add(j * panel.w_stride);
                        let halves = panel.halves;
                        *weights = sixteen_of::<FORMAT>(halves, &scales[j], block, part, half);
                        if half == 0 || FORMAT == F32 {
                            let line = block_bytes * part / parts + 64 * half;
                            let next = block.wrapping_add(panel.ahead + line);
                            // Many products hide the second-level cache, not the memory.
                            match X {
                                1..=4 => _mm_prefetch::<_MM_HINT_T0>(next.cast()),
                                _ => _mm_prefetch::<_MM_HINT_T1>(next.cast()),
                            }
                        }
                    }
                    for (i, lanes) in lanes.iter_mut().enumerate() {
                        let x = _mm512_load_ps(x.add(16 * (half * X + i)));
                        for (weights, lanes) in weights.iter().zip(lanes) {
                            *lanes = _mm512_fmadd_ps(*weights, x, *lanes);
                        }
                    }
                }
                x = x.add(PART * X);
            }
            w = w.add(block_bytes);
        }
        if let Some(out) = panel.sums.out {
            return write(&lanes, out.add(w_row), panel.sums.stride);
        }
        for (i, lanes) in lanes.iter().enumerate() {
            for (j, lanes) in lanes.iter().enumerate() {
                _mm512_storeu_ps(carried(i, j), *lanes);
            }
        }
    }
}

/// Folds running sums to outputs `[X, W]`, `stride` from row to row.
///
/// # Safety
/// They can be written at `out`.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn write<const W: usize, const X: usize>(
    lanes: &[[__m512; W]; X],
    out: *mut f32,
    stride: usize,
) {
    for four in 0..(X * W).div_ceil(4) {
        let mut sums = [_mm512_setzero_ps(); 4];
        for (at, sums) in (4 * four..X * W).zip(&mut sums) {
            *sums = lanes[at / W][at % W];
        }
        for (at, folded) in (4 * four..X * W).zip(fold(sums)) {
            // SAFETY: the caller's promise.
            unsafe { *out.add(at / W * stride + at % W) = folded };
        }
    }
}

/// The sum of each, in an order that does not depend on its place among the four.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn fold([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (ab, cd) = (_mm512_castps_pd(pair(a, b)), _mm512_castps_pd(pair(c, d)));
    let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
    let all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
    let four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    let mut folded = [0.0; 4];
    // SAFETY: four floats.
    unsafe { _mm_storeu_ps(folded.as_mut_ptr(), four) };
    folded
}

/// The weights 16·half.. of a block's `part`, as [`crate::quant`] defines them.
///
/// # Safety
/// `block` points to a whole block of `FORMAT` with these `scales`, part lies in it, half < 2.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn sixteen_of<const FORMAT: u8>(
    halves: &Halves,
    scales: &Scales,
    block: *const u8,
    part: usize,
    half: usize,
) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        match FORMAT {
            Q4K => q4k(scales, block, part, half),
            Q6K => q6k(scales, block, part, half),
            _ => unpack::<FORMAT>(halves, block, half),
        }
    }
}

/// The weights 16·half.. of a block of 32.
///
/// # Safety
/// `block` points to a whole block of `FORMAT`, half < 2.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn unpack<const FORMAT: u8>(halves: &Halves, block: *const u8, half: usize) -> __m512 {
    // SAFETY: every load lies within the block.
    unsafe {
        match FORMAT {
            F32 => _mm512_loadu_ps(block.cast::<f32>().add(16 * half)),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(block.add(32 * half).cast())),
            BF16 => {
                let bits = _mm256_loadu_si256(block.add(32 * half).cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
            }
            Q8_0 => {
                let bytes = _mm_loadu_si128(block.add(2 + 16 * half).cast());
                let q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
                _mm512_mul_ps(q, _mm512_set1_ps(halves.at(block)))
            }
            // Small integers times halves are exact, so fusing changes no bit.
            Q4_0 => {
                let d = halves.at(block);
                let values = _mm512_fmadd_ps(sixteen(), _mm512_set1_ps(d), _mm512_set1_ps(-8. * d));
                nibbles(block.add(2), half, values)
            }
            _ => {
                let d = _mm512_set1_ps(halves.at(block));
                let min = _mm512_set1_ps(halves.at(block.add(2)));
                nibbles(block.add(4), half, _mm512_fmadd_ps(sixteen(), d, min))
            }
        }
    }
}

/// What a block of 256 multiplies its small integers with.
#[derive(Clone, Copy, Default)]
struct Scales {
    /// Of each part of 32 (Q4K) or 16 (Q6K).
    scale: [f32; 16],
    /// Subtracted from each part of 32 (Q4K).
    min: [f32; 8],
}

impl Scales {
    /// Nothing for blocks of 32, which hold one scale.
    ///
    /// # Safety
    /// As [`Self::of`].
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn of_if_any<const FORMAT: u8>(halves: &Halves, block: *const u8) -> Self {
        match FORMAT {
            // SAFETY: the caller's promise.
            Q4K | Q6K => unsafe { Self::of::<FORMAT>(halves, block) },
            _ => Self::default(),
        }
    }

    /// # Safety
    /// `block` points to a whole block of `FORMAT`.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn of<const FORMAT: u8>(halves: &Halves, block: *const u8) -> Self {
        let mut scales = Self::default();
        // SAFETY: a block of 144 or 210 bytes; sixteen and eight floats out.
        unsafe {
            if FORMAT == Q4K {
                let (scale, min) = six_bits(&block.cast::<[u8; 144]>().read());
                let of = |bytes: [u8; 8], d: f32| {
                    let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(bytes));
                    let integers = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
                    _mm256_mul_ps(_mm256_set1_ps(d), integers)
                };
                let scale = of(scale, halves.at(block));
                _mm256_storeu_ps(scales.scale.as_mut_ptr(), scale);
                _mm256_storeu_ps(scales.min.as_mut_ptr(), of(min, halves.at(block.add(2))));
            } else {
                let bytes = _mm_loadu_si128(block.add(192).cast());
                let integers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
                let d = _mm512_set1_ps(halves.at(block.add(208)));
                _mm512_storeu_ps(scales.scale.as_mut_ptr(), _mm512_mul_ps(d, integers));
            }
        }
        scales
    }
}

/// Two parts of 32 lie in the low and the high halves of the same 32 bytes.
///
/// # Safety
/// `block` points to a whole block, part < 8, half < 2.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn q4k(scales: &Scales, block: *const u8, part: usize, half: usize) -> __m512 {
    let (scale, min) = (_mm512_set1_ps(scales.scale[part]), _mm512_set1_ps(scales.min[part]));
    let values = _mm512_fmsub_ps(sixteen(), scale, min);
    // SAFETY: a block of 144 bytes.
    unsafe { nibbles(block.add(16 + part / 2 * 32 + 16 * half), part % 2, values) }
}

/// Four parts of 32 lie on top of each other in each side of the block, two scales to a part.
///
/// # Safety
/// `block` points to a whole block, part < 8, half < 2.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn q6k(scales: &Scales, block: *const u8, part: usize, half: usize) -> __m512 {
    let (side, level) = (part / 4, part % 4);
    // SAFETY: a block of 210 bytes.
    let (low, high) = unsafe {
        let low = block.add(side * 64 + level % 2 * 32 + 16 * half);
        let high = block.add(128 + side * 32 + 16 * half);
        (_mm_loadu_si128(low.cast()), _mm_loadu_si128(high.cast()))
    };
    let right = |bytes: __m128i, by: usize| {
        _mm512_srlv_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(by as i32))
    };
    let low = _mm512_and_si512(right(low, level / 2 * 4), _mm512_set1_epi32(15));
    let high = _mm512_and_si512(right(high, level * 2), _mm512_set1_epi32(3));
    let q = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
    let q = _mm512_cvtepi32_ps(_mm512_sub_epi32(q, _mm512_set1_epi32(32)));
    _mm512_mul_ps(q, _mm512_set1_ps(scales.scale[2 * part + half]))
}

/// 0, 1, … 15.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn sixteen() -> __m512 {
    _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.)
}

/// The low (0) or high (1) nibbles of sixteen bytes, each looked up among sixteen `values`: the
/// permutation reads four bits of an index, so they need no masking.
///
/// # Safety
/// Sixteen bytes can be read at `from`.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
unsafe fn nibbles(from: *const u8, which: usize, values: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    let bytes = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(from.cast()) });
    let index = _mm512_srlv_epi32(bytes, _mm512_set1_epi32(4 * which as i32));
    _mm512_permutexvar_ps(index, values)
}
