//! Lists what a folder holds, and changes names in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::parent::parent;

/// Lists what a folder holds, sorted by name; links are not followed.
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

/// Removes a folder that is empty, and syncs its own.
///
/// # Errors
/// The system's reason, if it is not empty above all.
pub fn remove_empty_folder(folder: &Path) -> io::Result<()> {
    disk::remove_dir(folder)?;
    sync_names(parent(folder))
}

/// Tells whether a name is a link with this text.
pub fn leads_to(at: &Path, to: &Path) -> bool {
    fs::read_link(at).is_ok_and(|text| text == to)
}

/// Makes the name `at` a link to the folder `to` beside it, in place of an older link. Where the system has no links for
/// everybody, nothing is done.
///
/// # Errors
/// The system's reason; something else that has the name stays, and is one.
pub fn link_folder(to: &Path, at: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        if at.is_symlink() {
            disk::remove_file(at)?;
        }
        disk::symlink(to, at)?;
        sync_names(parent(at))
    }
    #[cfg(not(unix))]
    {
        let _ = (to, at);
        Ok(())
    }
}

/// Removes a link that leads nowhere.
///
/// # Errors
/// The system's reason.
pub fn remove_dead_link(at: &Path) -> io::Result<()> {
    if at.is_symlink() && !at.exists() { remove_file(at) } else { Ok(()) }
}

/// Makes `at` lead to the file `from`, which both stay: by a link, whose text is `to`, where the system has links; by a
/// second name elsewhere; by a copy where there are no such either. What `at` was before, if a link, is gone.
///
/// # Errors
/// The system's reason.
pub fn point_to(from: &Path, to: &Path, at: &Path) -> io::Result<()> {
    if at.is_symlink() {
        disk::remove_file(at)?;
    }
    let linked = {
        #[cfg(unix)]
        {
            disk::symlink(to, at)
        }
        #[cfg(not(unix))]
        {
            let _ = to;
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }
    };
    if linked.is_err() && disk::hard_link(from, at).is_err() {
        copy_file(from, at).map_err(crate::Error::into_source)?;
    }
    sync_names(parent(at))
}

/// Copies a file's bytes and permissions to a name beside which the copy stands until it is whole.
///
/// # Errors
/// As [`WholeFile`](crate::WholeFile), and if the first file can't be read.
pub(crate) fn copy_file(from: &Path, to: &Path) -> crate::Result<()> {
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
    crate::sync_folder(folder).map_err(crate::Error::into_source)
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
