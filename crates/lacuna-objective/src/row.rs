//! Divides a row of tokens into blocks.

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::{Error, Result};

/// One packed window of clean text: its tokens, which of them may be masked and supervised, and its blocks.
///
/// Prompt tokens and padding are not eligible: always clean, never supervised. A block without an
/// eligible token is skipped. Blocks may be ragged: where documents are masked from each other,
/// blocks are counted from each document's start and its last one is cut.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    clean: &'a [u32],
    eligible: &'a [bool],
    blocks: &'a [Range<usize>],
}

impl<'a> Row<'a> {
    /// Checks and joins the parts of a row; `clean` and `eligible` have the same length, `blocks` ascend without
    /// overlap.
    ///
    /// # Errors
    /// Lengths differ; a block goes backwards, overlaps the one before it, or leaves the row.
    pub fn new(clean: &'a [u32], eligible: &'a [bool], blocks: &'a [Range<usize>]) -> Result<Self> {
        if eligible.len() != clean.len() {
            let (found, expected) = (eligible.len(), clean.len());
            return Err(Error::Length { what: "eligible flags of a row", found, expected });
        }
        let mut free = 0;
        for (block, &Range { start, end }) in blocks.iter().enumerate() {
            if start < free || end < start || end > clean.len() {
                return Err(Error::Block { block, start, end, free, row_len: clean.len() });
            }
            free = end;
        }
        Ok(Self { clean, eligible, blocks })
    }

    /// The tokens.
    pub fn clean(&self) -> &'a [u32] {
        self.clean
    }

    /// A flag for each token: true if it may be masked and supervised.
    pub fn eligible(&self) -> &'a [bool] {
        self.eligible
    }

    /// The blocks.
    pub fn blocks(&self) -> &'a [Range<usize>] {
        self.blocks
    }

    /// The eligible positions of each block, in order.
    pub(crate) fn eligible_positions(&self) -> impl Iterator<Item = Vec<usize>> + 'a {
        let eligible = self.eligible;
        self.blocks.iter().map(move |block| block.clone().filter(|&i| eligible[i]).collect())
    }
}

/// The blocks of a window of `len` tokens, counted from position 0; the last may be short.
///
/// ```
/// # use std::num::NonZeroUsize;
/// let blocks = lacuna_objective::block_ranges(10, NonZeroUsize::new(4).unwrap());
/// assert_eq!(blocks, [0..4, 4..8, 8..10]);
/// ```
pub fn block_ranges(len: usize, block_size: NonZeroUsize) -> Vec<Range<usize>> {
    document_block_ranges(&[len], block_size)
}

/// The blocks of a window that holds documents of these lengths, counted from each document's start.
///
/// ```
/// # use std::num::NonZeroUsize;
/// let blocks = lacuna_objective::document_block_ranges(&[5, 3], NonZeroUsize::new(4).unwrap());
/// assert_eq!(blocks, [0..4, 4..5, 5..8]);
/// ```
pub fn document_block_ranges(documents: &[usize], block_size: NonZeroUsize) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let mut document_start = 0;
    for len in documents {
        let document_end = document_start + len;
        let starts = (document_start..document_end).step_by(block_size.get());
        blocks.extend(
            starts.map(|start| start..start.saturating_add(block_size.get()).min(document_end)),
        );
        document_start = document_end;
    }
    blocks
}
