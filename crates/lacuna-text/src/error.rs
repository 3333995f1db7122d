//! Says what can go wrong between a text and its tokens.

use std::path::{Path, PathBuf};

/// An error on the way between a text and its tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("{}: cannot {verb}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The attempt, as in "cannot read".
        verb: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file could not be read or written whole.
    #[error(transparent)]
    Files(#[from] lacuna_files::Error),
    /// A tokenizer file is missing, cut short, or something else altogether.
    #[error("tokenizer {name}: {reason}")]
    Tokenizer {
        /// The file's name, or "in memory".
        name: String,
        /// The fault, and what to do.
        reason: String,
    },
    /// A chat template is broken, refuses the conversation, or never ends.
    #[error("chat template: {0}")]
    Template(String),
    /// A file beside a checkpoint's weights is not what its name says.
    #[error("{}: {reason}", path.display())]
    SideFile {
        /// The file.
        path: PathBuf,
        /// The fault, and what was expected.
        reason: String,
    },
    /// The tokenizer lacks the tokens of the fill-in-the-middle format.
    #[error("fill in the middle: {0}")]
    Fim(String),
}

impl Error {
    /// The same, with the file that a chat template stands in; other errors stay as they are.
    #[must_use]
    pub fn in_file(self, file: &Path) -> Self {
        match self {
            Self::Template(reason) => Self::Template(format!("{}: {reason}", file.display())),
            other => other,
        }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns an I/O error into ours, with the path and what was tried.
pub(crate) fn io_error<'a>(
    path: &'a Path,
    verb: &'static str,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io { path: path.to_owned(), verb, source }
}
