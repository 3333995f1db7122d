//! Says what can go wrong between text on disk and a batch of windows.

use std::path::PathBuf;

/// An error on the way between text on disk and a batch of windows.
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
    /// A tokenizer or a chat template is not what it should be, or fails on a text.
    #[error(transparent)]
    Text(#[from] lacuna_text::Error),
    /// The inputs hold no text that can be trained on.
    #[error(
        "no documents in {inputs}: {skipped}; name a folder of source files, a text file, a .jsonl \
         or a .tar.gz"
    )]
    EmptyCorpus {
        /// The inputs as given.
        inputs: String,
        /// The reasons why files were passed over.
        skipped: String,
    },
    /// One input cannot be understood.
    #[error("{}: {reason}", path.display())]
    Corpus {
        /// The input.
        path: PathBuf,
        /// The fault, its place, and what was expected.
        reason: String,
    },
    /// A shard or its manifest does not hold what it says.
    #[error("{shard}: {reason}")]
    Shard {
        /// "shard 3" or "manifest", with the folder.
        shard: String,
        /// Its claim, and what it holds.
        reason: String,
    },
    /// Windows cannot be packed or batched as asked.
    #[error("packing: {0}")]
    Packing(String),
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns an I/O error into ours, with the path and what was tried.
pub(crate) fn io_error<'a>(
    path: &'a std::path::Path,
    verb: &'static str,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io { path: path.to_owned(), verb, source }
}
