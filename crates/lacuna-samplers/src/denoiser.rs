//! Defines the model, as far as a sampler can see it.

use std::num::NonZeroUsize;

/// The tokens that a position of a sequence sees. It stays the same for as long as the sequence
/// lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Block-causal: its own block of `block_size` tokens, and all committed ones. Blocks are
    /// counted from the sequence's first token.
    Blocks {
        /// B.
        block_size: NonZeroUsize,
    },
    /// Causal: itself and the tokens before it, as autoregressive models do.
    Causal,
}

impl View {
    /// Tokens that are decided together: B, and 1 under the causal view.
    pub fn block_size(self) -> NonZeroUsize {
        match self {
            Self::Blocks { block_size } => block_size,
            Self::Causal => NonZeroUsize::MIN,
        }
    }
}

/// One sequence's share of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The sequence, by the number that [`Denoiser::prefill`] began it under.
    pub sequence: usize,
    /// The view that it was begun with.
    pub view: View,
    /// The open block: tokens, with MASK where nothing is filled in. It starts where the sequence's
    /// committed tokens end, and only a sequence's last block may be shorter than the block size.
    /// Empty under the causal view, which has nothing open.
    pub block: &'a [u32],
    /// Positions whose logits are wanted, counted from the end of the committed tokens, ascending
    /// and never empty. Under the causal view it is `[0]`: the token that follows all of them.
    pub rows: &'a [usize],
}

/// A set of sequences, each with committed tokens behind it, and a model that proposes what comes
/// next: the one trait that a model implements to be decoded by this crate.
///
/// A sequence lives from [`prefill`](Self::prefill) to [`release`](Self::release), under a number
/// that the sampler chooses. A number that is not in use may only be given to `prefill`.
///
/// # What the sampler relies on
/// - The logits of a segment do not depend on the other segments of the pass.
/// - A call that fails leaves the other sequences as they were. A failed [`prefill`](Self::prefill)
///   leaves no sequence behind. A failed
///   [`denoise`](Self::denoise) leaves those of its segments as they were, too: the sampler asks
///   for each of them again, alone, and so finds the one that can't go on.
pub trait Denoiser {
    /// The reason why a call failed; what it says reaches whoever made the request.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Begins a sequence whose committed tokens are `tokens`: under [`View::Blocks`] a multiple of
    /// the block size long, maybe none. They may be queued, to be read in the sequence's first
    /// pass.
    ///
    /// # Errors
    /// The model's.
    fn prefill(&mut self, sequence: usize, tokens: &[u32], view: View) -> Result<(), Self::Error>;

    /// One pass over the open blocks of the listed sequences, against what each has committed;
    /// leaves nothing behind. No sequence is listed twice.
    ///
    /// Calls `read` with the logits, `[vocab]`, of every wanted row: segments in order, the rows of
    /// each in order. They are read in place, so nothing has to lie next to anything else.
    ///
    /// # Errors
    /// The model's. What was read of a pass that fails counts for nothing.
    fn denoise(
        &mut self,
        segments: &[Segment<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Self::Error>;

    /// Appends to a sequence's committed tokens: a finished block, or one token under the causal
    /// view. They may be queued, to ride along with the sequence's next pass.
    ///
    /// # Errors
    /// The model's.
    fn commit(&mut self, sequence: usize, tokens: &[u32]) -> Result<(), Self::Error>;

    /// Forgets a sequence, with anything queued or pending. One that is not there is left alone.
    fn release(&mut self, sequence: usize);
}

/// A denoiser that can look at a draft: it denoises many blocks in one pass, each seeing the
/// draft's blocks before it. [`edit`](crate::edit) decodes on one.
pub trait Speculative: Denoiser {
    /// One pass over \[masked blocks | draft blocks\] of equal length under the training mask:
    /// masked block b sees the committed tokens, itself, and draft blocks before b. The draft is a
    /// multiple of the sequence's block size long.
    ///
    /// Calls `read` with the logits, `[vocab]`, of every row of the masked half, in order, and keeps
    /// the draft's keys and values pending until [`accept`](Self::accept).
    ///
    /// # Errors
    /// The model's.
    fn speculate(
        &mut self,
        sequence: usize,
        draft: &[u32],
        mask_id: u32,
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Self::Error>;

    /// Commits the first `tokens` of the pending draft (whole blocks, no further pass) and drops
    /// the rest.
    ///
    /// # Errors
    /// The model's.
    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<(), Self::Error>;
}
