//! Defines the model, as far as a sampler can see it.

use std::num::NonZeroUsize;

use crate::candidates::Sampling;
use crate::fill::Candidate;

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
    /// Blocks as above, of whose tokens each sees itself and what stands before it, of its own block masked or not: as
    /// diffusion models do that were trained under causal attention. In blocks of one token it is the view above.
    CausalBlocks {
        /// B.
        block_size: NonZeroUsize,
    },
    /// Causal: itself and the tokens before it, as autoregressive models do, whose logits at a token are of the next.
    Causal,
}

impl View {
    /// Tokens that are decided together: B, and 1 under the causal view.
    pub fn block_size(self) -> NonZeroUsize {
        match self {
            Self::Blocks { block_size } | Self::CausalBlocks { block_size } => block_size,
            Self::Causal => NonZeroUsize::MIN,
        }
    }

    /// The number of `tokens` from a text's beginning whose keys and values depend on no token behind them: whole
    /// blocks where tokens see all of their block, else every one.
    pub fn settled(self, tokens: usize) -> usize {
        match self {
            Self::Blocks { block_size } => tokens / block_size * block_size.get(),
            Self::CausalBlocks { .. } | Self::Causal => tokens,
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

    /// Begins a sequence whose committed tokens are `tokens`: in blocks a multiple of the block size
    /// long, maybe none. They may be queued, to be read in the sequence's first pass.
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

/// A guess at the tokens that a sequence goes on with, to be checked in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The sequence, which has nothing filled in of its open block.
    pub sequence: usize,
    /// The view that it was begun with.
    pub view: View,
    /// The guess: whole blocks, at least one. They start where the committed tokens end.
    pub tokens: &'a [u32],
    /// MASK.
    pub mask_id: u32,
}

/// A draw that a denoiser may make itself, where its logits are: everything that a candidate depends on besides its row of
/// them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw<'a> {
    /// The law by which it is drawn. Frequency and presence penalties are off.
    pub sampling: &'a Sampling,
    /// Absolute position.
    pub position: usize,
    /// Refinement within the block.
    pub refinement: usize,
    /// Tokens that may not come out, ascending; of ids beyond the vocabulary nothing comes.
    pub forbidden: &'a [u32],
    /// Tokens that the repetition penalty applies to, ascending; empty without one.
    pub seen: &'a [u32],
}

/// The reason why nothing is drawn from a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// A logit is NaN or +∞.
    NotFinite,
    /// Every token is forbidden or has logit −∞.
    NothingAllowed,
}

/// The thing that a pass leaves of a wanted row.
#[derive(Clone, Debug)]
pub enum Row<'a> {
    /// Its logits, `[vocab]`.
    Logits(&'a [f32]),
    /// The candidate that the denoiser has drawn from them. Margin, entropy and uniform number may be there whether the request's rule
    /// asks for them or not.
    Drawn(Result<Candidate, NoToken>),
}

/// A denoiser that can check drafts: it denoises many blocks of a sequence in one pass, each behind
/// the draft's blocks before it.
///
/// [`Decoder::step_drafting`](crate::Decoder::step_drafting) decodes on one.
pub trait Speculative: Denoiser {
    /// One pass over open blocks, as [`denoise`](Denoiser::denoise), and over drafts. No sequence is
    /// listed twice.
    ///
    /// In blocks a draft is read as \[masked blocks | draft blocks\] of equal length under the
    /// training mask: masked block b sees the committed tokens, itself as its view has it, and draft
    /// blocks before b. Under [`View::Causal`] it is read as it stands.
    ///
    /// Calls `read` with the logits, `[vocab]`, of every wanted row of the segments in order, then
    /// for each draft with as many rows as it has tokens: those of its masked blocks, or of the
    /// tokens that it guesses. Keeps the draft's keys and values pending until
    /// [`accept`](Self::accept).
    ///
    /// # Errors
    /// The model's. A pass that fails leaves all of its sequences as they were.
    fn speculate(
        &mut self,
        segments: &[Segment<'_>],
        drafts: &[Draft<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Self::Error>;

    /// Tells whether [`speculate_drawing`](Self::speculate_drawing) makes draws itself. Nobody gathers what they need
    /// otherwise.
    fn draws(&self) -> bool {
        false
    }

    /// [`speculate`](Self::speculate) with a draw for each wanted row, in the same order, where one can be told beforehand:
    /// under a [`Constraint`](crate::Constraint) and some penalties it can't. A denoiser whose logits lie on another
    /// device may make it there, and gives the candidate that this crate picks from the same logits.
    ///
    /// # Errors
    /// As [`speculate`](Self::speculate).
    fn speculate_drawing(
        &mut self,
        segments: &[Segment<'_>],
        drafts: &[Draft<'_>],
        draws: &[Option<Draw<'_>>],
        read: &mut dyn FnMut(Row<'_>),
    ) -> Result<(), Self::Error> {
        debug_assert!(draws.iter().all(Option::is_none), "draws for a denoiser that makes none");
        self.speculate(segments, drafts, &mut |logits| read(Row::Logits(logits)))
    }

    /// Commits the first `tokens` of the pending draft (whole blocks, maybe none) without a further
    /// pass, and drops the rest.
    ///
    /// # Errors
    /// The model's.
    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<(), Self::Error>;
}

/// A denoiser that is given no drafts, in the place of one that checks them.
pub(crate) struct Plain<'a, D>(pub(crate) &'a mut D);

impl<D: Denoiser> Denoiser for Plain<'_, D> {
    type Error = D::Error;

    fn prefill(&mut self, sequence: usize, tokens: &[u32], view: View) -> Result<(), D::Error> {
        self.0.prefill(sequence, tokens, view)
    }

    fn denoise(
        &mut self,
        segments: &[Segment<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), D::Error> {
        self.0.denoise(segments, read)
    }

    fn commit(&mut self, sequence: usize, tokens: &[u32]) -> Result<(), D::Error> {
        self.0.commit(sequence, tokens)
    }

    fn release(&mut self, sequence: usize) {
        self.0.release(sequence);
    }
}

impl<D: Denoiser> Speculative for Plain<'_, D> {
    fn speculate(
        &mut self,
        segments: &[Segment<'_>],
        drafts: &[Draft<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), D::Error> {
        debug_assert!(drafts.is_empty(), "nothing is drafted for a plain denoiser");
        self.0.denoise(segments, read)
    }

    fn accept(&mut self, _: usize, _: usize) -> Result<(), D::Error> {
        Ok(())
    }
}
