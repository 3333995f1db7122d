//! The innermost loops for AVX2, FMA and F16C: eight lanes.

use std::arch::x86_64::*;

use super::format::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q8_0, block_of};
use super::{Halves, Leaves, Multiply, PART, Panel, unpack_avx2};
use crate::dtype::StorageDtype;
use crate::quant;

/// The leaves, if this processor runs them.
pub(super) fn leaves() -> Option<Leaves> {
    let runs_here = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let direct = |dtype| {
        Some(match dtype {
            StorageDtype::F32 => multiply::<F32> as Multiply,
            StorageDtype::F16 => multiply::<F16>,
            StorageDtype::BF16 => multiply::<BF16>,
            StorageDtype::Q4_0 => multiply::<Q4_0>,
            StorageDtype::Q4_1 => multiply::<Q4_1>,
            StorageDtype::Q8_0 => multiply::<Q8_0>,
            StorageDtype::Q4K => multiply::<Q4K>,
            _ => return None,
        })
    };
    runs_here.then_some(Leaves {
        unpack: |dtype, src, dst| {
            // SAFETY: the features were detected.
            unsafe { unpack(dtype, src, dst) }
        },
        multiply: multiply::<F32>,
        direct,
        prefetch: |bytes| {
            // SAFETY: the features were detected.
            unsafe { prefetch(bytes) }
        },
    })
}

/// # Safety
/// See [`Panel`], with weights in `FORMAT`; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const FORMAT: u8>(panel: &Panel) {
    // SAFETY: the panel's promise.
    unsafe {
        match panel.x_rows {
            1 => rows::<FORMAT, 4, 1>(panel),
            2 => rows::<FORMAT, 3, 2>(panel),
            3 => rows::<FORMAT, 2, 3>(panel),
            4 => rows::<FORMAT, 2, 4>(panel),
            5 => rows::<FORMAT, 1, 5>(panel),
            6 => rows::<FORMAT, 1, 6>(panel),
            7 => rows::<FORMAT, 1, 7>(panel),
            8 => rows::<FORMAT, 1, 8>(panel),
            rows => unreachable!("a group of {rows} rows"),
        }
    }
}

/// All weight rows against the X rows of x, W weight rows at a time.
///
/// # Safety
/// See [`multiply`]; X = x_rows.
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn block<const FORMAT: u8, const W: usize, const X: usize>(panel: &Panel, w_row: usize) {
    let (parts, block_bytes) = const { block_of(FORMAT) };
    // SAFETY: all offsets are within what the panel promises.
    unsafe {
        let mut w = panel.w.add(w_row * panel.w_stride);
        let mut x = panel.x;
        let carried = panel.sums.carried.add(w_row);
        let carried = |i: usize, j: usize| carried.add(i * panel.w_rows + j).cast::<f32>();
        let mut lanes = [[_mm256_setzero_ps(); W]; X];
        if !panel.sums.first {
            for (i, lanes) in lanes.iter_mut().enumerate() {
                for (j, lanes) in lanes.iter_mut().enumerate() {
                    *lanes = _mm256_loadu_ps(carried(i, j));
                }
            }
        }
        for _ in 0..panel.len / (PART * parts) {
            for part in 0..parts {
                let line = panel.ahead + block_bytes * part / parts;
                for half in 0..2 {
                    let mut weights = [[_mm256_setzero_ps(); 2]; W];
                    for (j, weights) in weights.iter_mut().enumerate() {
                        let block = w.add(j * panel.w_stride);
                        *weights = unpack_half::<FORMAT>(panel.halves, block, part, half);
                        if half == 0 || FORMAT == F32 {
                            let next = block.wrapping_add(line + 64 * half);
                            _mm_prefetch::<_MM_HINT_T0>(next.cast());
                        }
                    }
                    for quarter in 0..2 {
                        for (i, lanes) in lanes.iter_mut().enumerate() {
                            let at = 16 * (half * X + i) + 8 * quarter;
                            let x = _mm256_load_ps(x.add(at));
                            for (weights, lanes) in weights.iter().zip(lanes) {
                                *lanes = _mm256_fmadd_ps(weights[quarter], x, *lanes);
                            }
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
                _mm256_storeu_ps(carried(i, j), *lanes);
            }
        }
    }
}

/// Folds running sums to outputs `[X, W]`, `stride` from row to row.
///
/// # Safety
/// They can be written at `out`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn write<const W: usize, const X: usize>(
    lanes: &[[__m256; W]; X],
    out: *mut f32,
    stride: usize,
) {
    for four in 0..(X * W).div_ceil(4) {
        let mut sums = [_mm256_setzero_ps(); 4];
        for (at, sums) in (4 * four..X * W).zip(&mut sums) {
            *sums = lanes[at / W][at % W];
        }
        let folded = fold(sums);
        for (at, folded) in (4 * four..X * W).zip(folded) {
            // SAFETY: the caller's promise.
            unsafe { *out.add(at / W * stride + at % W) = folded };
        }
    }
}

/// The weights 16·half.. of a block's `part`, as [`crate::quant`] defines them.
///
/// # Safety
/// `block` points to a whole block of `FORMAT`, part lies in it, half < 2.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn unpack_half<const FORMAT: u8>(
    halves: &Halves,
    block: *const u8,
    part: usize,
    half: usize,
) -> [__m256; 2] {
    let four_bits = _mm256_set1_epi32(15);
    // SAFETY: every load lies within the block.
    unsafe {
        match FORMAT {
            F32 => [0, 8].map(|at| _mm256_loadu_ps(block.cast::<f32>().add(16 * half + at))),
            F16 => {
                [0, 16].map(|at| _mm256_cvtph_ps(_mm_loadu_si128(block.add(32 * half + at).cast())))
            }
            BF16 => [0, 16].map(|at| {
                let bits = _mm_loadu_si128(block.add(32 * half + at).cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
            }),
            Q8_0 => {
                let d = _mm256_set1_ps(halves.at(block));
                [2, 10].map(|at| {
                    let bytes = _mm_loadl_epi64(block.add(16 * half + at).cast());
                    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), d)
                })
            }
            Q4_0 => {
                let d = _mm256_set1_ps(halves.at(block));
                [2, 10].map(|at| {
                    let q = nibbles(block.add(at), half, four_bits);
                    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(8))), d)
                })
            }
            Q4_1 => {
                let d = _mm256_set1_ps(halves.at(block));
                let min = _mm256_set1_ps(halves.at(block.add(2)));
                [4, 12].map(|at| {
                    let q = _mm256_cvtepi32_ps(nibbles(block.add(at), half, four_bits));
                    _mm256_add_ps(_mm256_mul_ps(q, d), min)
                })
            }
            _ => {
                let (scale, min) = six_bits(block.add(4), part);
                let scale = _mm256_set1_ps(halves.at(block) * f32::from(scale));
                let min = _mm256_set1_ps(halves.at(block.add(2)) * f32::from(min));
                let quants = block.add(16 + part / 2 * 32 + 16 * half);
                [0, 8].map(|at| {
                    let q = nibbles(quants.add(at), part % 2, four_bits);
                    _mm256_sub_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(q), scale), min)
                })
            }
        }
    }
}

/// The low (0) or high (1) nibbles of eight bytes.
///
/// # Safety
/// Eight bytes can be read at `from`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn nibbles(from: *const u8, which: usize, four_bits: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    let bytes = _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(from.cast()) });
    if which == 0 { _mm256_and_si256(bytes, four_bits) } else { _mm256_srli_epi32::<4>(bytes) }
}

/// Scale and minimum of a part of 32 from the twelve bytes that hold eight of each.
///
/// # Safety
/// Twelve bytes can be read at `packed`; part < 8.
#[inline(always)]
pub(super) unsafe fn six_bits(packed: *const u8, part: usize) -> (u8, u8) {
    // SAFETY: indices below 12.
    let at = |i: usize| unsafe { *packed.add(i) };
    if part < 4 {
        (at(part) & 63, at(part + 4) & 63)
    } else {
        let both = at(part + 4);
        ((both & 15) | at(part - 4) >> 6 << 4, (both >> 4) | at(part) >> 6 << 4)
    }
}

/// By hand where that is faster, else the scalar definition compiled for wider vectors.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack(dtype: StorageDtype, src: &[u8], dst: &mut [f32]) {
    match dtype {
        StorageDtype::F16 => unpack_f16(src, dst),
        StorageDtype::Q4_0 => unpack_avx2::q4_0(src, dst),
        StorageDtype::Q4_1 => unpack_avx2::q4_1(src, dst),
        StorageDtype::Q5_0 => unpack_avx2::q5_0(src, dst),
        StorageDtype::Q5_1 => unpack_avx2::q5_1(src, dst),
        StorageDtype::Q8_0 => unpack_avx2::q8_0(src, dst),
        StorageDtype::Q2K => unpack_avx2::q2k(src, dst),
        StorageDtype::Q4K => unpack_avx2::q4k(src, dst),
        StorageDtype::Q6K => unpack_avx2::q6k(src, dst),
        _ => quant::dequantize(dtype, src, dst),
    }
}

#[target_feature(enable = "avx2,f16c")]
fn unpack_f16(src: &[u8], dst: &mut [f32]) {
    let (halves, last) = src.as_chunks::<16>();
    let (wholes, last_wholes) = dst.as_chunks_mut::<8>();
    for (half, whole) in halves.iter().zip(wholes) {
        // SAFETY: 16 bytes in, 8 floats out.
        unsafe {
            let half = _mm_loadu_si128(half.as_ptr().cast());
            _mm256_storeu_ps(whole.as_mut_ptr(), _mm256_cvtph_ps(half));
        }
    }
    quant::dequantize(StorageDtype::F16, last, last_wholes);
}

/// ((0+1)+(2+3)) + ((4+5)+(6+7)) of each.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn fold([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let four = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    let mut folded = [0.0; 4];
    // SAFETY: four floats.
    unsafe { _mm_storeu_ps(folded.as_mut_ptr(), four) };
    folded
}

#[target_feature(enable = "avx2")]
fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
    }
}
