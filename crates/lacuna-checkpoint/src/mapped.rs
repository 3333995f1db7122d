//! Files as they lie on disk: opened with suspicion, mapped, never copied whole.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A weight file in memory, as far as the system has paged it in.
///
/// Another process that shortens the file pulls the pages from under the map, and touching them
/// then ends this process (SIGBUS); no program can prevent that for a mapped file. What is done:
/// the length is compared again before every tensor is handed out and before every pass of a model,
/// so that a file that was truncated or is still being written gives an error, and everything that is copied anyway
/// ([`MappedFile::read`]) is read through the file, where a short read is an error and no signal.
pub struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = lacuna_files::open_regular(path)?;
        #[expect(unsafe_code, reason = "mapping is what makes opening an 8 B model cheap")]
        // SAFETY: the map is read only and lives as long as `self`. Another process can still
        // change the bytes; nothing here relies on two reads of a byte agreeing for memory
        // safety: headers are parsed into owned, validated values, and weights are plain numbers.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map it", e))?;
        Ok(Self { path: path.to_path_buf(), file, map })
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Fails if the file is no longer as long as when it was opened: what goes on reading it asks first.
    ///
    /// # Errors
    /// If the file was shortened, or can't be measured.
    pub fn check_length(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|e| Error::io(&self.path, "measure it", e))?;
        if now.len() < self.map.len() as u64 {
            let reason = format!(
                "holds {} bytes now, held {} when it was opened; open it again when it is complete",
                now.len(),
                self.map.len()
            );
            return Err(Error::file(&self.path, reason));
        }
        Ok(())
    }

    /// A copy of `range`, read through the file and not through the map.
    pub(crate) fn read(&self, range: Range<usize>) -> Result<Vec<u8>> {
        self.check_length()?;
        let mut bytes = vec![0; range.len()];
        read_exact_at(&self.file, &mut bytes, range.start as u64)
            .map_err(|e| Error::io(&self.path, "read it", e))?;
        Ok(bytes)
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MappedFile({}, {} bytes)", self.path.display(), self.map.len())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
