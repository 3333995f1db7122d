//! Keeps files of lines that grow: metrics, traces, answers to a batch of prompts.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::disk::{File, sync_folder};
use crate::parent::parent;
use crate::read::{open_device, without_waiting};
use crate::whole::leads_to_open_file;

/// A file that lines are appended to, whole lines only: what an append that failed left of its lines is cut off before
/// the next one. A process that dies may leave half of a line at the end, a power cut half of all that came after the
/// last [`sync`](Self::sync); [`resume`](Self::resume) cuts a torn last line off, readers pass over it.
///
/// A pipe or a device in the place of the file is written to, as long as somebody reads it. Errors are the system's
/// own: whoever keeps a log says what it is for.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// Bytes of the file that are whole lines.
    whole: u64,
    /// True if a part of a line stands behind them.
    torn: bool,
}

impl Drop for Log {
    fn drop(&mut self) {
        // The end of the handle is not enough: a process that is being started has a copy until it runs its program.
        let _ = self.file.unlock();
    }
}

impl Log {
    /// Goes on behind what is there; the file is made if need be. A pipe that nobody reads is an error and not waited
    /// for.
    ///
    /// # Errors
    /// The system's reason.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::opened(path, OpenOptions::new().append(true).create(true))
    }

    fn opened(path: &Path, options: &mut OpenOptions) -> io::Result<Self> {
        let there = fs::metadata(path);
        if there.as_ref().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            // Its writer waits where its reader is slow, and nothing of it can be cut off.
            return Ok(Self { file: open_device(path)?, whole: 0, torn: false });
        }
        let is_new = there.is_err();
        let file = File::open(path, without_waiting(options))?;
        if is_new {
            keep_name(path);
        }
        let whole = file.metadata()?.len();
        Ok(Self { file, whole, torn: false })
    }

    /// Goes on behind the last whole line, if any. Returns how many bytes of a torn one were cut off behind it.
    ///
    /// # Errors
    /// The system's reason.
    pub fn resume(path: &Path) -> io::Result<(Self, u64)> {
        let log = Self::opened(path, OpenOptions::new().read(true).append(true).create(true))?;
        log.cut()
    }

    /// Opens the file for this process alone, as long as the value lives, and changes nothing in it: for a caller who
    /// reads it before [`cut`](Self::cut). Where the file system knows no locks, nothing is locked.
    ///
    /// # Errors
    /// The system's reason; that another process has the file.
    pub fn hold(path: &Path) -> io::Result<Self> {
        let log = Self::opened(path, OpenOptions::new().read(true).append(true).create(true))?;
        match log.file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process is writing it; wait for its end, or give another file",
            )),
            _ => Ok(log),
        }
    }

    /// Cuts off what stands behind the last whole line, and says how many bytes that were.
    ///
    /// # Errors
    /// The system's reason.
    pub fn cut(mut self) -> io::Result<(Self, u64)> {
        let log = &mut self;
        let end = log.whole;
        if log.file.metadata()?.is_file() {
            log.whole = end_of_lines(&mut log.file, end)?;
        }
        if log.whole < end {
            log.file.set_len(log.whole)?;
        }
        let cut = end - log.whole;
        Ok((self, cut))
    }

    /// Begins anew: of an older file nothing is left.
    ///
    /// # Errors
    /// The system's reason.
    pub fn create(path: &Path) -> io::Result<Self> {
        let there = fs::metadata(path);
        let is_device = there.as_ref().is_ok_and(|there| !there.is_file() && !there.is_dir());
        if is_device || leads_to_open_file(path) {
            return Ok(Self { file: open_device(path)?, whole: 0, torn: false });
        }
        let file = File::open(path, OpenOptions::new().append(true).create(true))?;
        if there.is_err() {
            keep_name(path);
        } else if file.metadata()?.len() > 0 {
            // Synced, so that no power cut leaves the new lines in front of old ones.
            file.set_len(0)?;
            file.sync_all()?;
        }
        Ok(Self { file, whole: 0, torn: false })
    }

    /// Appends `lines`, which end with a line break.
    ///
    /// # Errors
    /// The system's reason; then none of them is a part of the log.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.whole)?;
            self.torn = false;
        }
        if let Err(error) = self.file.write_all(lines) {
            self.torn = self.file.metadata().is_ok_and(|there| there.is_file());
            return Err(error);
        }
        self.whole += lines.len() as u64;
        Ok(())
    }

    /// Makes what was appended so far survive a power cut. For a pipe there is nothing to do.
    ///
    /// # Errors
    /// The system's reason.
    pub fn sync(&self) -> io::Result<()> {
        match self.file.sync_all() {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

/// A new name survives a power cut as well; where that can't be had, the log is kept all the same.
fn keep_name(path: &Path) {
    let _ = sync_folder(parent(path));
}

/// The end of the last whole line, among the first `end` bytes.
fn end_of_lines(file: &mut File, end: u64) -> io::Result<u64> {
    const PIECE: u64 = 1 << 16;
    let mut to = end;
    let mut piece = Vec::new();
    while to > 0 {
        let from = to.saturating_sub(PIECE);
        file.seek(SeekFrom::Start(from))?;
        piece.clear();
        (&mut *file).take(to - from).read_to_end(&mut piece)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        to = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::Log;
    use std::fs;

    #[test]
    fn a_log_that_is_held_is_nobody_elses_and_is_not_changed_before_it_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "a\nhalf").unwrap();
        let held = Log::hold(&path).unwrap();
        let refused = Log::hold(&path).unwrap_err();
        assert!(refused.to_string().contains("another process"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nhalf");
        let (mut log, cut) = held.cut().unwrap();
        assert_eq!(cut, 4);
        log.append(b"b\n").unwrap();
        assert!(Log::hold(&path).is_err(), "held as long as it lives");
        drop(log);
        assert!(Log::hold(&path).is_ok());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_torn_last_line_is_cut_and_what_is_appended_stands_behind_whole_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (there, cut, kept) in [
            ("", 0, ""),
            ("a\nb\n", 0, "a\nb\n"),
            ("a\nhalf", 4, "a\n"),
            ("half", 4, ""),
            (&format!("a\n{}", "x".repeat(200_000)), 200_000, "a\n"),
        ] {
            fs::write(&path, there).unwrap();
            let (mut log, was_cut) = Log::resume(&path).unwrap();
            assert_eq!(was_cut, cut);
            log.append(b"next\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{kept}next\n"));
        }
        Log::open(&path).unwrap().append(b"more\n").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("next\nmore\n"));
        let mut new = Log::create(&path).unwrap();
        new.append(b"one\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\n");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_appended_to() {
        let mut log = Log::create("/dev/null".as_ref()).unwrap();
        log.append(b"gone\n").unwrap();
        assert_eq!(fs::metadata("/dev/null").unwrap().len(), 0);
    }
}
