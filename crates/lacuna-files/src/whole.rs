//! Files and folders that appear when they are complete, or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, io};
use crate::manifest::Manifest;
use crate::partial::{Partial, parent};

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
    /// Begins a file in the folder of `target`, with the permissions that new files get.
    ///
    /// # Errors
    /// Errors if the folder is missing or may not be written to.
    pub fn beside(target: &Path) -> Result<Self> {
        let Partial { path, handle } = Partial::beside(target, |path| {
            File::options().read(true).write(true).create_new(true).open(path)
        })?;
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

    /// Where the bytes are until the file is published.
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
        fs::rename(partial, target).map_err(io(target, "give the finished file its name"))?;
        self.names.published = true;
        sync_folder(parent(&self.names.target))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Writes a file whole or not at all. What is no file (a device, a pipe) is written to and stays what it is.
///
/// # Errors
/// Errors if the folder or the disk refuses; what stood there before still stands there.
pub fn write_file(target: &Path, bytes: &[u8]) -> Result<()> {
    if fs::metadata(target).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let mut device = File::options().write(true).open(target).map_err(io(target, "open it"))?;
        return device.write_all(bytes).map_err(io(target, "write to it"));
    }
    let mut file = WholeFile::beside(target)?;
    file.write(bytes)?;
    file.publish()
}

/// A folder being filled under a name of its own; [`publish`](Self::publish) gives it the one it is for. Dropped
/// before, it is removed with all that is in it.
pub struct WholeFolder {
    partial: PathBuf,
    target: PathBuf,
    // Holds the lock that keeps others from removing it.
    _handle: Option<File>,
    published: bool,
}

impl WholeFolder {
    /// Begins a folder beside `target`, whose own parent is made if need be.
    ///
    /// # Errors
    /// Errors if the parent may not be written to.
    pub fn beside(target: &Path) -> Result<Self> {
        create_folder(parent(target))?;
        let Partial { path, handle } = Partial::beside(target, |path| {
            fs::create_dir(path)?;
            // Where a folder can't be opened, its path stands for the lock.
            File::open(path).or_else(|_| File::open(std::env::current_exe()?))
        })?;
        Ok(Self {
            partial: path,
            target: target.to_owned(),
            _handle: Some(handle),
            published: false,
        })
    }

    /// The folder to fill.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Syncs every file and the folder, gives it its name, syncs the parent.
    ///
    /// # Errors
    /// Errors if the name is taken, or the disk refuses.
    pub fn publish(mut self) -> Result<()> {
        sync_all(&self.partial)?;
        fs::rename(&self.partial, &self.target)
            .map_err(io(&self.target, "give the finished folder its name"))?;
        self.published = true;
        sync_folder(parent(&self.target))
    }

    /// As [`publish`](Self::publish), in place of a folder that may stand there already. What is in that one and is
    /// neither listed in its manifest nor by `ours` is somebody else's: it stays, under the same name. At every
    /// moment one of the two has the name.
    ///
    /// # Errors
    /// Errors if the disk refuses; then the old folder stands where it stood.
    pub fn replace(self, ours: &[&str]) -> Result<()> {
        if !self.target.is_dir() {
            return self.publish();
        }
        let listed = Manifest::read(&self.target).ok().flatten().unwrap_or_default();
        let entries = fs::read_dir(&self.target).map_err(io(&self.target, "read it"))?;
        for entry in entries {
            let name = entry.map_err(io(&self.target, "read it"))?.file_name();
            let known = name.to_str().is_some_and(|name| {
                name == crate::MANIFEST || listed.files.contains_key(name) || ours.contains(&name)
            });
            let to = self.partial.join(&name);
            if !known && !to.exists() {
                carry(&self.target.join(&name), &to)?;
            }
        }
        sync_all(&self.partial)?;
        exchange(&self.partial, &self.target)?;
        // What was replaced now has the temporary name, and goes with this value.
        sync_folder(parent(&self.target))
    }
}

impl Drop for WholeFolder {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// The same file under a second name, or a copy where the file system has no second names.
fn carry(from: &Path, to: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(from).map_err(io(from, "read it"))?.file_type();
    if kind.is_dir() {
        fs::create_dir(to).map_err(io(to, "create it"))?;
        for entry in fs::read_dir(from).map_err(io(from, "read it"))? {
            let name = entry.map_err(io(from, "read it"))?.file_name();
            carry(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    #[cfg(unix)]
    if kind.is_symlink() {
        let leads = fs::read_link(from).map_err(io(from, "read the link"))?;
        return std::os::unix::fs::symlink(leads, to).map_err(io(to, "write the link"));
    }
    fs::copy(from, to).map(drop).map_err(io(from, "copy it"))
}

/// Two folders change names: in one step where the system can, in two renames elsewhere.
fn exchange(new: &Path, target: &Path) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
    }
    let aside = new.with_extension("replaced");
    let failed = |error| io(target, "give the finished folder its name")(error);
    fs::rename(target, &aside).map_err(failed)?;
    if let Err(error) = fs::rename(new, target) {
        // Best effort: the error that led here is the one to report.
        let _ = fs::rename(&aside, target);
        return Err(failed(error));
    }
    fs::rename(&aside, new).map_err(failed)
}

/// Every file and folder below `folder`, and then itself, is on the disk afterwards.
fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(io(folder, "read it"))? {
        let entry = entry.map_err(io(folder, "read it"))?;
        let kind = entry.file_type().map_err(io(folder, "read it"))?;
        let path = entry.path();
        if kind.is_dir() {
            sync_all(&path)?;
        } else if kind.is_file() {
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(failed(&path))?;
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
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    match synced {
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
    match fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => {
            Ok(())
        }
        Err(error) => Err(io(folder, "create the folder")(error)),
        Ok(()) => sync_folder(parent(folder)),
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
