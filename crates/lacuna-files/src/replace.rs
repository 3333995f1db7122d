//! Puts new text into a file that a user has, and changes nothing else about it.

use std::fs;
use std::io::{Seek, Write};
use std::path::Path;

use crate::disk::{self, File};
use crate::error::{Error, Result, io};
use crate::whole::WholeFile;

/// Puts `new` in the place of `old` in a user's file: written beside it, synced, renamed. The file keeps its
/// permissions and, where this process may say so, its owner; a symbolic link stays and the file it leads to
/// changes. A file with several hard links is written over under all of its names, once the new text is safe beside
/// it.
///
/// # Errors
/// [`Error::Changed`] if the file does not hold `old` any more. Whatever the error, the file holds what it held.
pub fn replace_text_file(path: &Path, old: &[u8], new: &[u8]) -> Result<()> {
    let real = fs::canonicalize(path).map_err(io(path, "find it"))?;
    let there = fs::metadata(&real).map_err(io(path, "read it"))?;
    if !there.is_file() {
        let reason = std::io::Error::other("it is no regular file");
        return Err(io(path, "replace it")(reason));
    }
    if there.permissions().readonly() {
        return Err(io(path, "write it")(std::io::ErrorKind::PermissionDenied.into()));
    }
    let mut file = WholeFile::beside(&real)?;
    file.write(new)?;
    keep_owner(&there, file.path());
    disk::set_permissions(file.path(), there.permissions())
        .map_err(io(path, "keep its permissions"))?;
    let finished = file.finish()?;
    if fs::read(&real).map_err(io(path, "read it"))? != old {
        return Err(Error::Changed { path: path.to_owned() });
    }
    if has_several_names(&there) {
        let mut same =
            File::open(&real, fs::OpenOptions::new().write(true)).map_err(io(path, "write it"))?;
        let put = |file: &mut File, text: &[u8]| {
            file.rewind()?;
            file.write_all(text)?;
            file.set_len(text.len() as u64)?;
            file.sync_all()
        };
        let written = put(&mut same, new);
        if written.is_err() {
            // The old text has its room still. Best effort: the error that led here is the one to report.
            let _ = put(&mut same, old);
        }
        return written.map_err(io(path, "write it"));
    }
    finished.publish()
}

#[cfg(unix)]
fn keep_owner(there: &fs::Metadata, to: &Path) {
    use std::os::unix::fs::MetadataExt;
    // Best effort: only root may give files away; a group that the user is in can be kept by all.
    if disk::set_owner(to, Some(there.uid()), Some(there.gid())).is_err() {
        let _ = disk::set_owner(to, None, Some(there.gid()));
    }
}

#[cfg(not(unix))]
fn keep_owner(_there: &fs::Metadata, _to: &Path) {}

#[cfg(unix)]
fn has_several_names(there: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(there) > 1
}

#[cfg(not(unix))]
fn has_several_names(_there: &fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::replace_text_file;
    use crate::Error;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn permissions_links_and_other_names_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("script"), "old").unwrap();
        fs::set_permissions(at("script"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("script", at("link")).unwrap();
        replace_text_file(&at("link"), b"old", b"new").unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::read(at("script")).unwrap(), b"new");
        assert_eq!(fs::metadata(at("script")).unwrap().permissions().mode() & 0o777, 0o750);

        fs::hard_link(at("script"), at("twin")).unwrap();
        replace_text_file(&at("script"), b"new", b"n").unwrap();
        assert_eq!(fs::read(at("twin")).unwrap(), b"n");
        assert_eq!(fs::metadata(at("twin")).unwrap().nlink(), 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside them");
    }

    #[test]
    fn a_file_that_somebody_changed_meanwhile_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "theirs").unwrap();
        let told = replace_text_file(&path, b"old", b"new").unwrap_err();
        assert!(matches!(told, Error::Changed { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
