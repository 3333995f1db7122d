//! The innermost loops for AVX2, FMA and F16C.

use std::arch::x86_64::*;

use super::{LANES, Lanes, Leaves, Panel, unpack_avx2};
use crate::quant::{self, WeightDtype};

/// The leaves, if this processor runs them.
pub(super) fn leaves() -> Option<Leaves> {
    let runs_here = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    runs_here.then_some(Leaves {
        unpack: |dtype, src, dst| {
            // SAFETY: the features were detected.
            unsafe { unpack(dtype, src, dst) }
        },
        multiply: |panel, sums| {
            // SAFETY: the features were detected; the panel is the caller's promise.
            unsafe { multiply(panel, sums) }
        },
        fold: |sums, out| {
            // SAFETY: the features were detected.
            unsafe { fold(sums, out) }
        },
        prefetch: |bytes| {
            // SAFETY: the features were detected.
            unsafe { prefetch(bytes) }
        },
        reads_bytes: true,
    })
}

/// By hand where that is faster, else the scalar definition compiled for wider vectors.
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(dtype: WeightDtype, src: &[u8], dst: &mut [f32]) {
    match dtype {
        WeightDtype::F16 => unpack_f16(src, dst),
        WeightDtype::Q4_0 => unpack_avx2::q4_0(src, dst),
        WeightDtype::Q4_1 => unpack_avx2::q4_1(src, dst),
        WeightDtype::Q5_0 => unpack_avx2::q5_0(src, dst),
        WeightDtype::Q5_1 => unpack_avx2::q5_1(src, dst),
        WeightDtype::Q8_0 => unpack_avx2::q8_0(src, dst),
        WeightDtype::Q2K => unpack_avx2::q2k(src, dst),
        WeightDtype::Q4K => unpack_avx2::q4k(src, dst),
        WeightDtype::Q6K => unpack_avx2::q6k(src, dst),
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
    quant::dequantize(WeightDtype::F16, last, last_wholes);
}

/// # Safety
/// See [`Panel`]; `w` may be unaligned.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply(panel: &Panel, sums: &mut [Lanes]) {
    assert_eq!(sums.len(), panel.x_rows * panel.w_rows);
    // SAFETY: the panel's promise; the register block is within x_rows × w_rows.
    unsafe {
        match panel.x_rows {
            1 => blocks::<6, 1>(panel, 0, sums),
            2 => blocks::<4, 2>(panel, 0, sums),
            3 => blocks::<3, 3>(panel, 0, sums),
            rows => {
                let mut at = 0;
                while at + 4 <= rows {
                    blocks::<3, 4>(panel, at, sums);
                    at += 4;
                }
                match rows - at {
                    0 => {}
                    1 => blocks::<3, 1>(panel, at, sums),
                    2 => blocks::<3, 2>(panel, at, sums),
                    _ => blocks::<3, 3>(panel, at, sums),
                }
            }
        }
    }
}

/// All weight rows against the X rows of x from `x_row`, W weight rows at a time.
///
/// # Safety
/// See [`Panel`]; x_row + X ≤ x_rows, and `sums` is `[x_rows, w_rows]`.
#[target_feature(enable = "avx2,fma")]
unsafe fn blocks<const W: usize, const X: usize>(panel: &Panel, x_row: usize, sums: &mut [Lanes]) {
    let mut row = 0;
    // SAFETY: row + W ≤ w_rows, or row + 1 ≤ w_rows.
    unsafe {
        while row + W <= panel.w_rows {
            block::<W, X>(panel, row, x_row, sums);
            row += W;
        }
        while row < panel.w_rows {
            block::<1, X>(panel, row, x_row, sums);
            row += 1;
        }
    }
}

/// W × X running sums in registers; each load of x serves W rows, each load of w X rows.
///
/// # Safety
/// See [`Panel`]; w_row + W ≤ w_rows, x_row + X ≤ x_rows, and `sums` is `[x_rows, w_rows]`.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn block<const W: usize, const X: usize>(
    panel: &Panel,
    w_row: usize,
    x_row: usize,
    sums: &mut [Lanes],
) {
    // SAFETY: all offsets are within what the panel promises, `sums` within its own shape.
    unsafe {
        let w = panel.w.add(w_row * panel.w_stride);
        let x = panel.x.add(x_row * panel.x_stride);
        let sums = sums.as_mut_ptr().add(x_row * panel.w_rows + w_row);
        let sum = |i: usize, j: usize| sums.add(i * panel.w_rows + j).cast::<f32>();
        let mut lanes = [[_mm256_setzero_ps(); W]; X];
        for (i, lanes) in lanes.iter_mut().enumerate() {
            for (j, lanes) in lanes.iter_mut().enumerate() {
                *lanes = _mm256_loadu_ps(sum(i, j));
            }
        }
        let mut k = 0;
        while k < panel.len {
            let mut weights = [_mm256_setzero_ps(); W];
            for (j, weight) in weights.iter_mut().enumerate() {
                let at = w.add(j * panel.w_stride + k);
                *weight = _mm256_loadu_ps(at);
                if k.is_multiple_of(2 * LANES) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(panel.ahead).cast());
                }
            }
            for (i, lanes) in lanes.iter_mut().enumerate() {
                let x = _mm256_loadu_ps(x.add(i * panel.x_stride + k));
                for (weight, lanes) in weights.iter().zip(lanes) {
                    *lanes = _mm256_fmadd_ps(*weight, x, *lanes);
                }
            }
            k += LANES;
        }
        for (i, lanes) in lanes.iter().enumerate() {
            for (j, lanes) in lanes.iter().enumerate() {
                _mm256_storeu_ps(sum(i, j), *lanes);
            }
        }
    }
}

/// ((0+1)+(2+3)) + ((4+5)+(6+7)), four outputs at a time.
#[target_feature(enable = "avx2,fma")]
fn fold(sums: &[Lanes], out: &mut [f32]) {
    for (sums, out) in sums.chunks(4).zip(out.chunks_mut(4)) {
        let mut lanes = [_mm256_setzero_ps(); 4];
        for (lanes, sum) in lanes.iter_mut().zip(sums) {
            // SAFETY: eight floats.
            *lanes = unsafe { _mm256_loadu_ps(sum.as_ptr()) };
        }
        let [a, b, c, d] = lanes;
        let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let four = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
        let mut folded = [0.0; 4];
        // SAFETY: four floats.
        unsafe { _mm_storeu_ps(folded.as_mut_ptr(), four) };
        out.copy_from_slice(&folded[..out.len()]);
    }
}

#[target_feature(enable = "avx2")]
fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
    }
}
