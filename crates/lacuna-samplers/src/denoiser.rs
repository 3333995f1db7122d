//! The model, as far as a sampler can see it.

use candle_core::{Result, Tensor};

/// One sequence's share of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// Whose committed blocks the block is seen against.
    pub sequence: usize,
    /// The block: tokens, with MASK where nothing is filled in. It starts where the sequence's
    /// committed tokens end; only a sequence's last block may be shorter than the block size.
    pub block: &'a [u32],
    /// Offsets into the block whose logits are wanted, ascending; never empty.
    pub rows: &'a [usize],
}

/// A set of sequences, each with committed blocks behind it, and a model that fills the next one.
///
/// Sequences are numbers that the sampler chooses. One that was never heard of, or was released,
/// is empty. All attention is block-causal: a position sees its own block and all committed ones.
///
/// The logits of a lane must not depend on the other lanes of the pass. Errors end the decoding.
pub trait Denoiser {
    /// Makes `tokens`, a multiple of `block_size` long, the committed start of an empty sequence.
    ///
    /// # Errors
    /// The model's.
    fn prefill(&mut self, sequence: usize, tokens: &[u32], block_size: usize) -> Result<()>;

    /// One pass over one block of each listed sequence, against what that has committed; leaves
    /// nothing behind. No sequence is listed twice.
    ///
    /// Returns logits [sum of rows, vocab], lanes in order, rows in order. Fastest as contiguous
    /// f32 on the CPU, which is read in place.
    ///
    /// # Errors
    /// The model's.
    fn denoise(&mut self, lanes: &[Lane<'_>]) -> Result<Tensor>;

    /// Appends a finished block to the sequence. May be queued, to ride along with that sequence's
    /// next [`denoise`](Self::denoise) or [`speculate`](Self::speculate) in one pass.
    ///
    /// # Errors
    /// The model's.
    fn commit(&mut self, sequence: usize, block: &[u32]) -> Result<()>;

    /// One pass over \[masked blocks | draft blocks\] of equal length under the training mask:
    /// masked block b sees the committed blocks, itself, and draft blocks before b. The draft is a
    /// multiple of `block_size` long.
    ///
    /// Returns logits [draft.len(), vocab] of the masked half, and keeps the draft's keys and
    /// values pending until [`accept`](Self::accept).
    ///
    /// # Errors
    /// The model's.
    fn speculate(
        &mut self,
        sequence: usize,
        draft: &[u32],
        block_size: usize,
        mask_id: u32,
    ) -> Result<Tensor>;

    /// Commits the first `tokens` of the pending draft (whole blocks, no further pass) and drops
    /// the rest.
    ///
    /// # Errors
    /// The model's.
    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<()>;

    /// Forgets the sequence, with anything queued or pending.
    fn release(&mut self, sequence: usize);
}
