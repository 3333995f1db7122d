//! Multiplies dense matrices that lie in slices, by the `gemm` crate. candle calls the same crate; calling it here
//! saves candle's transposes and temporaries, and lets a product be added to floats that are there already.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::ffi;
use crate::raw::{SERIAL, Scratch, Slots, write_chunks};

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
    /// A matrix `[rows, cols]` whose rows lie one after the other.
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

    /// The elements, and the distances from row to row and from column to column in them.
    pub(crate) fn strides(&self) -> (&'a [f32], usize, usize) {
        (self.data, self.row, self.col)
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

/// The fewest rows of a product that are worth a task: each task packs the other operand for itself, which costs
/// little beside so many rows.
const ROWS: usize = 512;
/// The least inner size at which sums are formed in two halves.
const LONG: usize = 1024;

/// The way in which a product is shared among threads.
///
/// Each task is a product of its own on one thread, because threads that share one product wait for each other
/// whenever operands are packed. The shape alone decides where sums are cut, so they come out the same whatever the
/// number of threads.
enum Split {
    /// Tasks of so many rows, whose sums are formed in two halves.
    Halves(usize),
    /// Tasks of so many rows.
    Rows(usize),
    /// One product, which the `gemm` crate shares among the threads.
    Whole,
}

fn split(a: Matrix<'_>, b: Matrix<'_>) -> Split {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let threads = rayon::current_num_threads();
    if m == 0 || n == 0 {
        return Split::Whole;
    }
    if a.row == 1 && b.col == 1 && k >= LONG && k >= m.max(n) {
        // A weight's gradient: rows of both operands are read once, by one thread each.
        return Split::Halves(m.div_ceil((threads / 2).max(1)));
    }
    let rows = m.div_ceil(threads);
    if a.col == 1 && threads > 1 && rows >= ROWS { Split::Rows(rows) } else { Split::Whole }
}

/// Lets the `gemm` crate use the current pool, whatever its size: its blocking is then the same for all sizes.
const POOL: Parallelism = Parallelism::Rayon(0);

/// Writes a · b, row after row, into memory that need not hold floats yet.
pub(crate) fn product<'c>(a: Matrix<'_>, b: Matrix<'_>, c: &'c mut Slots) -> &'c mut [f32] {
    let n = b.cols;
    match split(a, b) {
        Split::Halves(rows) => write_chunks(c, rows * n, |i, c| {
            let a = a.rows_from(i * rows, c.len() / n);
            in_halves(a, b, |left, above| ffi::product(left, above, c, Parallelism::None))
        }),
        Split::Rows(rows) => write_chunks(c, rows * n, |i, c| {
            ffi::product(a.rows_from(i * rows, c.len() / n), b, c, Parallelism::None)
        }),
        Split::Whole => ffi::product(a, b, c, POOL),
    }
}

/// Overwrites c with a · b.
pub(crate) fn product_again(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32]) {
    product_over(a, b, c, false);
}

/// Adds a · b to c.
pub(crate) fn product_added(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32]) {
    product_over(a, b, c, true);
}

fn product_over(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], add: bool) {
    let n = b.cols;
    let one = Parallelism::None;
    match split(a, b) {
        Split::Halves(rows) => c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
            let a = a.rows_from(i * rows, c.len() / n);
            in_halves(a, b, |left, above| {
                ffi::product_over(left, above, c, add, one);
                c
            });
        }),
        Split::Rows(rows) => c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
            ffi::product_over(a.rows_from(i * rows, c.len() / n), b, c, add, one);
        }),
        Split::Whole => ffi::product_over(a, b, c, add, POOL),
    }
}

/// Forms a · b in two halves of the inner size at the same time: `first` multiplies one half and gives its sums, to
/// which those of the other half are added.
fn in_halves<'c>(
    a: Matrix<'_>,
    b: Matrix<'_>,
    first: impl FnOnce(Matrix<'_>, Matrix<'_>) -> &'c mut [f32] + Send,
) -> &'c mut [f32] {
    let k = a.cols;
    let mut half = Scratch::new(a.rows * b.cols);
    let (left, right) = (a.columns(0..k / 2), a.columns(k / 2..k));
    let (above, below) = (b.rows_from(0, k / 2), b.rows_from(k / 2, k - k / 2));
    let second = || ffi::product_over(right, below, &mut half, false, Parallelism::None);
    let (c, ()) = rayon::join(|| first(left, above), second);
    let sums = c.par_chunks_mut(SERIAL).zip(half.par_chunks(SERIAL));
    sums.for_each(|(c, half)| c.iter_mut().zip(half).for_each(|(c, half)| *c += half));
    c
}
