//! Multiplies small matrices in blocks that stay in registers: the one product that all loops of attention are made of.

#![allow(clippy::needless_range_loop, reason = "sums and what belongs to them share their number")]

use std::slice;

use crate::simd::Vector;

/// A matrix that is read element by element, with the distances between its rows and between its columns.
#[derive(Clone, Copy)]
pub(super) struct Single<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// A matrix whose rows are read as vectors, with the distance between them.
#[derive(Clone, Copy)]
pub(super) struct Wide<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
}

/// The matrix that a product is written to: as [`Wide`], and what becomes of the values in it.
pub(super) struct Sums<'a, const N: usize> {
    pub(super) values: &'a mut [f32],
    pub(super) row: usize,
    /// A factor for each column, by which the values are multiplied before the product is added; `None`: they are
    /// overwritten, and need not be numbers.
    pub(super) keep: Option<&'a [f32; N]>,
}

/// Computes C = A · B, or C = C · keep + A · B, where A is m × k, B is k × `N` and C is m × `N`; `N` is 8, or one or
/// two vectors. Each element's terms are added in the order of k.
#[inline(always)]
pub(super) fn product<V: Vector, const N: usize>(
    (m, k): (usize, usize),
    a: Single<'_>,
    b: Wide<'_>,
    c: &mut Sums<'_, N>,
) {
    assert!(m > 0 && k > 0 && a.values.len() > (m - 1) * a.row + (k - 1) * a.column);
    assert!(b.values.len() >= (k - 1) * b.row + N && c.values.len() >= (m - 1) * c.row + N);
    // A block has as many sums as the registers hold beside a row of B, then ever fewer.
    macro_rules! blocks {
        ($vector:ty, $vectors:literal, $($rows:literal)*) => {{
            let mut done = 0;
            $(while m - done >= $rows {
                // SAFETY: rows done..done + $rows lie below m, which the assertions above cover.
                unsafe { block::<$vector, $rows, $vectors, N>(done, k, a, b, c) };
                done += $rows;
            })*
        }};
    }
    match (N / V::LANES, V::REGISTERS) {
        (0, 32..) => blocks!(V::Eight, 1, 14 8 4 2 1),
        (1, 32..) => blocks!(V, 1, 14 8 4 2 1),
        (2, 32..) => blocks!(V, 2, 12 8 4 2 1),
        (1, 16..) => blocks!(V, 1, 8 4 3 2 1),
        (2, 16..) => blocks!(V, 2, 6 4 3 2 1),
        (1, _) => blocks!(V, 1, 2 1),
        (2, _) => blocks!(V, 2, 2 1),
        _ => unreachable!("a matrix of {N} columns"),
    }
}

/// Computes rows `first`..`first` + `M` of C, whose rows are `R` vectors.
///
/// # Safety
/// Elements (`first` + i, p) of A with i < `M` and p < `k` exist, as do `k` rows of B and those rows of C of `N` = `R` ·
/// `V::LANES` elements.
#[inline(always)]
unsafe fn block<V: Vector, const M: usize, const R: usize, const N: usize>(
    first: usize,
    k: usize,
    a: Single<'_>,
    b: Wide<'_>,
    c: &mut Sums<'_, N>,
) {
    assert!(R * V::LANES == N, "{R} vectors of {N} columns");
    let mut sums = [[V::splat(0.); R]; M];
    // SAFETY: the caller's promise, for this pointer and all below.
    let from = unsafe { a.values.as_ptr().add(first * a.row) };
    for p in 0..k {
        // Not `from_fn`: what a closure calls might not be inlined.
        let mut columns = [V::splat(0.); R];
        for r in 0..R {
            // SAFETY: as above.
            let at = unsafe { b.values.as_ptr().add(p * b.row + r * V::LANES) };
            // SAFETY: as above.
            columns[r] = V::load(unsafe { slice::from_raw_parts(at, V::LANES) });
        }
        for i in 0..M {
            // SAFETY: as above.
            let x = V::splat(unsafe { *from.add(i * a.row + p * a.column) });
            for r in 0..R {
                sums[i][r] = x.mul_add(columns[r], sums[i][r]);
            }
        }
    }
    for i in 0..M {
        for r in 0..R {
            // SAFETY: as above, and C is borrowed mutably.
            let to = unsafe {
                let at = c.values.as_mut_ptr().add((first + i) * c.row + r * V::LANES);
                slice::from_raw_parts_mut(at, V::LANES)
            };
            let sum = match c.keep {
                Some(keep) => V::load(to).mul_add(V::load(&keep[r * V::LANES..]), sums[i][r]),
                None => sums[i][r],
            };
            sum.store(to);
        }
    }
}
