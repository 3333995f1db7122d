//! One process at a time in a folder.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::error::{Error, Result, io};

/// A folder that this process has for itself until the value is dropped or the process ends, by whatever signal:
/// the system keeps the lock, the file `.lock` only says whose it is.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the folder, which must exist. Where the file system knows no locks, nothing is locked.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process (or another part of this one) has it.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(io(&path, "open the lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Best effort: on some systems a locked file can't be read.
                let _ = (&mut file).take(64).read_to_string(&mut holder);
                let holder = match crate::printable(holder.trim()) {
                    known if known.is_empty() => "which one is not known".to_owned(),
                    known => known.into_owned(),
                };
                return Err(Error::InUse { path: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io(&path, "lock it")(error)),
        }
        // Best effort: the lock holds whatever the file says.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = write!(file, "process {}", std::process::id());
        Ok(Self { file })
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::FolderLock;
    use crate::Error;

    #[test]
    fn a_second_holder_is_refused_by_name_and_let_in_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path()).unwrap();
        let second = FolderLock::acquire(folder.path()).unwrap_err();
        assert!(matches!(second, Error::InUse { .. }));
        let told = second.to_string();
        assert!(
            told.contains("in use") && told.contains(&std::process::id().to_string()),
            "{told}"
        );
        drop(first);
        FolderLock::acquire(folder.path()).unwrap();
    }
}
