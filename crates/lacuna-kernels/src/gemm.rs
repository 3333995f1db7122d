//! Dense products on slices. The `gemm` crate is what candle calls too; calling it here saves
//! candle's transposes and temporaries, and lets a product add to what is there.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::{SERIAL, Scratch};

/// A matrix in a slice: element (i, j) lies at i · `row` + j · `col`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row: usize,
    col: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "{rows} × {cols}");
        Self { data, rows, cols, row: cols, col: 1 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// The rows of `range`; only of a matrix that is not transposed.
    pub(crate) fn slice_rows(&self, range: Range<usize>) -> Self {
        assert!(self.col == 1 && self.row == self.cols, "rows of a transposed matrix");
        let data = &self.data[range.start * self.cols..range.end * self.cols];
        Self::new(data, range.len(), self.cols)
    }

    /// `rows` rows from `first` on, transposed or not.
    fn rows_from(&self, first: usize, rows: usize) -> Self {
        assert!(first + rows <= self.rows, "rows {first}+{rows} of {}", self.rows);
        Self { data: &self.data[first * self.row..], rows, ..*self }
    }

    /// The columns of `range`.
    fn columns(&self, range: Range<usize>) -> Self {
        self.t().rows_from(range.start, range.len()).t()
    }

    pub(crate) fn t(self) -> Self {
        let Self { data, rows, cols, row, col } = self;
        Self { data, rows: cols, cols: rows, row: col, col: row }
    }
}

/// Rows of a product that are worth a task: packing the other operand for it then costs little.
const ROWS: usize = 512;
/// The inner size from which a sum is formed in two halves.
const LONG: usize = 1024;

/// c = a · b, or c += a · b if `add`; c has its rows one after the other.
///
/// Each task is a product of its own on one thread: threads that share one wait for each other
/// whenever operands are packed. Where sums are cut depends on the shape alone, so they come out
/// the same whatever the number of threads.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], add: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner sizes of a product");
    assert_eq!(c.len(), m * n, "{m} × {n}");
    if c.is_empty() {
        return;
    }
    let threads = rayon::current_num_threads();
    if a.row == 1 && b.col == 1 && k >= LONG && k >= m.max(n) {
        // A weight's gradient: rows of both operands are read once, by one thread each.
        let mut half = Scratch::new(c.len());
        let blocks = m.div_ceil((threads / 2).max(1));
        let tasks = c.par_chunks_mut(blocks * n).zip(half.par_chunks_mut(blocks * n));
        tasks.enumerate().for_each(|(i, (c, half))| {
            let a = a.rows_from(i * blocks, c.len() / n);
            let (left, right) = (a.columns(0..k / 2), a.columns(k / 2..k));
            let (above, below) = (b.rows_from(0, k / 2), b.rows_from(k / 2, k - k / 2));
            let one = gemm::Parallelism::None;
            rayon::join(|| run(left, above, c, add, one), || run(right, below, half, false, one));
        });
        let sums = c.par_chunks_mut(SERIAL).zip(half.par_chunks(SERIAL));
        sums.for_each(|(c, half)| c.iter_mut().zip(half).for_each(|(c, half)| *c += half));
        return;
    }
    let rows = m.div_ceil(threads);
    if a.col == 1 && threads > 1 && rows >= ROWS {
        c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
            run(a.rows_from(i * rows, c.len() / n), b, c, add, gemm::Parallelism::None);
        });
        return;
    }
    // `Rayon(0)` is the current pool, whatever its size: blocking is then the same for all sizes.
    run(a, b, c, add, gemm::Parallelism::Rayon(0));
}

fn run(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], add: bool, threads: gemm::Parallelism) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    if k == 0 {
        if !add {
            c.fill(0.);
        }
        return;
    }
    // SAFETY: `Matrix` sees to it that every (i, j) lies within its slice, c holds m · n elements and is
    // borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            1.,
            1.,
            false,
            false,
            false,
            threads,
        );
    }
}
