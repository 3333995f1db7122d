//! Lists the reasons why a likelihood can't be had.

/// A reason why a likelihood can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block-diffusion method without a block size and a MASK id.
    #[error("a block-diffusion likelihood needs a block size and a MASK id")]
    NoBlocks,
    /// Flags or documents that do not cover their text.
    #[error("a text of {tokens} tokens has {found} {what}: expected as many as tokens")]
    Length {
        /// `eligible flags` or `tokens in documents`.
        what: &'static str,
        /// The number that was given.
        found: usize,
        /// Tokens of the text.
        tokens: usize,
    },
    /// An order of filling where there is none to choose.
    #[error(
        "under causal attention there is no order of filling to measure: ask for block-causal or full attention"
    )]
    NoOrder,
    /// A window that holds no context and no block to score behind it.
    #[error(
        "windows of {window} tokens, of which {stride} are new in each: expected at least one whole block of {step} to \
         score and one before it"
    )]
    Window {
        /// Tokens of a window.
        window: usize,
        /// Tokens by which windows follow each other.
        stride: usize,
        /// Tokens in a block.
        step: usize,
    },
    /// No candidate could be made of the model's logits.
    #[error(transparent)]
    Sampler(#[from] lacuna_samplers::Error),
    /// The passes could not be laid out.
    #[error(transparent)]
    Objective(#[from] lacuna_objective::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] lacuna_model::Error),
    /// A tensor operation failed.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensor(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
