//! Makes files and folders that appear when they are complete, or not at all.

use std::fs;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::disk::{self, File};
use crate::error::{Error, Result, io};
use crate::parent::parent;
use crate::partial::Partial;

/// A file being written under a name of its own; [`publish`](Self::publish) gives it the one it is for. Dropped
/// before, it is removed.
pub struct WholeFile {
    out: BufWriter<File>,
    names: Names,
}

struct Names {
    partial: PathBuf,
    target: PathBuf,
    published: bool,
}

impl WholeFile {
    /// Begins a file in the folder of `target`, with the permissions that new files get. Where a link has the name,
    /// the file that it leads to is the target, and the link stays.
    ///
    /// # Errors
    /// Errors if the folder is missing or may not be written to, or the name is that of a pipe, a device or a file
    /// that is open already (`/dev/stdout`): a new file in its place would cut others off.
    pub fn beside(target: &Path) -> Result<Self> {
        let target = &place(target)?;
        let Partial { path, handle } = Partial::beside(target, File::create_new, File::try_lock)?;
        let names = Names { partial: path, target: target.to_owned(), published: false };
        Ok(Self { out: BufWriter::with_capacity(1 << 20, handle), names })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Errors if the disk is full or gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(failed(&self.names.target))
    }

    /// Puts bytes over those that were written before, at `at`; what is written next goes on at the end.
    ///
    /// # Errors
    /// Errors if the disk refuses.
    pub fn overwrite(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = self.out.stream_position();
        let written = end.and_then(|end| {
            self.out.seek(SeekFrom::Start(at))?;
            self.out.write_all(bytes)?;
            self.out.seek(SeekFrom::Start(end)).map(drop)
        });
        written.map_err(failed(&self.names.target))
    }

    /// The place of the bytes until the file is published.
    pub fn path(&self) -> &Path {
        &self.names.partial
    }

    /// Syncs the file, gives it its name in place of what had it, and syncs the folder.
    ///
    /// # Errors
    /// Errors if the disk refuses; what had the name before then still has it.
    pub fn publish(self) -> Result<()> {
        self.finish()?.publish()
    }

    /// Syncs the file under its temporary name, so that several can be published together.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn finish(self) -> Result<FinishedFile> {
        let Self { mut out, names } = self;
        let synced = out.flush().and_then(|()| out.get_ref().sync_all());
        synced.map_err(failed(&names.target))?;
        Ok(FinishedFile { _handle: out.into_inner().ok(), names })
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// A file that is whole and synced, still under its temporary name.
pub struct FinishedFile {
    // Holds the lock that keeps others from removing it.
    _handle: Option<File>,
    names: Names,
}

impl FinishedFile {
    /// Gives the file its name and syncs the folder.
    ///
    /// # Errors
    /// Errors if the rename is refused.
    pub fn publish(mut self) -> Result<()> {
        let Names { partial, target, .. } = &self.names;
        let _making = crate::partial::making();
        disk::rename(partial, target).map_err(io(target, "give the finished file its name"))?;
        self.names.published = true;
        sync_folder(parent(&self.names.target))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is the one to report.
            let _ = disk::remove_file(&self.partial);
        }
    }
}

const OPEN: &str = "a name for a file that is open already";

/// Finds the place that a file of this name goes to: links are followed, also to what is yet to be.
fn place(target: &Path) -> Result<PathBuf> {
    // Links in a circle end, as they do for the system.
    const MOST_LINKS: usize = 40;
    let mut place = target.to_owned();
    for _ in 0..MOST_LINKS {
        if crate::read::names_open_file(&place) {
            return Err(Error::NoFile { path: target.to_owned(), kind: OPEN });
        }
        match fs::symlink_metadata(&place).map(|there| there.file_type()) {
            Ok(kind) if kind.is_symlink() => {
                let to = fs::read_link(&place).map_err(io(target, "follow the link"))?;
                place = parent(&place).join(to);
            }
            Ok(kind) if !kind.is_file() && !kind.is_dir() => {
                let kind = crate::read::kind_of(kind);
                return Err(Error::NoFile { path: target.to_owned(), kind });
            }
            _ => return Ok(place),
        }
    }
    let circle = std::io::Error::other("links lead in a circle");
    Err(io(target, "follow the link")(circle))
}

/// Tells whether a name, or one of the links behind it, stands for what is open already.
pub(crate) fn leads_to_open_file(target: &Path) -> bool {
    matches!(place(target), Err(Error::NoFile { kind: OPEN, .. }))
}

/// Writes a file whole or not at all. What is no file (a device, a pipe, `/dev/stdout`) is written to and stays what it is.
///
/// # Errors
/// Errors if the folder or the disk refuses; what stood there before still stands there.
pub fn write_file(target: &Path, bytes: &[u8]) -> Result<()> {
    let no_file = fs::metadata(target).is_ok_and(|there| !there.is_file() && !there.is_dir());
    if no_file || leads_to_open_file(target) {
        let mut device = crate::read::open_device(target).map_err(io(target, "open it"))?;
        return device.write_all(bytes).map_err(io(target, "write to it"));
    }
    let mut file = WholeFile::beside(target)?;
    file.write(bytes)?;
    file.publish()
}

/// Every file and folder below `folder`, and then itself, is on the disk afterwards.
pub(crate) fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(io(folder, "read it"))? {
        let entry = entry.map_err(io(folder, "read it"))?;
        let kind = entry.file_type().map_err(io(folder, "read it"))?;
        let path = entry.path();
        if kind.is_dir() {
            sync_all(&path)?;
        } else if kind.is_file() {
            disk::sync_file(&path).map_err(failed(&path))?;
        }
    }
    sync_folder(folder)
}

/// Makes the names in a folder survive a power cut. Where a folder can't be opened for that, nothing is done.
///
/// # Errors
/// Errors if the disk refuses.
pub fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    match disk::sync_folder(folder) {
        // Some network file systems sync no folders.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.map_err(io(folder, "sync the folder")),
    }
}

/// Makes a folder and what is missing above it, each name synced in its parent.
///
/// # Errors
/// Errors if something else has one of the names, or the disk refuses.
pub fn create_folder(folder: &Path) -> Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    create_folder(parent(folder))?;
    let made = {
        let _making = crate::partial::making();
        disk::create_dir(folder)
    };
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => {
            Ok(())
        }
        Err(error) => Err(io(folder, "create the folder")(error)),
        Ok(()) => sync_folder(parent(folder)),
    }
}

/// Makes a file or folder that root has made another user's, and of the group of the same number. Nothing is done for one
/// that somebody else has made.
///
/// # Errors
/// Errors if the system refuses.
pub fn give_if_root(path: &Path, user: u32) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let made = path.metadata().map_err(io(path, "look at it"))?;
        if made.uid() == 0 {
            let given = disk::set_owner(path, Some(user), Some(user));
            given.map_err(io(path, "give it to another user"))?;
        }
    }
    #[cfg(not(unix))]
    let _ = (path, user);
    Ok(())
}

/// Bytes that a program may still write where a folder is, as far as the system says.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(folder).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |error| {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        let action = if full {
            "write it (make room first; nothing was kept)"
        } else {
            "write it; nothing was kept"
        };
        io(&path, action)(error)
    }
}
