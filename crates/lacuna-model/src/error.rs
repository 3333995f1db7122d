//! What a model itself can fail with; what its files can fail with comes through from [`lacuna_checkpoint`].

/// What went wrong with a model: a call that it can't answer, its files, or a tensor operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A call that this model can't answer: shapes that disagree, too many positions, a missing parameter.
    #[error("{0}")]
    Input(String),
    /// From the checkpoint: its files, its configuration, its tensors.
    #[error(transparent)]
    Checkpoint(#[from] lacuna_checkpoint::Error),
    /// A tensor operation failed.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensors(#[from] candle_core::Error),
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, ModelError>;
