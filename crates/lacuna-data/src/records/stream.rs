//! Reads compressed streams, and has words for what is wrong with them.

use crate::error::{Error, io_error};
use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

/// A file that tells how much of it was read.
pub(crate) struct Counted<R> {
    file: R,
    consumed: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    /// Adds the bytes that are read to `consumed`.
    pub(crate) fn new(file: R, consumed: &Rc<Cell<u64>>) -> Self {
        Self { file, consumed: Rc::clone(consumed) }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.consumed.set(self.consumed.get() + read as u64);
        Ok(read)
    }
}

/// The stream behind `.gz` and `.zst`, by a name in small letters.
pub(crate) fn unpacked<'a>(
    name: &str,
    stream: impl BufRead + 'a,
) -> io::Result<Box<dyn BufRead + 'a>> {
    Ok(if name.ends_with(".gz") || name.ends_with(".tgz") {
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(stream)))
    } else if name.ends_with(".zst") {
        Box::new(BufReader::new(zstd::Decoder::with_buffer(stream)?))
    } else {
        Box::new(stream)
    })
}

/// True if what was read makes no sense; else the system refused, or it is of a kind that is not read here.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    error.raw_os_error().is_none() && !is_unread(error)
}

/// True if the file may be whole, and is of a kind that is not read here.
fn is_unread(error: &io::Error) -> bool {
    error.raw_os_error().is_none() && error.kind() == io::ErrorKind::Unsupported
}

/// The fault, in words: a line that can be read, though a library of another format puts half a file into its own.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ if is_unread(error) => error.to_string(),
        _ => lacuna_files::short(&error.to_string()),
    }
}

/// The error of a file that was named and can't be read to its end.
pub(crate) fn stopped(path: &Path, what: &str, line: Option<usize>, error: io::Error) -> Error {
    if is_unread(&error) {
        return Error::Corpus { path: path.to_owned(), reason: cause(&error) };
    }
    if !is_damage(&error) {
        return io_error(path, "read")(error);
    }
    let behind = line.filter(|line| *line > 1).map(|line| format!(" from line {line} on"));
    let (behind, cause) = (behind.unwrap_or_default(), cause(&error));
    let reason = format!(
        "cannot read{what}{behind}: it is damaged or cut short ({cause}); fetch or write it again"
    );
    Error::Corpus { path: path.to_owned(), reason }
}
