//! Dense products on slices. The `gemm` crate is what candle calls too; calling it here saves
//! candle's transposes and temporaries, and lets a product add to what is there.

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
    pub(crate) fn slice_rows(&self, range: std::ops::Range<usize>) -> Self {
        assert!(self.col == 1 && self.row == self.cols, "rows of a transposed matrix");
        let data = &self.data[range.start * self.cols..range.end * self.cols];
        Self::new(data, range.len(), self.cols)
    }

    pub(crate) fn t(self) -> Self {
        let Self { data, rows, cols, row, col } = self;
        Self { data, rows: cols, cols: rows, row: col, col: row }
    }
}

/// c = a · b, or c += a · b if `add`; c has its rows one after the other.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], add: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner sizes of a product");
    assert_eq!(c.len(), m * n, "{m} × {n}");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            c.fill(0.);
        }
        return;
    }
    // `Rayon(0)` is the current pool, whatever its size: blocking is then the same for all sizes.
    let threads = gemm::Parallelism::Rayon(0);
    // SAFETY: `Matrix::new` has checked that every (i, j) lies within its slice, c holds m · n
    // elements and is borrowed mutably, so it overlaps neither operand.
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
