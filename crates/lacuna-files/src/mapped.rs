//! Maps files as they lie on disk: opened with suspicion, never copied whole.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result, io};

/// A regular file in memory, as far as the system has paged it in.
///
/// Another process that shortens the file pulls the pages from under the map, and touching them
/// then ends this process (SIGBUS); no program can prevent that for a mapped file. What can be done:
/// [`check_length`](Self::check_length) compares the length again, so that a file that was truncated or is still being
/// written gives an error before it is touched, and [`read`](Self::read) copies through the file, where a short read is
/// an error and no signal.
pub struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
}

impl MappedFile {
    /// Maps a file, which may be empty.
    ///
    /// # Errors
    /// As [`open_regular`](crate::open_regular), and if the system maps it not.
    pub fn open(path: &Path) -> Result<Self> {
        let file = crate::open_regular(path)?;
        #[expect(unsafe_code, reason = "mapping is what makes opening an 8 B model cheap")]
        // SAFETY: the map is read only and lives as long as `self`. Another process can still
        // change the bytes; nothing here relies on two reads of a byte agreeing for memory
        // safety, and callers see plain bytes of which any value is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(io(path, "map it"))?;
        Ok(Self { path: path.to_owned(), file, map })
    }

    /// The name that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes that it had when it was opened.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Looks whether the file is still as long as when it was opened.
    ///
    /// # Errors
    /// [`Error::Shortened`] if it is not.
    pub fn check_length(&self) -> Result<()> {
        let now = self.file.metadata().map_err(io(&self.path, "measure it"))?.len();
        let before = self.map.len() as u64;
        match now < before {
            true => Err(Error::Shortened { path: self.path.clone(), now, before }),
            false => Ok(()),
        }
    }

    /// A copy of `range`, read through the file and not through the map.
    ///
    /// # Errors
    /// As [`check_length`](Self::check_length), and if the file can't be read.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u8>> {
        self.check_length()?;
        let mut bytes = vec![0; range.len()];
        read_exact_at(&self.file, &mut bytes, range.start as u64)
            .map_err(io(&self.path, "read it"))?;
        Ok(bytes)
    }
}

impl std::ops::Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
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

#[cfg(test)]
mod tests {
    use super::MappedFile;
    use crate::Error;
    use std::fs;

    #[test]
    fn a_file_that_was_shortened_is_an_error_before_it_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        fs::write(&path, [1, 2, 3, 4]).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        assert_eq!(mapped.bytes(), [1, 2, 3, 4]);
        assert_eq!(mapped.read(1..3).unwrap(), [2, 3]);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1).unwrap();
        let told = mapped.check_length().unwrap_err();
        assert!(matches!(told, Error::Shortened { now: 1, before: 4, .. }), "{told}");
        mapped.read(0..1).unwrap_err();
        fs::write(&path, []).unwrap();
        assert!(MappedFile::open(&path).unwrap().bytes().is_empty());
    }
}
