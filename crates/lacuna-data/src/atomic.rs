//! Files that are whole or absent.

use crate::error::{Result, io_error};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `path` through a temporary file in the same folder: filled, synced, renamed.
///
/// When anything fails (a full disk above all), the temporary file is removed and what stood at
/// `path` before still stands there.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    // A device or a pipe is written to: a file in its place would be its end.
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let file =
            std::fs::File::options().write(true).open(path).map_err(io_error(path, "open"))?;
        let mut out = BufWriter::new(file);
        return fill(&mut out).and_then(|()| out.flush()).map_err(io_error(path, "write"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lacuna-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(folder).map_err(io_error(folder, "create a file in it"))?;
    let written = (|| {
        let mut out = BufWriter::with_capacity(1 << 18, file.as_file_mut());
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        file.as_file().sync_all()
    })();
    written.map_err(io_error(path, "write"))?;
    file.persist(path).map_err(|error| io_error(path, "write")(error.error))?;
    // The rename itself must reach the disk; not every file system can sync a folder.
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Writes `bytes` to `path`, whole or not at all: temporary file, sync, rename.
///
/// # Errors
/// When the folder or the disk refuses; what stood at `path` before still stands there.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write(path.as_ref(), |out| out.write_all(bytes))
}

#[cfg(test)]
mod tests {
    use super::write;
    use std::io::Error;

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        // A link to it, so that a fault takes the link.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        write(&path, |out| out.write_all(b"gone")).unwrap();
        assert!(path.is_symlink() && !path.is_file());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, |out| out.write_all(b"old")).unwrap();
        let full = write(&path, |out| {
            out.write_all(&[7; 1 << 20])?;
            Err(Error::from(std::io::ErrorKind::StorageFull))
        });
        let message = full.unwrap_err().to_string();
        assert!(message.contains("a.bin: cannot write"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
