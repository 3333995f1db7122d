//! Takes one file out of a wheel, which is a zip archive, by the archive's own list. A crate for archives would bring
//! ciphers and formats that no wheel has.

use std::io::Read;

/// The bytes of a file of an archive, at most `most`.
///
/// # Errors
/// The reason why there are none.
pub(super) fn member(archive: &[u8], name: &str, most: u64) -> Result<Vec<u8>, String> {
    let damaged = || "a damaged archive".to_owned();
    let (mut at, entries) = directory(archive).ok_or_else(damaged)?;
    for _ in 0..entries {
        let entry = Entry::at(archive, at).ok_or_else(damaged)?;
        if entry.name == name.as_bytes() {
            return entry.bytes(archive, most);
        }
        at = entry.next;
    }
    Err(format!("no {name} in it"))
}

/// The place of the archive's list, and the number of its entries: they stand at its end.
fn directory(archive: &[u8]) -> Option<(usize, usize)> {
    const MARK: [u8; 4] = *b"PK\x05\x06";
    // A comment of 64 KiB at most stands behind it.
    let tail = archive.len().saturating_sub(22 + (1 << 16));
    let end = archive[tail..].windows(4).rposition(|bytes| bytes == MARK)? + tail;
    Some((number(archive, end + 16, 4)?, number(archive, end + 10, 2)?))
}

struct Entry<'a> {
    name: &'a [u8],
    method: usize,
    packed: usize,
    length: usize,
    /// The place of the file's own header.
    header: usize,
    next: usize,
}

impl<'a> Entry<'a> {
    fn at(archive: &'a [u8], at: usize) -> Option<Entry<'a>> {
        (archive.get(at..at + 4)? == b"PK\x01\x02").then_some(())?;
        let lengths = [28, 30, 32].map(|offset| number(archive, at + offset, 2));
        let [name, extra, comment] = lengths;
        let name_end = at + 46 + name?;
        Some(Entry {
            name: archive.get(at + 46..name_end)?,
            method: number(archive, at + 10, 2)?,
            packed: number(archive, at + 20, 4)?,
            length: number(archive, at + 24, 4)?,
            header: number(archive, at + 42, 4)?,
            next: name_end + extra? + comment?,
        })
    }

    fn bytes(&self, archive: &[u8], most: u64) -> Result<Vec<u8>, String> {
        let start = || {
            let extra = number(archive, self.header + 28, 2)?;
            let start = self.header + 30 + number(archive, self.header + 26, 2)? + extra;
            archive.get(start..start.checked_add(self.packed)?)
        };
        let packed = start().ok_or("a damaged archive")?;
        if self.length as u64 > most {
            return Err(format!("a file of {} bytes in it; expected at most {most}", self.length));
        }
        let mut bytes = Vec::new();
        let read = match self.method {
            0 => packed.take(most).read_to_end(&mut bytes),
            8 => flate2::read::DeflateDecoder::new(packed).take(most).read_to_end(&mut bytes),
            method => return Err(format!("a file packed by method {method}; expected 0 or 8")),
        };
        match read {
            Ok(length) if length == self.length => Ok(bytes),
            Ok(length) => {
                Err(format!("a file of {length} bytes, where {} are listed", self.length))
            }
            Err(error) => Err(format!("a file that can't be unpacked: {error}")),
        }
    }
}

/// A number of `bytes` bytes, the lowest first.
fn number(archive: &[u8], at: usize, bytes: usize) -> Option<usize> {
    let bytes = archive.get(at..at.checked_add(bytes)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}
