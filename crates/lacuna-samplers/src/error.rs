//! Says what can go wrong while sampling.

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The [`Denoiser`](crate::Denoiser) itself failed, for the reason that it gives.
    #[error("a pass through the model failed")]
    Denoiser(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A setting outside its range.
    #[error("{name} is {value}: expected {expected}")]
    Setting {
        /// The setting's name, as in [`Request`](crate::Request).
        name: &'static str,
        /// The value that was given.
        value: String,
        /// The values that are taken.
        expected: String,
    },
    /// The denoiser broke its contract: every wanted row is read out once, none of them empty.
    #[error("a pass read out {found} rows of logits: expected {expected}, none of them empty")]
    Rows {
        /// Rows asked for.
        expected: usize,
        /// Rows read out, up to the first empty one.
        found: usize,
    },
    /// No request under way has this number.
    #[error("request {request} is not under way: it has ended, or never began")]
    NotUnderWay {
        /// The number that was given.
        request: usize,
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
        /// The fault that was found in it.
        reason: String,
    },
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// For `map_err`: the reason of a denoiser that failed.
pub(crate) fn denoiser(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Denoiser(Box::new(error))
}

/// Shorthand for [`Error::Setting`].
pub(crate) fn setting<T>(
    name: &'static str,
    value: impl std::fmt::Display,
    expected: impl Into<String>,
) -> Result<T> {
    Err(Error::Setting { name, value: value.to_string(), expected: expected.into() })
}
