//! Some rows of blocks a constant distance apart, as one address.

use std::marker::PhantomData;

/// `W` rows of as many blocks: in a loop over blocks, one address and one distance take fewer registers
/// than `W` slices.
#[derive(Clone, Copy)]
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
        let len = size_of::<B>() / size_of::<T>() * blocks;
        let last = stride.checked_mul(W - 1).and_then(|at| at.checked_add(len));
        assert!(last.is_some_and(|end| end <= units.len()), "{W} rows of {blocks} blocks");
        let start = units.as_ptr().cast();
        Self { start, stride: stride * size_of::<T>(), blocks, owner: PhantomData }
    }

    /// Block `b` of row `j`.
    #[inline(always)]
    pub(crate) fn at(&self, j: usize, b: usize) -> &'a B {
        assert!(j < W && b < self.blocks, "a block of the rows");
        // SAFETY: `new` has checked that the rows' blocks lie within the slice, and a block, an array of
        // its units, may lie wherever they may.
        unsafe { &*self.start.add(b).byte_add(j * self.stride) }
    }
}

/// Arrays of `T`.
///
/// # Safety
/// The type is an array of `T`.
pub(crate) unsafe trait BlockOf<T> {}

// SAFETY: it is one.
unsafe impl<T, const N: usize> BlockOf<T> for [T; N] {}
