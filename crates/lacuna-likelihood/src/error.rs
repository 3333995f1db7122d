/// Why a likelihood can't be had.
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
        /// How many there are.
        found: usize,
        /// Tokens of the text.
        tokens: usize,
    },
    /// From the passes' masks.
    #[error(transparent)]
    Objective(#[from] lacuna_objective::Error),
    /// From the model.
    #[error(transparent)]
    Model(#[from] lacuna_model::Error),
    /// From a tensor operation.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensor(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
