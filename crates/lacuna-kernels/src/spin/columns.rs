//! Lets several workers fill one matrix at once, each some of its columns from the first row to the last.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A matrix `[rows, cols]` that is about to be written: its memory need not be zeroed first.
pub(crate) struct Unfilled {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
    filled: AtomicUsize,
}

/// Some columns of an [`Unfilled`] matrix.
pub(crate) struct Columns<'a> {
    /// The place where these columns of the next row begin.
    next: *mut f32,
    rows_left: usize,
    width: usize,
    stride: usize,
    unreported: usize,
    /// Counts floats written, each once.
    filled: &'a AtomicUsize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: a part is written through a mutable reference only, and no two parts of a matrix overlap.
unsafe impl Send for Columns<'_> {}

impl Unfilled {
    pub(crate) fn new(rows: usize, cols: usize) -> Self {
        let values =
            Vec::with_capacity(rows.checked_mul(cols).expect("a matrix that fits in memory"));
        Self { values, rows, cols, filled: AtomicUsize::new(0) }
    }

    /// All columns, in parts of `width` and a last one that may be narrower.
    pub(crate) fn parts(&mut self, width: usize) -> impl Iterator<Item = Columns<'_>> {
        let Self { values, rows, cols, filled } = self;
        *filled.get_mut() = 0;
        let (start, rows, cols, filled) = (values.as_mut_ptr(), *rows, *cols, &*filled);
        (0..cols).step_by(width).map(move |first| Columns {
            next: start.wrapping_add(first),
            rows_left: rows,
            width: width.min(cols - first),
            stride: cols,
            unreported: 0,
            filled,
            owner: PhantomData,
        })
    }

    /// The values, row after row.
    ///
    /// # Panics
    /// If not every part has been given all its rows.
    pub(crate) fn filled(mut self) -> Vec<f32> {
        let len = self.rows * self.cols;
        assert_eq!(*self.filled.get_mut(), len, "floats written of {} × {}", self.rows, self.cols);
        // SAFETY: the capacity is `len`; the parts do not overlap and count their floats once, after
        // writing them all, so `len` of them are all there are.
        unsafe { self.values.set_len(len) };
        self.values
    }
}

impl Columns<'_> {
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Writes these columns of the next row.
    ///
    /// # Panics
    /// If that is not as many values as columns, or there is no further row.
    pub(crate) fn push_row(&mut self, values: &[f32]) {
        assert!(values.len() == self.width && self.rows_left > 0, "a row of the columns");
        // SAFETY: row `rows − rows_left` of these columns lies within the matrix's capacity, and no
        // other part has them.
        unsafe { self.next.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        self.next = self.next.wrapping_add(self.stride);
        self.rows_left -= 1;
        self.unreported += values.len();
    }
}

impl Drop for Columns<'_> {
    fn drop(&mut self) {
        self.filled.fetch_add(self.unreported, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_every_row_of_their_columns() {
        let mut matrix = Unfilled::new(3, 5);
        for mut part in matrix.parts(2).collect::<Vec<_>>().into_iter().rev() {
            for row in 0..3 {
                part.push_row(&[row as f32, 9.][..part.width()]);
            }
        }
        assert_eq!(matrix.filled()[5..10], [1., 9., 1., 9., 1.]);
    }

    #[test]
    #[should_panic(expected = "floats written of 2 × 4")]
    fn a_row_left_out_is_no_value() {
        let mut matrix = Unfilled::new(2, 4);
        matrix.parts(2).for_each(|mut part| part.push_row(&[1., 2.]));
        matrix.filled();
    }
}
