//! Multiplies a register block with AVX-512, in the processor's own vectors, because the compiler does not keep
//! arrays of this size in registers by itself.

use std::arch::x86_64::*;

/// Computes C = A · B, plus C · `keep` if there is one, for M rows of A and C: see `product` in `panel.rs`. The sums
/// take M · N / 16 vectors, or M half ones for N = 8.
///
/// # Safety
/// Elements (i, p) of A with i < `M` and p < `k` exist, as do `k` rows of B and `M` rows of C of
/// `N` elements, N = 8, 16 or 32; C is not read elsewhere. The processor has AVX-512 F and VL.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
pub(super) unsafe fn micro<const M: usize, const N: usize>(
    k: usize,
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    keep: Option<&[f32; N]>,
) {
    let keep = keep.map(|keep| keep.as_ptr());
    // SAFETY: the caller's promise.
    unsafe {
        match N {
            8 => narrow::<M>(k, a, row, step, b, b_row, c, c_row, keep),
            16 => wide::<M, 1>(k, a, row, step, b, b_row, c, c_row, keep),
            32 => wide::<M, 2>(k, a, row, step, b, b_row, c, c_row, keep),
            _ => unreachable!("a panel of {N} lanes"),
        }
    }
}

/// # Safety
/// As [`micro`] with N = 16 · V.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
unsafe fn wide<const M: usize, const V: usize>(
    k: usize,
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    keep: Option<*const f32>,
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
            // SAFETY: row i < M of C holds 16 · V elements, as does `keep`.
            unsafe {
                let c = c.add(i * c_row + 16 * v);
                let sum = match keep {
                    Some(keep) => {
                        let keep = _mm512_loadu_ps(keep.add(16 * v));
                        _mm512_fmadd_ps(_mm512_loadu_ps(c), keep, *sum)
                    }
                    None => *sum,
                };
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
unsafe fn narrow<const M: usize>(
    k: usize,
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    keep: Option<*const f32>,
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
        // SAFETY: row i < M of C holds 8 elements, as does `keep`.
        unsafe {
            let c = c.add(i * c_row);
            let sum = match keep {
                Some(keep) => _mm256_fmadd_ps(_mm256_loadu_ps(c), _mm256_loadu_ps(keep), *sum),
                None => *sum,
            };
            _mm256_storeu_ps(c, sum);
        }
    }
}
