//! Names: what a folder holds, and what they become.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::partial::parent;

/// What a folder holds, sorted by name.
///
/// # Errors
/// The system's reason.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Gives a file or folder another name, in place of a file that may have it, and syncs both folders.
///
/// # Errors
/// The system's reason.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    disk::rename(from, to)?;
    sync_names(parent(to))?;
    match parent(from) == parent(to) {
        true => Ok(()),
        false => sync_names(parent(from)),
    }
}

/// Removes a file or a link, and syncs its folder.
///
/// # Errors
/// The system's reason.
pub fn remove_file(path: &Path) -> io::Result<()> {
    disk::remove_file(path)?;
    sync_names(parent(path))
}

/// As [`remove_file`], where there may be none.
///
/// # Errors
/// The system's reason.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Copies a file's bytes and permissions to a name beside which the copy stands until it is whole.
///
/// # Errors
/// As [`WholeFile`](crate::WholeFile), and if the first file can't be read.
pub fn copy_file(from: &Path, to: &Path) -> crate::Result<()> {
    let mut original = crate::open_regular(from)?;
    let mut copy = crate::WholeFile::beside(to)?;
    io::copy(&mut original, &mut copy).map_err(crate::error::io(from, "copy it"))?;
    if let Ok(there) = original.metadata() {
        disk::set_permissions(copy.path(), there.permissions())
            .map_err(crate::error::io(to, "keep its permissions"))?;
    }
    copy.publish()
}

/// Some systems and network file systems sync no folders.
fn sync_names(folder: &Path) -> io::Result<()> {
    match crate::sync_folder(folder) {
        Err(crate::Error::Io { source, .. }) => Err(source),
        Err(other) => Err(io::Error::other(other)),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{copy_file, list, remove_if_there, rename};
    use std::fs;

    #[test]
    fn files_are_copied_renamed_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("b"), "text").unwrap();
        copy_file(&at("b"), &at("a")).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [at("a"), at("b")]);
        rename(&at("b"), &at("a")).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [at("a")]);
        remove_if_there(&at("a")).unwrap();
        remove_if_there(&at("a")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(list(&at("none")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
