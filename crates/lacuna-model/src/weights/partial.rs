//! Files that are complete or absent: written under another name, synced, renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{ModelError, Result};

/// A file being written; it has its name only after [`Finished::publish`].
///
/// The temporary name follows from the final one, so that what a killed process left behind is
/// replaced by the next writer and never piles up.
pub(crate) struct Partial {
    file: BufWriter<File>,
    names: Names,
}

/// A file that is whole and synced, still under its temporary name.
pub(crate) struct Finished(Names);

struct Names {
    partial: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Partial {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.partial"));
        match std::fs::remove_file(&partial) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(ModelError::io(&partial, "remove what an earlier run left", e));
            }
            _ => {}
        }
        let file = File::create_new(&partial).map_err(|e| ModelError::io(path, "write it", e))?;
        let names = Names { partial, path: path.to_path_buf(), published: false };
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), names })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| failed(&self.names.path, e))
    }

    /// Everything is on the disk afterwards, under the temporary name.
    pub(crate) fn finish(self) -> Result<Finished> {
        let Self { mut file, names } = self;
        let synced = file.flush().and_then(|()| file.get_ref().sync_all());
        synced.map_err(|e| failed(&names.path, e))?;
        Ok(Finished(names))
    }
}

impl Finished {
    /// Gives the file its name; the directory must be synced afterwards.
    pub(crate) fn publish(self) -> Result<PathBuf> {
        let Finished(mut names) = self;
        std::fs::rename(&names.partial, &names.path)
            .map_err(|e| ModelError::io(&names.path, "give the finished file its name", e))?;
        names.published = true;
        Ok(names.path.clone())
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is the one to report.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// A whole small file.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<Finished> {
    let mut partial = Partial::create(path)?;
    partial.write(bytes)?;
    partial.finish()
}

/// Makes renames in `dir` survive a power cut.
pub(crate) fn sync_directory(dir: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| ModelError::io(dir, "sync the directory", e))
}

fn failed(path: &Path, error: std::io::Error) -> ModelError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return ModelError::io(path, "write it: the disk is full, nothing was kept", error);
    }
    ModelError::io(path, "write it; nothing was kept", error)
}
