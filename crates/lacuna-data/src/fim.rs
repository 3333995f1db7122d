//! Filling in the middle, with the three special tokens that code models are trained on.

use crate::error::{Error, Result};
use crate::seed::below;
use crate::tokenizer::Tokenizer;
use rand::RngCore;

/// How families of models spell prefix, suffix and middle.
const SPELLINGS: [[&str; 3]; 3] = [
    ["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
];

/// The ids that mark the parts of a fill-in-the-middle prompt.
///
/// The parts stand in the order suffix, prefix, middle (paper.md §1), so that the text to be written
/// follows its prefix directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fim {
    /// Stands before the text before the hole.
    pub prefix: u32,
    /// Stands before the text after the hole.
    pub suffix: u32,
    /// Stands before what fills the hole.
    pub middle: u32,
}

impl Fim {
    /// Finds the three tokens by name.
    ///
    /// # Errors
    /// When the tokenizer has no known set of them.
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Result<Self> {
        for [prefix, suffix, middle] in SPELLINGS {
            let ids = [prefix, suffix, middle].map(|name| tokenizer.token_to_id(name));
            if let [Some(prefix), Some(suffix), Some(middle)] = ids {
                return Ok(Self { prefix, suffix, middle });
            }
        }
        let names: Vec<_> = SPELLINGS.iter().map(|names| names.join(" ")).collect();
        Err(Error::Fim(format!(
            "the tokenizer has none of {}; this model cannot fill holes, generate instead",
            names.join(", ")
        )))
    }

    /// Suffix, prefix and the mark after which the model writes the middle.
    pub fn prompt(&self, prefix: &[u32], suffix: &[u32]) -> Vec<u32> {
        [&[self.suffix], suffix, &[self.prefix], prefix, &[self.middle]].concat()
    }

    /// [`prompt`](Self::prompt) of two texts, in which special tokens spelt out stay text.
    ///
    /// # Errors
    /// When the tokenizer fails on a text.
    pub fn prompt_text(
        &self,
        tokenizer: &Tokenizer,
        prefix: &str,
        suffix: &str,
    ) -> Result<Vec<u32>> {
        let (prefix, suffix) =
            (tokenizer.encode_ordinary(prefix)?, tokenizer.encode_ordinary(suffix)?);
        Ok(self.prompt(&prefix, &suffix))
    }

    /// A training example: `text` with a hole between two uniformly drawn characters, then what
    /// belongs in it. Parts may be empty.
    ///
    /// # Errors
    /// When the tokenizer fails on a part.
    pub fn example(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        rng: &mut impl RngCore,
    ) -> Result<Vec<u32>> {
        let mut boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        boundaries.push(text.len());
        let mut draw = || boundaries[below(rng, boundaries.len() as u64) as usize];
        let (one, other) = (draw(), draw());
        let (begin, end) = (one.min(other), one.max(other));
        let mut tokens = self.prompt_text(tokenizer, &text[..begin], &text[end..])?;
        tokens.extend(tokenizer.encode_ordinary(&text[begin..end])?);
        Ok(tokens)
    }
}
