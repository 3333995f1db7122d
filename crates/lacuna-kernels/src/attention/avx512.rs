//! The product's register block with AVX-512, in the processor's own vectors: the compiler does
//! not keep arrays of this size in registers by itself.

use std::arch::x86_64::*;

/// C = A · B, or C += A · B if `ADD`, for M rows of A and C: see `product` in `panel.rs`. M · N / 16
/// (M for N = 8) vectors of sums.
///
/// # Safety
/// Elements (i, p) of A with i < `M` and p < `k` exist, as do `k` rows of B and `M` rows of C of
/// `N` elements, N = 8, 16 or 32; C is not read elsewhere. The processor has AVX-512 F and VL.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
pub(super) unsafe fn micro<const M: usize, const N: usize, const ADD: bool>(
    k: usize,
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match N {
            8 => narrow::<M, ADD>(k, a, row, step, b, b_row, c, c_row),
            16 => wide::<M, 1, ADD>(k, a, row, step, b, b_row, c, c_row),
            32 => wide::<M, 2, ADD>(k, a, row, step, b, b_row, c, c_row),
            _ => unreachable!("a panel of {N} lanes"),
        }
    }
}

/// # Safety
/// As [`micro`] with N = 16 · V.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
unsafe fn wide<const M: usize, const V: usize, const ADD: bool>(
    k: usize,
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    for p in 0..k {
        // SAFETY: row p < k of B holds 16 · V elements.
        let b: [_; V] =
            std::array::from_fn(|v| unsafe { _mm512_loadu_ps(b.add(p * b_row + 16 * v)) });
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: element (i, p) of A, i < M and p < k.
            let x = _mm512_set1_ps(unsafe { *a.add(i * row + p * step) });
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = _mm512_fmadd_ps(x, b, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: row i < M of C holds 16 · V elements.
            unsafe {
                let c = c.add(i * c_row + 16 * v);
                let sum = if ADD { _mm512_add_ps(_mm512_loadu_ps(c), *sum) } else { *sum };
                _mm512_storeu_ps(c, sum);
            }
        }
    }
}

/// # Safety
/// As [`micro`] with N = 8.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
unsafe fn narrow<const M: usize, const ADD: bool>(
    k: usize,
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    let mut sums = [_mm256_setzero_ps(); M];
    for p in 0..k {
        // SAFETY: row p < k of B holds 8 elements.
        let b = unsafe { _mm256_loadu_ps(b.add(p * b_row)) };
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: element (i, p) of A, i < M and p < k.
            let x = _mm256_set1_ps(unsafe { *a.add(i * row + p * step) });
            *sum = _mm256_fmadd_ps(x, b, *sum);
        }
    }
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: row i < M of C holds 8 elements.
        unsafe {
            let c = c.add(i * c_row);
            _mm256_storeu_ps(c, if ADD { _mm256_add_ps(_mm256_loadu_ps(c), *sum) } else { *sum });
        }
    }
}
