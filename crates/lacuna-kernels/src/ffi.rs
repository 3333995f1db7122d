//! Calls foreign code that takes pointers: the C library's allocator, and the `gemm` crate's matrix product.
#![allow(unsafe_code, reason = "glibc and the gemm crate take pointers")]

use gemm::Parallelism;

use crate::gemm::Matrix;
use crate::raw::Slots;

/// Tells glibc to keep freed memory instead of returning it, for the whole process.
///
/// A training step allocates and frees the same large tensors again and again; handing their pages
/// back and faulting them in anew costs up to a third of a step. A binary that trains calls this
/// once at its start. Does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TRIM_THRESHOLD: i32 = -1;
        const MMAP_THRESHOLD: i32 = -3;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: mallopt takes two integers and may be called at any time; an unknown parameter or
        // value is ignored. 32 MiB is the largest threshold that glibc accepts.
        unsafe {
            mallopt(MMAP_THRESHOLD, 32 << 20);
            mallopt(TRIM_THRESHOLD, i32::MAX);
        }
    }
}

/// Hands back to the system what [`keep_freed_memory`] has kept: between a phase that needed much
/// memory and one that needs little. Does nothing where the C library is not glibc.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: malloc_trim takes a size and may be called at any time.
        unsafe {
            malloc_trim(0);
        }
    }
}

/// Writes c = a · b, row after row, into memory that need not hold floats yet, and returns it as floats.
pub(crate) fn product<'c>(
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &'c mut Slots,
    threads: Parallelism,
) -> &'c mut [f32] {
    // SAFETY: `multiply` writes every element of c and reads none.
    unsafe {
        multiply(a, b, c.as_mut_ptr().cast(), c.len(), false, threads);
        &mut *(std::ptr::from_mut(c) as *mut [f32])
    }
}

/// Overwrites c with a · b, or adds a · b to it if `add`.
pub(crate) fn product_over(
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    add: bool,
    threads: Parallelism,
) {
    // SAFETY: c may be read, for it holds floats.
    unsafe { multiply(a, b, c.as_mut_ptr(), c.len(), add, threads) };
}

/// Multiplies by the `gemm` crate: c = a · b, or c += a · b if `add`.
///
/// # Safety
/// c points to `len` floats that nobody else reads or writes; if `add`, they have been written before.
unsafe fn multiply(
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: *mut f32,
    len: usize,
    add: bool,
    threads: Parallelism,
) {
    let (m, k, n) = (a.rows(), a.cols(), b.cols());
    assert!(b.rows() == k && len == m * n, "{m} × {n}");
    if k == 0 && !add {
        // SAFETY: the caller's promise.
        unsafe { c.write_bytes(0, len) };
    }
    if k == 0 || len == 0 {
        return;
    }
    let ((a, a_row, a_col), (b, b_row, b_col)) = (a.strides(), b.strides());
    let (a, b) = (a.as_ptr(), b.as_ptr());
    let (a_row, a_col, b_row, b_col) =
        (a_row as isize, a_col as isize, b_row as isize, b_col as isize);
    let c_row = n as isize;
    // SAFETY: `Matrix` sees to it that every (i, j) lies within its slice; c holds m · n elements of its own,
    // read only if `add`.
    unsafe {
        gemm::gemm(
            m, n, k, c, 1, c_row, add, a, a_col, a_row, b, b_col, b_row, 1., 1., false, false,
            false, threads,
        );
    }
}
