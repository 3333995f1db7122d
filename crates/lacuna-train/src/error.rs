//! Lists the reasons why a run could not start or go on.

use std::path::{Path, PathBuf};

/// A reason why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe does not say something that can be run.
    #[error("recipe {file}: {reason}")]
    Recipe {
        /// The recipe's file.
        file: PathBuf,
        /// The fault, and what would be right.
        reason: String,
    },
    /// A file of the run could not be read or written.
    #[error("{action} {path}: {source}")]
    Io {
        /// The action that failed: `writing`, `reading`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that can't be used as it is.
    #[error("{path}: {reason}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The fault, and what to do.
        reason: String,
    },
    /// A run directory that can't be used as it is.
    #[error("run directory {path}: {reason}")]
    Run {
        /// The directory.
        path: PathBuf,
        /// The fault, and what to do.
        reason: String,
    },
    /// A loss or gradient that is no number: the run stops before the weights are spoilt.
    #[error("the {what} is {value}{place}; {advice}")]
    Diverged {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// The step, its seed and its windows, in words; empty where they are not known.
        place: String,
        /// Advice on what to do.
        advice: String,
    },
    /// A checkpoint is not what was written.
    #[error("{damage}; {advice}")]
    Checkpoint {
        /// The file, and how it differs.
        damage: lacuna_files::Error,
        /// The checkpoint to go on from, in words.
        advice: String,
    },
    /// Another rank of the run that can't be gone on with.
    #[error("rank {rank} {reason}")]
    Rank {
        /// Its number.
        rank: usize,
        /// The fault, and what to do.
        reason: String,
    },
    /// A checkpoint that is not needed any more can't be removed.
    #[error("the old checkpoint step-{step} can't be removed: {error}")]
    Old {
        /// Its step.
        step: u64,
        /// The system's reason.
        error: lacuna_files::Error,
    },
    /// A file that is written whole, or the folder's lock, failed.
    #[error(transparent)]
    Files(#[from] lacuna_files::Error),
    /// The corpus or the shards can't be used.
    #[error(transparent)]
    Data(#[from] lacuna_data::Error),
    /// The tokenizer, the chat template or a file beside the weights can't be used.
    #[error(transparent)]
    Text(#[from] lacuna_text::Error),
    /// A checkpoint's files can't be used.
    #[error(transparent)]
    Weights(#[from] lacuna_checkpoint::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] lacuna_model::Error),
    /// Held-out text could not be scored.
    #[error(transparent)]
    Likelihood(#[from] lacuna_likelihood::Error),
    /// The corruption or the loss failed.
    #[error(transparent)]
    Objective(#[from] lacuna_objective::Error),
    /// A tensor operation failed.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensor(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// Names the file and the action in an I/O error.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| TrainError::Io { action, path: path.to_owned(), source })
    }
}
