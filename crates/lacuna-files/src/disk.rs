//! This is the seam between this crate and the disk: whatever changes it, and whatever makes a
//! change last, is a function here, where tests can stop it.
//!
//! Each of them is one call to the system, unless a test has put a [`TestDisk`](crate::testing::TestDisk) over the
//! folder: then that decides whether it happens. Without one, which is asked by reading a flag, nothing is added.

use std::fs::{self, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::testing::{Change, Watched, watched, watched_folder, watched_name};

/// A file that is written in place: half of it is there when a writer dies. Almost everything is better written as a
/// [`WholeFile`](crate::WholeFile); this is for what is resumed, a download above all. Reading and seeking are the
/// file's own.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    watched: Option<Watched>,
}

impl File {
    /// Opens as `options` say, which write.
    pub(crate) fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        match watched_name(path) {
            None => Ok(Self { file: options.open(path)?, watched: None }),
            Some(place) => {
                let (file, watched) = place.open(|| options.open(path))?;
                Ok(Self { file, watched: Some(watched) })
            }
        }
    }

    /// Makes a file that was not there.
    pub(crate) fn create_new(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().read(true).write(true).create_new(true))
    }

    /// Opens a file to write at any place of it, made if need be; what is in it stays.
    ///
    /// # Errors
    /// The system's reason.
    pub fn to_write(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().write(true).create(true).truncate(false))
    }

    /// Makes what was written so far last.
    ///
    /// # Errors
    /// The system's reason.
    pub fn sync_all(&self) -> io::Result<()> {
        match &self.watched {
            None => self.file.sync_all(),
            Some(watched) => watched.sync(),
        }
    }

    /// Cuts the file, or makes it longer by zeros.
    ///
    /// # Errors
    /// The system's reason.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        match &self.watched {
            None => self.file.set_len(length),
            Some(watched) => watched.set_len(|| self.file.set_len(length)),
        }
    }

    /// The system's own description of the file.
    ///
    /// # Errors
    /// The system's reason.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    pub(crate) fn try_lock(&self) -> Result<(), TryLockError> {
        self.file.try_lock()
    }

    pub(crate) fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.watched {
            None => self.file.write(bytes),
            Some(watched) => watched.write(bytes, |bytes| self.file.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    watched(path, Change::CreateFolder, || fs::create_dir(path))
}

/// Removes a file or a link, not what it leads to.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    watched(path, Change::Remove, || fs::remove_file(path))
}

pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    watched(path, Change::Remove, || fs::remove_dir(path))
}

pub(crate) fn remove_dir_all(folder: &Path) -> io::Result<()> {
    if watched_name(folder).is_none() {
        return fs::remove_dir_all(folder);
    }
    // One name after the other, as the system does it: a test stops between any two.
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => remove_dir_all(&entry.path())?,
            false => remove_file(&entry.path())?,
        }
    }
    remove_dir(folder)
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    watched(from, Change::Rename { to }, || fs::rename(from, to))
}

/// Two names are exchanged in one step.
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    watched(one, Change::Exchange { with: other }, || {
        Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
    })
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub(crate) fn exchange(_one: &Path, _other: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A second name for the file `from`.
pub(crate) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    watched(to, Change::SecondName { of: from }, || fs::hard_link(from, to))
}

/// A link at `at` that leads to `to`.
#[cfg(unix)]
pub(crate) fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    watched(at, Change::Link { to }, || std::os::unix::fs::symlink(to, at))
}

/// Copies a file's bytes and its permissions.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if watched_name(to).is_none() {
        return fs::copy(from, to).map(drop);
    }
    let mut copy = File::open(to, OpenOptions::new().write(true).create(true).truncate(true))?;
    copy.write_all(&fs::read(from)?)?;
    set_permissions(to, fs::metadata(from)?.permissions())
}

pub(crate) fn set_permissions(path: &Path, permissions: Permissions) -> io::Result<()> {
    watched(path, Change::Attributes, || fs::set_permissions(path, permissions))
}

#[cfg(unix)]
pub(crate) fn set_owner(path: &Path, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    watched(path, Change::Attributes, || std::os::unix::fs::chown(path, user, group))
}

/// Makes a file's bytes last, whoever wrote them.
pub(crate) fn sync_file(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    match watched_name(path) {
        None => file.sync_all(),
        Some(place) => place.sync_file(),
    }
}

/// Makes the names in a folder last.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let names = fs::File::open(folder)?;
    match watched_folder(folder) {
        None => names.sync_all(),
        Some(place) => place.sync_folder(),
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for File {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.file)
    }
}
