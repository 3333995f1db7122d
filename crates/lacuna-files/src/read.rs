//! Reads files without waiting for a pipe's other end, and without reading a device that never
//! ends.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::Read;
use std::path::Path;

use crate::disk;
use crate::error::{Error, Result, io};

/// Opens a regular file, or what a link to one leads to. Pipes, sockets, devices and folders are refused by name:
/// they would be waited for, or read until memory ends.
///
/// # Errors
/// [`Error::NoFile`], or the system's reason.
pub fn open_regular(path: &Path) -> Result<File> {
    let refuse = |kind| Error::NoFile { path: path.to_owned(), kind };
    let there = fs::metadata(path).map_err(io(path, "read it"))?.file_type();
    if !there.is_file() {
        return Err(refuse(kind_of(there)));
    }
    // Whatever took its place meanwhile is not waited for either.
    let file = without_waiting(File::options().read(true)).open(path);
    let file = file.map_err(io(path, "read it"))?;
    let opened = file.metadata().map_err(io(path, "read it"))?.file_type();
    if opened.is_file() { Ok(file) } else { Err(refuse(kind_of(opened))) }
}

/// The bytes of a regular file that has at most `most` of them.
///
/// # Errors
/// As [`open_regular`], and [`Error::TooLong`].
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    // Room for all of it at once: a buffer that grows is twice as large in the end.
    let length = file.metadata().map_or(0, |there| there.len());
    if length > most {
        return Err(Error::TooLong { path: path.to_owned(), most });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    // A file under /proc says that it has none.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(io(path, "read it"))?;
    if bytes.len() as u64 > most {
        return Err(Error::TooLong { path: path.to_owned(), most });
    }
    Ok(bytes)
}

/// Opens what a user named, whatever it is: a pipe that somebody writes to is meant, and waited for.
///
/// # Errors
/// The system's reason.
pub fn open_any(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

/// The bytes of what a user named, as [`open_any`] opens it: at most `most`.
///
/// # Errors
/// The system's reason, or that there are more.
pub fn read_any(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_any(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        false => Ok(bytes),
        true => {
            let reason = format!("there are more than {most} bytes, the most that is read");
            Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason))
        }
    }
}

/// As [`read_file`], as text.
///
/// # Errors
/// As [`read_file`], and if the bytes are no UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let no_text = |_| io(path, "read it as text")(std::io::Error::other("it is no UTF-8"));
    String::from_utf8(read_file(path, most)?).map_err(no_text)
}

/// Opens what is no regular file to write to it: a pipe that nobody reads is an error, one that is read is waited for.
pub(crate) fn open_device(path: &Path) -> std::io::Result<disk::File> {
    // Behind what others wrote, where it is a file after all.
    let device = disk::File::open(path, without_waiting(File::options().append(true)))?;
    #[cfg(unix)]
    rustix::fs::fcntl_setfl(&device, rustix::fs::OFlags::APPEND)?;
    Ok(device)
}

pub(crate) fn without_waiting(options: &mut OpenOptions) -> &OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    options
}

/// Tells whether the name stands for something that a process has open, as `/dev/stdout` and
/// `/dev/fd/3` do, or for a device.
pub(crate) fn names_open_file(path: &Path) -> bool {
    let folder = crate::parent::parent(path);
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    cfg!(unix)
        && (folder == Path::new("/dev") || folder.starts_with("/proc") && folder.ends_with("fd"))
}

/// The thing that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A pipe, which ends when nobody writes to it any more.
    Pipe,
    /// A socket.
    Socket,
    /// A device, which may never end.
    Device,
    /// A kind of file that no system known here has.
    Other,
}

/// The thing that a name stands for, links followed.
///
/// # Errors
/// The system's reason.
pub fn kind(path: &Path) -> std::io::Result<Kind> {
    Ok(Kind::of(fs::metadata(path)?.file_type()))
}

impl Kind {
    fn of(there: FileType) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileTypeExt;
            if there.is_fifo() {
                return Kind::Pipe;
            }
            if there.is_socket() {
                return Kind::Socket;
            }
            if there.is_char_device() || there.is_block_device() {
                return Kind::Device;
            }
        }
        match (there.is_dir(), there.is_file()) {
            (true, _) => Kind::Folder,
            (_, true) => Kind::File,
            _ => Kind::Other,
        }
    }
}

/// Names the thing that stands in the place of a file, in words.
pub(crate) fn kind_of(there: FileType) -> &'static str {
    match Kind::of(there) {
        Kind::Pipe => "a pipe",
        Kind::Socket => "a socket",
        Kind::Device => "a device",
        Kind::Folder => "a folder",
        Kind::File | Kind::Other => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::{open_regular, read_file, read_text};
    use crate::Error;
    use std::fs;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_file(&path, 4).unwrap(), b"four");
        assert!(matches!(read_file(&path, 3), Err(Error::TooLong { most: 3, .. })));
        fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path, 9).unwrap_err().to_string().contains("no UTF-8"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused_by_its_kind_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, kind) in
            [(pipe.as_path(), "a pipe"), (folder.path(), "a folder"), (&link, "a device")]
        {
            let told = open_regular(path).unwrap_err();
            assert!(matches!(told, Error::NoFile { kind: k, .. } if k == kind), "{told}");
        }
    }
}
