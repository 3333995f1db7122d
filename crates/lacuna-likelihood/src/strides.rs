//! Cuts a text that is longer than what a model reads at once into windows that overlap.

use std::ops::Range;

use crate::error::{Error, Result};

/// The windows by which a long text is scored, each token in exactly one of them.
///
/// The first window is scored whole. Each later one begins `stride` tokens behind the one before it and its last `stride`
/// tokens alone are scored, so that each of them has at least `window` − `stride` tokens of context, less what the text
/// does not have. A smaller stride gives more context and takes more passes.
///
/// ```
/// use lacuna_likelihood::Strides;
///
/// let strides = Strides::new(8, 4, 2)?;
/// let windows: Vec<_> = strides.windows(15).collect();
/// assert_eq!(windows, [(0..8, 0..8), (4..12, 8..12), (8..15, 12..15)]); // read, scored
/// # Ok::<(), lacuna_likelihood::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    window: usize,
    stride: usize,
}

impl Strides {
    /// Windows of at most `window` tokens that follow each other by at most `stride`, both cut down to a multiple of
    /// `step`: the block size where a text is scored in blocks, so that a block is the same one in every window; else 1.
    ///
    /// # Errors
    /// Errors unless a window holds a block to score and one before it.
    pub fn new(window: usize, stride: usize, step: usize) -> Result<Self> {
        let step = step.max(1);
        let whole = |tokens: usize| tokens / step * step;
        let one = Self { window: whole(window), stride: whole(stride) };
        match one.stride > 0 && one.stride < one.window {
            true => Ok(one),
            false => Err(Error::Window { window, stride, step }),
        }
    }

    /// Tokens that a window holds at most.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Tokens by which windows follow each other.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The windows of a text of so many tokens: which of them each reads, and which of those it scores.
    pub fn windows(
        &self,
        tokens: usize,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<> {
        let Self { window, stride } = *self;
        let later = tokens.saturating_sub(window).div_ceil(stride);
        (0..=later).filter(move |_| tokens > 0).map(move |number| {
            let first = number * stride;
            let end = (first + window).min(tokens);
            let scored = if number == 0 { 0 } else { first + window - stride };
            (first..end, scored..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_scored_once_behind_the_context_that_was_asked_for() {
        for (window, stride, step) in
            [(8, 4, 1), (8, 7, 1), (8, 1, 1), (9, 5, 2), (12, 3, 3), (64, 32, 4)]
        {
            let strides = Strides::new(window, stride, step).unwrap();
            let (window, stride) = (strides.window(), strides.stride());
            for tokens in 0..40 {
                let mut next = 0;
                for (read, scored) in strides.windows(tokens) {
                    assert_eq!(scored.start, next, "{strides:?}, {tokens} tokens");
                    assert!(read.len() <= window && read.end == scored.end && !scored.is_empty());
                    assert!(read.start.is_multiple_of(step) && scored.start.is_multiple_of(step));
                    let context = scored.start - read.start;
                    assert!(scored.start == 0 || context == window - stride);
                    next = scored.end;
                }
                assert_eq!(next, tokens);
            }
        }
    }

    #[test]
    fn a_window_holds_a_block_to_score_and_one_of_context() {
        for (window, stride, step) in [(8, 8, 1), (8, 0, 1), (7, 4, 4), (8, 3, 4), (0, 0, 1)] {
            let error = Strides::new(window, stride, step).unwrap_err().to_string();
            assert!(error.contains("whole block"), "{error}");
        }
    }
}
