//! Says what is asked of a continuation: a prompt, and settings that may be left open.

use lacuna_checkpoint::Attention;
use lacuna_model::Activations;
use lacuna_samplers::{FillRule, Sampling};
use std::num::NonZeroUsize;

use crate::constraint::Pattern;
use crate::error::{Error, Result};
use crate::open::Model;

/// A text to continue, or its token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, encoded with the checkpoint's tokenizer.
    Text(String),
    /// Token ids as they are.
    Ids(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt::Text(text.to_owned())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Prompt::Ids(ids)
    }
}

/// New tokens of a continuation at most, where nothing says how many.
pub const MAX_NEW_TOKENS: usize = 128;

/// Settings of a continuation. `None` means the checkpoint's own value, else the default named.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// At most this many new tokens ([`MAX_NEW_TOKENS`]).
    pub max_new_tokens: usize,
    /// No end before this many.
    pub min_new_tokens: usize,
    /// Tokens in a block (4; under full attention the prompt and all new tokens, and no other number).
    pub block_size: Option<NonZeroUsize>,
    /// The tokens that a masked position sees (as the checkpoint was trained; block-causal where that is full and a
    /// block size is given). For an autoregressive model it is causal, and nothing else.
    pub attention: Option<Attention>,
    /// Refinements in all, as in the released code (one a token).
    pub steps: Option<NonZeroUsize>,
    /// The rule that says which masked positions a refinement fills (every one of confidence 0.9;
    /// the most confident one with `steps`, in the released algorithm and under a shifted head).
    pub fill: Option<FillRule>,
    /// The law by which tokens are drawn.
    pub sampling: Sampling,
    /// The algorithm that decodes (as the checkpoint was trained).
    pub algorithm: Option<Algorithm>,
    /// End-of-text ids.
    pub eos_ids: Option<Vec<u32>>,
    /// MASK.
    pub mask_id: Option<u32>,
    /// In the released algorithm too, never fill in MASK.
    pub forbid_mask: bool,
    /// The precision of the activations with which the prompt is read (f32, which is exact). Rounded ones take a long
    /// prompt in 0.4 (a large model) to 0.7 of the time, where the weights are stored in a format that has products for them.
    pub prompt_precision: Activations,
    /// Texts that end the continuation, which does not include them.
    pub stop: Vec<String>,
    /// The rule that all of the new text keeps to. It may then end only where the rule says so: `stop` and
    /// `min_new_tokens` go without. At `max_new_tokens` it ends wherever it is, with [`FinishReason::Length`](crate::FinishReason::Length).
    pub pattern: Option<Pattern>,
    /// The source of drafts, which save passes and change no token (lookup for an autoregressive model, else none;
    /// the released algorithm and a shifted head take none).
    pub drafts: Option<DraftSource>,
    /// Texts besides the request's own in which drafts are looked up, such as the file that a prompt shows a part of.
    pub draft_texts: Vec<Vec<u32>>,
    /// Decode a checkpoint in the mode that it was not trained for.
    pub allow_mode_mismatch: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: MAX_NEW_TOKENS,
            min_new_tokens: 0,
            block_size: None,
            attention: None,
            steps: None,
            fill: None,
            sampling: Sampling::default(),
            algorithm: None,
            eos_ids: None,
            mask_id: None,
            forbid_mask: false,
            prompt_precision: Activations::F32,
            stop: Vec::new(),
            pattern: None,
            drafts: None,
            draft_texts: Vec::new(),
            allow_mode_mismatch: false,
        }
    }
}

/// The source of drafts: tokens that are guessed, and checked many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftSource {
    /// No drafts.
    None,
    /// The place at which the newest tokens stood before: in the prompt, in what was written, in other texts.
    Lookup,
    /// The text before a change. Only an [edit](crate::edit()) has one; as an option it is no drafts.
    OldText,
}

impl DraftSource {
    /// Its name in flags, JSON and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lookup => "lookup",
            Self::OldText => "old-text",
        }
    }
}

/// The algorithm that decodes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// One after the other.
    Autoregressive,
    /// Block by block; a finished block is read in the first pass over the next one.
    Blocks,
    /// Block by block as the released code does it, step by step, its faults included.
    Reference,
}

/// The prompt's ids, each one that the model embeds.
///
/// # Errors
/// Errors if there is no tokenizer for a text, or an id is beyond the vocabulary.
pub fn prompt_ids(model: &Model, prompt: Prompt) -> Result<Vec<u32>> {
    let prompt = match prompt {
        Prompt::Ids(ids) => ids,
        Prompt::Text(text) => model.tokenizer()?.encode_with_special_tokens(&text)?,
    };
    let vocab = model.config().vocab_size;
    match prompt.iter().find(|id| **id as usize >= vocab) {
        Some(id) => {
            Err(Error::Request(format!("prompt id {id} is outside the model's {vocab} tokens")))
        }
        None => Ok(prompt),
    }
}
