//! Says what was tried with which file, and why it failed, so that a message needs no context
//! around it.

use std::path::{Path, PathBuf};

use crate::damage::Damage;

/// The reason why something could not be read, written or locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an action on a file.
    #[error("{}: cannot {action}: {source}", crate::printable(&path.to_string_lossy()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The attempt, as it follows "cannot".
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another process works in the folder.
    #[error(
        "{}: the folder is in use by another process ({holder}); wait for it, end it, or choose another folder",
        crate::printable(&path.to_string_lossy())
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The lock's word on its holder: `process 4711`.
        holder: String,
    },
    /// A file is not what the manifest beside it says.
    #[error("{}: {damage}", crate::printable(&path.to_string_lossy()))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way it differs.
        damage: Damage,
    },
    /// A manifest that can't be read as one.
    #[error("{}: no manifest of hashes: {reason}", crate::printable(&path.to_string_lossy()))]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The reason.
        reason: String,
        /// True if it ends too early.
        cut_short: bool,
    },
    /// A pipe, a device or a folder in the place of a file.
    #[error("{}: is no regular file but {kind}; give a file", crate::printable(&path.to_string_lossy()))]
    NoFile {
        /// The path that was named.
        path: PathBuf,
        /// The kind of thing that it is: `a pipe`.
        kind: &'static str,
    },
    /// A file with more bytes than one of its kind ever has.
    #[error(
        "{}: is longer than {most} bytes, the most that is read of such a file",
        crate::printable(&path.to_string_lossy())
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        most: u64,
    },
    /// A mapped file that has fewer bytes than when it was opened.
    #[error(
        "{}: holds {now} bytes now, held {before} when it was opened; open it again when it is complete",
        crate::printable(&path.to_string_lossy())
    )]
    Shortened {
        /// The file.
        path: PathBuf,
        /// Its bytes now.
        now: u64,
        /// Its bytes when it was opened.
        before: u64,
    },
    /// The file was changed by someone else between reading and writing.
    #[error(
        "{}: was changed by another program in the meantime; it is left as it is now",
        crate::printable(&path.to_string_lossy())
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file and the action in an I/O error.
pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, action, source }
}

impl Error {
    /// The system's reason alone, for whoever says by itself which file it was about.
    pub fn into_source(self) -> std::io::Error {
        match self {
            Error::Io { source, .. } => source,
            other => std::io::Error::other(other.to_string()),
        }
    }

    /// Tells whether the disk, or a user's share of it, is full.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}
