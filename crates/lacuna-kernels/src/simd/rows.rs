//! Walks over several rows of blocks at once, with one address and one distance from row to row.

use std::marker::PhantomData;

/// `W` rows of as many blocks: in a loop over blocks, one address and one distance take fewer registers
/// than `W` slices.
pub(crate) struct Rows<'a, B, const W: usize> {
    start: *const B,
    /// Bytes from row to row.
    stride: usize,
    blocks: usize,
    owner: PhantomData<&'a [B]>,
}

impl<'a, B, const W: usize> Rows<'a, B, W> {
    /// The first `blocks` blocks of rows that begin `stride` units apart, of which the last one's blocks
    /// may end the slice. A block is an array of units.
    pub(crate) fn new<T>(units: &'a [T], stride: usize, blocks: usize) -> Self
    where
        B: BlockOf<T>,
    {
        let len = blocks.checked_mul(size_of::<B>() / size_of::<T>());
        let last = stride.checked_mul(W - 1).zip(len).and_then(|(at, len)| at.checked_add(len));
        assert!(last.is_some_and(|end| end <= units.len()), "{W} rows of {blocks} blocks");
        let start = units.as_ptr().cast();
        Self { start, stride: stride * size_of::<T>(), blocks, owner: PhantomData }
    }

    /// Block after block of all rows, each beside the next `each` elements of `x`.
    ///
    /// One iterator with one count: bounds of each slice for itself would cost the loop registers.
    #[inline(always)]
    pub(crate) fn beside<X>(self, x: &'a [X], each: usize) -> Beside<'a, B, X, W> {
        let needed = self.blocks.checked_mul(each);
        assert!(needed.is_some_and(|needed| needed <= x.len()), "elements beside each block");
        Beside { rows: self, x: x.as_ptr(), each }
    }
}

/// See [`Rows::beside`].
pub(crate) struct Beside<'a, B, X, const W: usize> {
    /// The rows, from the next block on.
    rows: Rows<'a, B, W>,
    x: *const X,
    each: usize,
}

impl<'a, B, X: 'a, const W: usize> Iterator for Beside<'a, B, X, W> {
    type Item = (Column<'a, B, W>, &'a [X]);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        self.rows.blocks = self.rows.blocks.checked_sub(1)?;
        let Rows { start, stride, owner, .. } = self.rows;
        let column = Column { start, stride, owner };
        // SAFETY: as many elements as blocks times `each` were seen in `beside`.
        let x = unsafe { std::slice::from_raw_parts(self.x, self.each) };
        self.rows.start = self.rows.start.wrapping_add(1);
        self.x = self.x.wrapping_add(self.each);
        Some((column, x))
    }
}

/// The next block of every row.
pub(crate) struct Column<'a, B, const W: usize> {
    start: *const B,
    stride: usize,
    owner: PhantomData<&'a [B]>,
}

impl<'a, B, const W: usize> Column<'a, B, W> {
    /// The block of row `j`.
    #[inline(always)]
    pub(crate) fn row(&self, j: usize) -> &'a B {
        assert!(j < W, "one of {W} rows");
        // SAFETY: `Rows::new` has checked that the rows' blocks lie within the slice, this column is
        // one of theirs, and a block, an array of its units, may lie wherever they may.
        unsafe { &*self.start.byte_add(j * self.stride) }
    }
}

/// Marks types that are arrays of `T`, so that their elements may be read through a pointer to `T`.
///
/// # Safety
/// The type is an array of `T`.
pub(crate) unsafe trait BlockOf<T> {}

// SAFETY: it is one.
unsafe impl<T, const N: usize> BlockOf<T> for [T; N] {}
