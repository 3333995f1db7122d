//! Tells of a pass in the words of those who watch: every place of the open block with its text.

use lacuna_engine::Model;

use super::job::{Place, Seen};

/// The text that a token stands for, as far as it is text by itself.
fn text_of(model: &Model, id: u32) -> String {
    let bytes = model.tokenizer.as_ref().and_then(|tokenizer| tokenizer.bytes_of(id).ok());
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// The open block after a pass.
pub(super) fn seen(model: &Model, refinement: &lacuna_engine::Refinement, prompt: usize) -> Seen {
    let places = refinement.candidates.iter().map(|candidate| Place {
        position: candidate.position.saturating_sub(prompt),
        text: text_of(model, candidate.token),
        confidence: candidate.confidence,
        filled: refinement.filled.binary_search(&candidate.position).is_ok(),
    });
    Seen {
        start: refinement.block_start.saturating_sub(prompt),
        refinement: refinement.refinement,
        places: places.collect(),
        finished: false,
    }
}

/// A finished block.
pub(super) fn finished(model: &Model, start: usize, tokens: &[u32]) -> Seen {
    let places = tokens.iter().enumerate().map(|(at, token)| Place {
        position: start + at,
        text: text_of(model, *token),
        confidence: 1.0,
        filled: true,
    });
    Seen { start, refinement: 0, places: places.collect(), finished: true }
}
