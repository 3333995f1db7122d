//! Next-token decoding for autoregressive checkpoints, with the same requests, draws and events.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::candidates::Picker;
use crate::error::{Result, setting};
use crate::request::{Event, Generation, Request};
use crate::rows::with_rows;
use crate::sequence::{Progress, Sequence};

/// Decodes one token a pass. A token counts as a block of its own, whatever the request's block
/// size, rule and steps.
///
/// `next` receives the tokens that are new since its last call (first the whole prompt) and returns
/// the logits [1, vocab] of the token that follows. Every call counts as a forward, since every
/// call yields a token.
///
/// # Errors
/// An empty prompt; what [`Request::validate`] refuses; the closure's errors; logits that are no
/// numbers.
pub fn generate_autoregressive(
    mut next: impl FnMut(&[u32]) -> candle_core::Result<Tensor>,
    request: Request,
    mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Generation> {
    if request.prompt.is_empty() {
        return setting("prompt", "empty", "at least one token for an autoregressive model");
    }
    let request = Request { block_size: std::num::NonZeroUsize::MIN, ..request };
    let mut sequence = Sequence::new(0, request)?;
    let mut picker = Picker::default();
    let mut known = 0;
    loop {
        let logits = next(&sequence.canvas[known..])?;
        known = sequence.canvas.len();
        sequence.forwards += 1;
        let progress = with_rows(&logits, 1, |row, vocab| {
            sequence.refine(row, vocab, &mut picker, &mut observer)
        })?;
        if progress == Progress::Finished {
            return Ok(sequence.into_generation());
        }
    }
}
