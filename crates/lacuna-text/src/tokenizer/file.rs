//! Holds what is read of a `tokenizer.json`, until the library gets it.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::model::Model;

/// A `tokenizer.json`, checked as far as it was read.
#[derive(Default)]
pub(super) struct File {
    pub(super) added: Vec<Added>,
    pub(super) last_added: Option<u32>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Model,
}

/// A token that the file adds to its model.
#[derive(Clone, PartialEq, Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

impl Added {
    pub(super) fn token(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}
