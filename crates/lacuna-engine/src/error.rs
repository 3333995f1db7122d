//! Says why a model could not be opened or used, and what to do about it.

use std::path::PathBuf;

use crate::advice::{Advice, Knob};

/// The reason why a model could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no model at the path.
    #[error("no model at {path}: {reason}")]
    NotFound {
        /// The path given.
        path: PathBuf,
        /// The thing that was looked for.
        reason: String,
    },
    /// The model does not fit in memory.
    #[error("{}: {reason}", path.display())]
    TooLarge {
        /// The checkpoint.
        path: PathBuf,
        /// The bytes that it needs.
        needed: u64,
        /// The bytes that there are.
        limit: u64,
        /// Both in words, with what they are needed for, and what to do.
        reason: Advice,
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
        reason: Advice,
    },
    /// The model's mode is not the one asked for.
    #[error("{0}")]
    Mode(Advice),
    /// This model, or this build, can't do it; the message names what can.
    #[error("{what}")]
    Unsupported {
        /// The thing that was asked for, and a way out.
        what: Advice,
    },
    /// A request that this model can't serve.
    #[error("{0}")]
    Request(String),
    /// The device asked for is not there.
    #[error("{0}")]
    Device(Advice),
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
    Sampler(#[from] lacuna_samplers::Error),
    /// From a machine that runs planned launches.
    #[error(transparent)]
    Machine(#[from] lacuna_device::Error),
    /// From a tensor operation.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensor(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The error with every option that it names spelt as its reader knows it: as a flag, or a key of a configuration.
    pub fn spelled(&self, spell: impl Fn(Knob) -> String) -> String {
        match self {
            Self::TooLarge { path, reason, .. } | Self::Place { path, reason } => {
                format!("{}: {}", path.display(), reason.spelled(spell))
            }
            Self::Mode(message) | Self::Device(message) | Self::Unsupported { what: message } => {
                message.spelled(spell)
            }
            other => other.to_string(),
        }
    }
}

/// Shorthand for [`Error::Unsupported`].
pub(crate) fn unsupported(what: impl Into<Advice>) -> Error {
    Error::Unsupported { what: what.into() }
}
