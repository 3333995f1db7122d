//! Lets one process at a time work in a folder.

use std::fs::{self, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::disk::{self, File};
use crate::error::{Error, Result, io};

/// A folder that this process has for itself until the value is dropped or the process ends, by whatever signal:
/// the system keeps the lock, the file `.lock` only says whose it is.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
    path: PathBuf,
}

impl FolderLock {
    /// Takes the folder, which must exist. Where the file system knows no locks, nothing is locked.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process (or another part of this one) has it.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        loop {
            let mut options = fs::File::options();
            options.read(true).write(true).create(true).truncate(false);
            let mut file = File::open(&path, &options).map_err(io(&path, "open the lock"))?;
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
                Err(TryLockError::Error(error))
                    if error.kind() == std::io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(io(&path, "lock it")(error)),
            }
            // The holder before may have removed the file between the two calls: then nobody else meets this lock.
            if !has_this_name(&file, &path) {
                continue;
            }
            // Best effort: the lock holds whatever the file says.
            let _ = file.rewind();
            let _ = write!(file, "{:<32}", format!("process {}", std::process::id()));
            return Ok(Self { file, path });
        }
    }
}

#[cfg(unix)]
fn has_this_name(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

#[cfg(not(unix))]
fn has_this_name(_file: &File, _path: &Path) -> bool {
    true
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Removed before it is unlocked: afterwards it may be another holder's. Other systems remove no open file.
        if cfg!(unix) {
            let _ = disk::remove_file(&self.path);
        }
        let _ = self.file.unlock();
    }
}

/// The lock of something that several processes may want at once: an empty file of its own, which stays.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock; nothing if another has it. Where the file system knows no locks, everybody has it.
    ///
    /// # Errors
    /// The system's reason, if its file can't be made.
    pub fn try_acquire(path: &Path) -> std::io::Result<Option<Self>> {
        let file = File::to_write(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            _ => Ok(Some(Self { file })),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // The end of the handle is not enough: a process that is being started has a copy until it runs its program.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::{FileLock, FolderLock};
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
        drop(FolderLock::acquire(folder.path()).unwrap());
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, usize::from(!cfg!(unix)), "the lock's file goes with the lock");
    }

    #[test]
    fn a_lock_is_one_holders_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let first = FileLock::try_acquire(&path).unwrap();
        assert!(first.is_some() && FileLock::try_acquire(&path).unwrap().is_none());
        drop(first);
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn of_many_at_once_one_has_the_folder() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let (inside, had) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Ok(lock) = FolderLock::acquire(folder.path()) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        had.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(had.into_inner() > 0);
    }
}
