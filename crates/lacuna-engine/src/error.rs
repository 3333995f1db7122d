//! Says why a model could not be opened or used, and what to do about it.

use std::path::PathBuf;

/// The reason why a model could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no model at the path.
    #[error("no model at {path}: {reason}")]
    NoModel {
        /// The path given.
        path: PathBuf,
        /// The thing that was looked for.
        reason: String,
    },
    /// The model does not fit in memory.
    #[error("{}: {reason}", path.display())]
    Memory {
        /// The checkpoint.
        path: PathBuf,
        /// The bytes that it needs and that there are, and what to do.
        reason: String,
    },
    /// A model on the hub can't be had.
    #[error("{name}: {reason}")]
    Hub {
        /// The name as it was given.
        name: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// Nothing can be written where it was asked for.
    #[error("{}: {reason}", path.display())]
    Place {
        /// The target.
        path: PathBuf,
        /// The reason, and what to do.
        reason: String,
    },
    /// The model's mode is not the one asked for.
    #[error("{0}")]
    Mode(String),
    /// A request that this model can't serve.
    #[error("{0}")]
    Request(String),
    /// The device asked for is not there.
    #[error("{0}")]
    Device(String),
    /// From files that are whole or absent.
    #[error(transparent)]
    Files(#[from] lacuna_files::Error),
    /// From a checkpoint's files.
    #[error(transparent)]
    Checkpoint(#[from] lacuna_checkpoint::Error),
    /// From the model.
    #[error(transparent)]
    Model(#[from] lacuna_model::Error),
    /// From the tokenizer, the chat template or the files beside the weights.
    #[error(transparent)]
    Text(#[from] lacuna_text::Error),
    /// From decoding.
    #[error(transparent)]
    Sampler(#[from] lacuna_samplers::SamplerError),
    /// From a tensor operation.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensor(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
