//! Says what kept an evaluation from going on. A sample that fails its tests is no error.

use std::path::PathBuf;

/// The reason why something could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Files(#[from] lacuna_files::Error),
    /// A program could not be run contained.
    #[error(transparent)]
    Sandbox(#[from] lacuna_sandbox::Error),
    /// The model could not write.
    #[error(transparent)]
    Engine(#[from] lacuna_engine::Error),
    /// A chat template or a tokenizer failed.
    #[error(transparent)]
    Text(#[from] lacuna_text::Error),
    /// A file holds something else than it should.
    #[error("{}{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Data {
        /// The file.
        path: PathBuf,
        /// The line, from 1, if it is one of them.
        line: Option<usize>,
        /// The fault, and what was expected.
        reason: String,
    },
    /// A task of a benchmark is faulty, or can't be judged here.
    #[error("{task}: {reason}")]
    Task {
        /// The task's name.
        task: String,
        /// The reason.
        reason: String,
    },
    /// A benchmark could not be fetched.
    #[error("{url}: {reason}")]
    Fetch {
        /// The address.
        url: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// The system refused something.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The request can't be met, or its parts do not go together.
    #[error("{0}")]
    Request(String),
}

/// The result of what may fail so.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about a file of a stranger's.
pub(crate) fn data(
    path: &std::path::Path,
    line: Option<usize>,
    reason: impl Into<String>,
) -> Error {
    Error::Data { path: path.to_owned(), line, reason: reason.into() }
}

/// An error about a task.
pub(crate) fn faulty(task: &str, reason: impl Into<String>) -> Error {
    Error::Task { task: task.to_owned(), reason: reason.into() }
}

/// An error of the system about a file.
pub(crate) fn io(path: &std::path::Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), source }
}
