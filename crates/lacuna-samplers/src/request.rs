//! Says what is asked for, what happens on the way, and what comes out.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::candidates::Sampling;
use crate::error::{Result, setting};
use crate::fill::{Candidate, FillRule};
use crate::{DraftCounts, View};

/// One text to continue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The tokens to continue; may be empty. MASK ids among them are text like any other.
    pub prompt: Vec<u32>,
    /// At most this many new tokens; need not be a multiple of the block size.
    pub max_new_tokens: usize,
    /// No eos and no stop id before this many new tokens.
    pub min_new_tokens: usize,
    /// The order in which it is decoded. [`View::Blocks`] and [`View::CausalBlocks`]: block by block,
    /// counted from absolute position 0, so that the prompt may end inside one; a block that is as
    /// long as prompt and new tokens together is a canvas that every pass reads as a whole.
    /// [`View::Causal`]: token by token, each a block of its own, whatever `steps` and `fill` say.
    #[serde(rename = "block_size", with = "block_size")]
    pub view: View,
    /// Refinements for the whole of `max_new_tokens`, which scheduled rules spread over the blocks:
    /// ⌈steps·B/G⌉ a block, all of them for one that is no shorter than the new text. None: one token a refinement.
    pub steps: Option<NonZeroUsize>,
    /// The rule that says which masked positions a refinement fills.
    pub fill: FillRule,
    /// The law by which tokens are drawn.
    pub sampling: Sampling,
    /// End of sequence. From the first one on, the rest of its block becomes eos.
    pub eos_ids: Vec<u32>,
    /// Tokens that end the text without being part of it.
    pub stop_ids: Vec<u32>,
    /// The MASK token. Never generated.
    pub mask_id: u32,
}

impl Request {
    /// A greedy request for block diffusion, one token a refinement, that ends at `max_new_tokens`.
    pub fn new(
        prompt: Vec<u32>,
        max_new_tokens: usize,
        block_size: NonZeroUsize,
        mask_id: u32,
    ) -> Self {
        Self {
            prompt,
            max_new_tokens,
            min_new_tokens: 0,
            view: View::Blocks { block_size },
            steps: None,
            fill: FillRule::default(),
            sampling: Sampling::default(),
            eos_ids: Vec::new(),
            stop_ids: Vec::new(),
            mask_id,
        }
    }

    /// A greedy request for an autoregressive model that ends at `max_new_tokens`. Its MASK is an
    /// id that no token has.
    pub fn autoregressive(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        let one = Self::new(prompt, max_new_tokens, NonZeroUsize::MIN, u32::MAX);
        Self { view: View::Causal, ..one }
    }

    /// Tokens that are decided together: B, and 1 under the causal view.
    pub fn block_size(&self) -> NonZeroUsize {
        self.view.block_size()
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// A setting outside its range, or settings that contradict each other.
    pub fn validate(&self) -> Result<()> {
        self.fill.validate()?;
        self.sampling.validate()?;
        if self.view == View::Causal && self.prompt.is_empty() {
            return setting("prompt", "empty", "at least one token for an autoregressive model");
        }
        if self.max_new_tokens == 0 {
            return setting("max_new_tokens", 0, "at least 1");
        }
        if self.prompt.len().checked_add(self.max_new_tokens).is_none() {
            return setting("max_new_tokens", self.max_new_tokens, "a length that fits in memory");
        }
        if self.min_new_tokens > self.max_new_tokens {
            let expected = format!("at most max_new_tokens, {}", self.max_new_tokens);
            return setting("min_new_tokens", self.min_new_tokens, expected);
        }
        if self.eos_ids.contains(&self.mask_id) || self.stop_ids.contains(&self.mask_id) {
            return setting("mask_id", self.mask_id, "an id that is neither eos nor a stop id");
        }
        Ok(())
    }

    /// Refinements that the schedule gives to a block: ⌈steps·B/G⌉, at least 1 and at most `steps`; B by default.
    pub(crate) fn steps_per_block(&self) -> usize {
        let block_size = self.block_size().get() as u128;
        let new = self.max_new_tokens.max(1) as u128;
        let steps = self
            .steps
            .map_or(block_size, |steps| (steps.get() as u128 * block_size.min(new)).div_ceil(new));
        usize::try_from(steps).unwrap_or(usize::MAX)
    }
}

/// A view in a trace: its block size. Whether that is a causal one, the header's mode tells.
mod block_size {
    use std::num::NonZeroUsize;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::View;

    pub(super) fn serialize<S: Serializer>(view: &View, to: S) -> Result<S::Ok, S::Error> {
        view.block_size().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<View, D::Error> {
        Ok(View::Blocks { block_size: NonZeroUsize::deserialize(from)? })
    }
}

/// The reason why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An eos token.
    Eos,
    /// `max_new_tokens`.
    Length,
    /// A stop id, or the observer said so.
    Stop,
}

/// The result of a finished request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The request, by its number.
    pub request: usize,
    /// The new tokens, as the released code returns them: after eos, its block is filled with eos.
    pub tokens: Vec<u32>,
    /// The number of them that are text: those before the first eos or stop id.
    pub text_len: usize,
    /// The reason why it ended.
    pub finish: FinishReason,
    /// Passes this request took part in, prefill aside.
    pub forwards: usize,
    /// Blocks that were filled.
    pub blocks: usize,
    /// The use of its drafts; all zero without any.
    pub drafts: DraftCounts,
}

impl Generation {
    /// The new tokens that are text.
    pub fn text_tokens(&self) -> &[u32] {
        &self.tokens[..self.text_len]
    }

    /// New tokens per pass.
    pub fn tokens_per_forward(&self) -> f64 {
        self.tokens.len() as f64 / self.forwards.max(1) as f64
    }
}

/// An event of a request, as an observer sees it. Events of one request come in order; those of a batch are interleaved.
///
/// An observer answers [`Continue`](std::ops::ControlFlow::Continue), or `Break(keep)` to end that
/// request at once with its first `keep` new tokens (at most those of finished blocks) and
/// [`FinishReason::Stop`]: how a stop string or an impatient user ends a request.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// After every pass.
    Refinement(&'a Refinement),
    /// A block is complete: its tokens will not change any more.
    Block(&'a BlockEvent<'a>),
}

/// One pass over one block of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refinement {
    /// The request, by its number.
    pub request: usize,
    /// Absolute position of the block.
    pub block_start: usize,
    /// Refinement within the block, from 0.
    pub refinement: usize,
    /// The tokens that were proposed, one for every masked position, ascending.
    pub candidates: Vec<Candidate>,
    /// Absolute positions that were filled with their candidate, ascending.
    pub filled: Vec<usize>,
}

/// A finished block.
#[derive(Clone, Copy, Debug)]
pub struct BlockEvent<'a> {
    /// The request, by its number.
    pub request: usize,
    /// Absolute position of the block.
    pub block_start: usize,
    /// New tokens of this block (what it holds of the prompt is left out).
    pub tokens: &'a [u32],
    /// All new tokens so far, these included.
    pub generated: &'a [u32],
    /// The number of `generated` that are text (before eos or a stop id).
    pub text_len: usize,
    /// Passes so far.
    pub forwards: usize,
    /// Set on the last block.
    pub finish: Option<FinishReason>,
}
