//! Keeps a file of JSON lines that a run goes on with where it was ended, whenever that was.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lacuna_files::Log;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result, data, io};

/// Lines of such a file.
const LARGEST: u64 = 4 << 30;

/// A power cut may take the lines of this time.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// A file of lines that this process has for itself.
pub(crate) struct Records {
    log: Log,
    path: PathBuf,
    synced: Instant,
}

impl Records {
    /// Opens a file, with the whole lines that stand in it. Half of one, which a process left that was ended, is cut off.
    ///
    /// # Errors
    /// If the file can't be opened, is another process's, or holds anything else than objects.
    pub(crate) fn open(path: &Path) -> Result<(Records, Vec<Map<String, Json>>)> {
        let log = Log::hold(path).map_err(io(path))?;
        let text = lacuna_files::read_text(path, LARGEST)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        // Another program's file stays as it is.
        let is_torn = |line: &str| line.is_empty() || line.starts_with('{');
        if !is_torn(&text[whole..]) {
            return Err(foreign(path, text.lines().count(), "no line of an earlier run"));
        }
        let lines = (1..).zip(text[..whole].lines()).map(|(number, line)| {
            lacuna_files::json::object(line.as_bytes()).map_err(|reason| {
                foreign(path, number, &format!("no line of an earlier run ({reason})"))
            })
        });
        let lines = lines.collect::<Result<Vec<_>>>()?;
        let (log, _) = log.cut().map_err(io(path))?;
        Ok((Records { log, path: path.to_owned(), synced: Instant::now() }, lines))
    }

    /// Appends a line. Once this returns, a process that is ended does not lose it.
    pub(crate) fn append(&mut self, line: &Json) -> Result<()> {
        self.log.append(format!("{line}\n").as_bytes()).map_err(io(&self.path))?;
        if self.synced.elapsed() > SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes all lines survive a power cut.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.log.sync().map_err(io(&self.path))
    }
}

/// The error of a file that an earlier, different run wrote.
pub(crate) fn foreign(path: &Path, line: usize, reason: &str) -> Error {
    data(path, Some(line), format!("{reason}; give another folder, or remove this file"))
}

/// A text of a line.
pub(crate) fn text<'a>(line: &'a Map<String, Json>, key: &str) -> &'a str {
    line.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// A count of a line.
pub(crate) fn count(line: &Map<String, Json>, key: &str) -> Option<usize> {
    line.get(key).and_then(Json::as_u64).and_then(|count| usize::try_from(count).ok())
}
