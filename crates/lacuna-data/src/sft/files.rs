//! Goes through files of conversations, record by record.

use crate::corpus::Reading;
use crate::error::{Error, Result};
use crate::records::{Counted, Records, Shape, at, is_columns, stopped, unpacked};
use std::cell::Cell;
use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;

/// No conversation is longer: what is has lost its line breaks.
const LONGEST: usize = 64 << 20;

/// A record of a file.
pub(super) struct Record<'a> {
    /// Its JSON; none where it is longer than any conversation is.
    pub(super) bytes: Option<Vec<u8>>,
    /// Its place, as reports name it.
    pub(super) at: String,
    /// The line that it begins in, or its row.
    pub(super) line: usize,
    pub(super) path: &'a Path,
}

/// The function that takes a record, and hears how far the reading is.
type Take<'a> = &'a mut dyn FnMut(Record<'_>, Reading) -> Result<()>;

/// Hands every record to `take`.
///
/// # Errors
/// When a file is missing, a folder, unreadable or damaged, or `take` fails.
pub(super) fn for_each_record(files: &[impl AsRef<Path>], take: Take<'_>) -> Result<()> {
    let sizes = files.iter().map(|path| path.as_ref().metadata().map_or(0, |file| file.len()));
    let sizes: Vec<u64> = sizes.collect();
    let mut reading =
        Reading { files_total: files.len(), bytes_total: sizes.iter().sum(), ..Reading::default() };
    for (path, bytes) in files.iter().map(AsRef::as_ref).zip(sizes) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let reason = "a folder; name the files with the conversations".to_owned();
            return Err(Error::Corpus { path: path.to_owned(), reason });
        }
        if is_columns(&name) {
            rows(path, &name, reading, take)?;
        } else {
            records(path, &name, reading, take)?;
        }
        reading.files += 1;
        reading.bytes += bytes;
    }
    Ok(())
}

fn records(path: &Path, name: &str, before: Reading, take: Take<'_>) -> Result<()> {
    let consumed = Rc::new(Cell::new(0));
    let file = Counted::new(lacuna_files::open_regular(path)?, &consumed);
    let stop = |line, error| stopped(path, "", Some(line), error);
    let stream = unpacked(&name.to_ascii_lowercase(), BufReader::new(file));
    let mut records =
        stream.and_then(|stream| Records::new(stream, LONGEST)).map_err(|error| stop(1, error))?;
    if records.shape() == Shape::Utf16 {
        let reason = "UTF-16, expected UTF-8; convert it first".to_owned();
        return Err(Error::Corpus { path: path.to_owned(), reason });
    }
    loop {
        let next = records.next();
        let Some((place, bytes)) = next.map_err(|error| stop(records.line(), error))? else {
            return Ok(());
        };
        let record = Record { bytes, at: at(name, place), line: place.line, path };
        take(record, Reading { bytes: before.bytes + consumed.get(), ..before })?;
    }
}

#[cfg(feature = "parquet")]
fn rows(path: &Path, name: &str, before: Reading, take: Take<'_>) -> Result<()> {
    use crate::records::columns::{Rows, json_of};

    let file = lacuna_files::open_regular(path)?;
    let size = file.metadata().map_or(0, |file| file.len());
    let mut rows = Rows::open(file, None).map_err(|error| stopped(path, "", None, error))?;
    loop {
        let next = rows.next().map_err(|error| {
            stopped(path, &format!(" from row {} on", rows.number() + 1), None, error)
        })?;
        let Some(row) = next else { return Ok(()) };
        let line = rows.number();
        let record =
            Record { bytes: Some(json_of(&row)), at: format!("{name}#{line}"), line, path };
        let read = (size as f64 * rows.part()) as u64;
        take(record, Reading { bytes: before.bytes + read, ..before })?;
    }
}

#[cfg(not(feature = "parquet"))]
fn rows(path: &Path, _: &str, _: Reading, _: Take<'_>) -> Result<()> {
    let reason = "a Parquet file, which this build does not read; build with the feature parquet";
    Err(Error::Corpus { path: path.to_owned(), reason: reason.to_owned() })
}
