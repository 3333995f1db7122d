//! Lists the errors of a model itself; those of its files come through from [`lacuna_checkpoint`].

use lacuna_checkpoint::{Name, StorageDtype};

/// An error of a model: a call that it can't answer, its files, or a tensor operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call that this model can't answer: shapes that disagree, a cache of another model.
    #[error("{0}")]
    Input(String),
    /// A pass reaches further than the model was made for.
    #[error("{positions} positions, but the model has {most} (max_position_embeddings)")]
    TooLong {
        /// Positions of the pass.
        positions: usize,
        /// Positions that the model has.
        most: usize,
    },
    /// A model that was opened for inference has no parameters that could be trained or saved.
    #[error("a model opened for inference can't be trained, and is converted, not saved")]
    NotTrainable,
    /// The configuration implies a parameter that is not given.
    #[error("parameter {name} is missing")]
    Missing {
        /// The parameter.
        name: Name,
    },
    /// Weights can't be kept in this format.
    #[error("weights can't be kept in {dtype}; choose another --dtype")]
    Unsupported {
        /// The format that was asked for.
        dtype: StorageDtype,
    },
    /// The checkpoint is at fault: its files, its configuration, its tensors.
    #[error(transparent)]
    Checkpoint(#[from] lacuna_checkpoint::Error),
    /// A tensor operation failed.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensors(#[from] candle_core::Error),
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
