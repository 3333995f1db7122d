//! What can go wrong while sampling.

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// The [`Denoiser`](crate::Denoiser) itself failed.
    #[error("a pass through the model failed")]
    Denoiser(#[from] candle_core::Error),
    /// A setting outside its range.
    #[error("{name} is {value}: expected {expected}")]
    Setting {
        /// The setting's name, as in [`Request`](crate::Request).
        name: &'static str,
        /// What was given.
        value: String,
        /// What is taken.
        expected: String,
    },
    /// The denoiser returned logits of another shape than it was asked for.
    #[error("logits have shape {found:?}: expected [{rows}, vocab] with vocab at least 1")]
    LogitsShape {
        /// Rows asked for.
        rows: usize,
        /// The shape that came back.
        found: Vec<usize>,
    },
    /// A logit is not a number, or +∞.
    #[error(
        "logits of request {request} at position {position} hold {value}: expected finite numbers \
         (or -inf for impossible tokens); check the weights and their dtype"
    )]
    NotFinite {
        /// The request, by its number.
        request: usize,
        /// Absolute position of the row.
        position: usize,
        /// `NaN` or `inf`.
        value: f32,
    },
    /// Every token of the vocabulary is forbidden or has logit -∞.
    #[error("no token is possible at position {position} of request {request}: all are forbidden")]
    NothingAllowed {
        /// The request, by its number.
        request: usize,
        /// Absolute position of the row.
        position: usize,
    },
    /// The released algorithm went through its steps and a block is not full.
    #[error(
        "block at position {block_start} still has {left} masks after {refinements} refinements: \
         raise the steps, lower the threshold, or use the default mode, which goes on until the \
         block is full"
    )]
    MasksLeft {
        /// Absolute position of the block.
        block_start: usize,
        /// Masks it still has.
        left: usize,
        /// Refinements that were run on it.
        refinements: usize,
    },
    /// A trace that does not parse or contradicts itself.
    #[error("trace line {line}: {reason}")]
    Trace {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// `Result` with [`SamplerError`].
pub type Result<T, E = SamplerError> = std::result::Result<T, E>;

/// Shorthand for [`SamplerError::Setting`].
pub(crate) fn setting<T>(
    name: &'static str,
    value: impl std::fmt::Display,
    expected: impl Into<String>,
) -> Result<T> {
    Err(SamplerError::Setting { name, value: value.to_string(), expected: expected.into() })
}
