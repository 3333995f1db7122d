//! Lists what can go wrong with a checkpoint, and shows text of strangers as errors do.

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use lacuna_files::short as printable;

/// An error of a checkpoint's files: which file, which tensor or field, and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file as a whole is not what it should be.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file that was read or written.
        file: PathBuf,
        /// The fault, and what was expected.
        reason: String,
    },
    /// One tensor is not what it should be.
    #[error("{}: tensor {tensor}: {reason}", file.display())]
    Tensor {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor's name, shortened and escaped for printing.
        tensor: String,
        /// The fault, and what was expected.
        reason: String,
    },
    /// A field of the configuration has a value that no model can have.
    #[error("{}: {field} = {value}: {reason}", file.display())]
    Config {
        /// `config.json`, `generation_config.json` or a GGUF file.
        file: PathBuf,
        /// The field as the file spells it.
        field: String,
        /// Its value, shortened and escaped for printing.
        value: String,
        /// The values that were expected.
        reason: String,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// The action that was tried.
        action: &'static str,
        /// The system's own words.
        source: io::Error,
    },
    /// A call that this checkpoint can't answer: a row that does not fit its tensor.
    #[error("{0}")]
    Input(String),
    /// A file could not be read or written whole.
    #[error(transparent)]
    Files(#[from] lacuna_files::Error),
    /// A tensor operation failed.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensors(#[from] candle_core::Error),
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn file(file: &Path, reason: impl Into<String>) -> Self {
        Error::File { file: file.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn tensor(file: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        Error::Tensor { file: file.to_path_buf(), tensor: printable(tensor), reason: reason.into() }
    }

    pub(crate) fn config(
        file: &Path,
        field: &str,
        value: impl std::fmt::Display,
        reason: impl Into<String>,
    ) -> Self {
        Error::Config {
            file: file.to_path_buf(),
            field: printable(field),
            value: printable(&value.to_string()),
            reason: reason.into(),
        }
    }

    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        Error::Io { file: file.to_path_buf(), action, source }
    }
}

/// Names as in `3 tensors: a, b, c`, at most eight of them.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| printable(name)).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{} tensor{plural}: {}{more}", names.len(), shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_cannot_reach_the_terminal_raw() {
        let error = Error::tensor(Path::new("m.gguf"), "\x1b[2J\u{202e}a", "unknown");
        assert!(!error.to_string().contains(['\x1b', '\u{202e}']));
        assert!(printable(&"x".repeat(1 << 20)).chars().count() == 97);
        assert_eq!(printable(""), "\"\"");
    }
}
