//! Measures the writable folder, and gives it to the program's user.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::policy::User;

/// A block of `stat`, whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// The size of a folder with all that lies in it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contents {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

/// The path of a folder as the kernel tells it, which is compared with others that it tells.
pub(super) fn without_links(folder: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(folder).map_err(|error| Error::Path {
        path: folder.into(),
        reason: format!("can't be opened: {error}"),
    })
}

/// Makes a folder belong to a user.
pub(super) fn give(folder: &Path, user: User) -> io::Result<()> {
    std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid))
}

/// Measures a folder with all that is below it, no further than `entries_max`. Links are not followed.
pub(super) fn contents(folder: &Path, entries_max: u64) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut queue = vec![folder.to_path_buf()];
    while let Some(next) = queue.pop() {
        let entries = match fs::read_dir(&next) {
            // The program may have removed it since.
            Err(error) if error.kind() == io::ErrorKind::NotFound && next != folder => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            contents.entries += 1;
            if contents.entries > entries_max {
                return Ok(contents);
            }
            if let Ok(metadata) = entry.metadata() {
                contents.bytes += metadata.blocks() * BLOCK_BYTES;
                if metadata.is_dir() {
                    queue.push(entry.path());
                }
            }
        }
    }
    Ok(contents)
}
