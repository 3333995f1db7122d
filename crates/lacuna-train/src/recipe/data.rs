//! Reads from `[data]` which parts of a corpus are taken.

use super::DataRecipe;
use lacuna_data::CorpusOptions;

impl DataRecipe {
    /// The options of the corpus reader.
    pub fn corpus_options(&self) -> CorpusOptions {
        CorpusOptions {
            extensions: self.extensions.clone(),
            max_document_bytes: self.max_document_bytes,
            text_fields: self.text_fields.clone(),
            take_binary: self.take_binary,
            take_hidden: self.take_hidden,
            take_ignored: self.take_ignored,
        }
    }
}

pub(super) fn max_document_bytes() -> usize {
    CorpusOptions::default().max_document_bytes
}

pub(super) fn text_fields() -> Vec<String> {
    CorpusOptions::default().text_fields
}
