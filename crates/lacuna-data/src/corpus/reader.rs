//! Turns files into documents.

use super::fields::text_of;
use super::languages::Choice;
use super::listing::Found;
use super::{CorpusOptions, Document, Reading, Reason, Skipped, filters};
use crate::error::{Error, Result, io_error};
use crate::records::{
    Counted, Fault, HALF, Records, Shape, at, cause, is_columns, is_damage, stopped, unpacked,
};
use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

mod columns;

/// Endings of files that hold text and are not read.
const OTHER_FORMATS: [&str; 11] =
    [".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip", ".7z", ".rar", ".arrow", ".feather", ".avro"];

/// Reads the files one after the other; what was passed over, and how many documents there are.
pub(super) fn read(
    files: &[Found],
    (options, choice): (&CorpusOptions, &Choice),
    skipped: Skipped,
    progress: &mut dyn FnMut(Reading),
    take: impl FnMut(Document) -> Result<()>,
) -> Result<(Skipped, usize)> {
    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let reading = Reading { files_total: files.len(), bytes_total, ..Reading::default() };
    let consumed = Rc::default();
    let (documents, seen) = (0, HashSet::new());
    let mut reader =
        Reader { options, choice, take, skipped, documents, seen, progress, reading, consumed };
    for file in files {
        let before = reader.reading.bytes;
        reader.consumed.set(before);
        reader.file(file)?;
        reader.reading.files += 1;
        reader.reading.bytes = before + file.bytes;
        (reader.progress)(reader.reading);
    }
    Ok((reader.skipped, reader.documents))
}

struct Reader<'a, F> {
    options: &'a CorpusOptions,
    choice: &'a Choice,
    take: F,
    skipped: Skipped,
    documents: usize,
    /// The beginnings of the hashes of all texts that were taken.
    seen: HashSet<[u8; 16]>,
    progress: &'a mut dyn FnMut(Reading),
    reading: Reading,
    /// Bytes that have come off the disk.
    consumed: Rc<Cell<u64>>,
}

/// The kind of file that an ending stands for.
enum Kind {
    Records,
    /// `.json`: records if it begins like them, else a text.
    Json,
    Archive,
    OtherFormat,
    Text,
}

impl Kind {
    /// Of a name in small letters.
    fn of(name: &str) -> Self {
        let (inner, packed) = match name.strip_suffix(".gz").or(name.strip_suffix(".zst")) {
            Some(inner) => (inner, true),
            None => (name, false),
        };
        let ends = |endings: &[&str]| endings.iter().any(|ending| inner.ends_with(ending));
        if ends(&[".jsonl", ".ndjson"]) || (packed && ends(&[".json"])) {
            Self::Records
        } else if ends(&[".json"]) {
            Self::Json
        } else if ends(&[".tar", ".tgz"]) {
            Self::Archive
        } else if OTHER_FORMATS.iter().any(|ending| name.ends_with(ending)) {
            Self::OtherFormat
        } else {
            Self::Text
        }
    }
}

/// The place where reading stopped, and the reason.
struct Stopped {
    line: Option<usize>,
    error: io::Error,
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self { line: None, error }
    }
}

impl<F: FnMut(Document) -> Result<()>> Reader<'_, F> {
    fn file(&mut self, found: &Found) -> Result<()> {
        if is_columns(&found.name) {
            return self.columns(found);
        }
        let file = match lacuna_files::open_any(&found.path) {
            Ok(file) => file,
            Err(error) if found.named => return Err(io_error(&found.path, "read")(error)),
            Err(error) => {
                self.skipped.add(Reason::Unreadable, format!("{} ({error})", found.name));
                return Ok(());
            }
        };
        let counted = Counted::new(file, &self.consumed);
        let stream = BufReader::with_capacity(1 << 16, counted);
        let limit = if found.named { usize::MAX } else { self.options.max_document_bytes };
        let Err(Stopped { line, error }) = self.stream(found, &found.name, stream, limit)? else {
            return Ok(());
        };
        if !found.named {
            let line = line.map(|line| format!(":{line}")).unwrap_or_default();
            self.stop_short(&format!("{}{line}", found.name), &error);
            return Ok(());
        }
        let what = match Kind::of(&found.name.to_ascii_lowercase()) {
            Kind::Archive => " the archive",
            _ => "",
        };
        Err(stopped(&found.path, what, line, error))
    }

    /// Counts a file of a folder that can't be read to its end.
    fn stop_short(&mut self, place: &str, error: &io::Error) {
        let reason = if is_damage(error) { Reason::Damaged } else { Reason::Unreadable };
        self.skipped.add(reason, format!("{place} ({})", cause(error)));
    }

    /// Reads a file or a member of an archive by what its name says. The inner error is the stream's.
    fn stream(
        &mut self,
        file: &Found,
        name: &str,
        stream: impl BufRead,
        limit: usize,
    ) -> Result<Result<(), Stopped>> {
        let lower = name.to_ascii_lowercase();
        let kind = Kind::of(&lower);
        let whole = file.name == name;
        let stream = match kind {
            Kind::OtherFormat if whole => {
                self.skipped.add(Reason::OtherFormat, name);
                return Ok(Ok(()));
            }
            Kind::Records | Kind::Archive => match unpacked(&lower, stream) {
                Ok(stream) => stream,
                Err(error) => return Ok(Err(error.into())),
            },
            _ => Box::new(stream),
        };
        match kind {
            Kind::Records => self.records(file, name, stream),
            Kind::Archive if whole => self.archive(file, stream),
            Kind::Json => self.json(file, name, stream, limit),
            _ => self.text_file(name, stream, limit),
        }
    }

    fn archive(&mut self, file: &Found, stream: impl Read) -> Result<Result<(), Stopped>> {
        let mut archive = tar::Archive::new(stream);
        let entries = match archive.entries() {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(error.into())),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(error.into())),
            };
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let kind = entry.header().entry_type();
            if kind.is_dir() || kind.is_pax_global_extensions() {
                continue;
            }
            if !(kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()) {
                self.skipped.add(Reason::NotAFile, format!("{}/{name}", file.name));
            } else if !self.choice.takes(&name) {
                self.skipped.add(self.choice.reason(), format!("{}/{name}", file.name));
            } else {
                let limit = self.options.max_document_bytes;
                if let Err(end) = self.stream(file, &name, BufReader::new(entry), limit)? {
                    return Ok(Err(end));
                }
            }
        }
        Ok(Ok(()))
    }

    fn records(
        &mut self,
        file: &Found,
        name: &str,
        stream: impl BufRead,
    ) -> Result<Result<(), Stopped>> {
        // JSON may spell a byte with six: \u0041.
        let limit = self.options.max_document_bytes.saturating_mul(6).saturating_add(1 << 16);
        let mut records = match Records::new(stream, limit) {
            Ok(records) => records,
            Err(error) => return Ok(Err(Stopped { line: Some(1), error })),
        };
        if records.shape() == Shape::Utf16 {
            self.skipped.add(Reason::Utf16, name);
            return Ok(Ok(()));
        }
        let (mut usable, mut faults, mut first) = (0, 0, None);
        loop {
            let (place, record) = match records.next() {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => return Ok(Err(Stopped { line: Some(records.line()), error })),
            };
            let path = || format!("{name}#{}", place.number);
            let Some(record) = record else {
                usable += 1;
                self.skipped.add(Reason::TooLarge, at(name, place));
                continue;
            };
            match text_of(&record, &self.options.text_fields) {
                Ok(text) => {
                    usable += 1;
                    self.text(&at(name, place), path(), text)?;
                }
                Err(Fault { reason, words }) => {
                    faults += 1;
                    self.skipped.add(reason, format!("{} ({words})", at(name, place)));
                    first.get_or_insert((place.line, words));
                }
            }
        }
        let Some((line, words)) = first.filter(|_| usable == 0 && file.named && file.name == name)
        else {
            return Ok(Ok(()));
        };
        let (fields, records) =
            (self.fields(), if faults == 1 { "the only one" } else { "the first" });
        let reason = format!(
            "line {line}: a JSON object is expected with a string {fields}; {words} ({records} of \
             {faults}, none of which has a text); --text-field, data.text_fields name another field"
        );
        Err(Error::Corpus { path: file.path.clone(), reason })
    }

    /// The names of the fields that may hold a text, for errors.
    fn fields(&self) -> String {
        let quoted = self.options.text_fields.iter().map(|name| format!("{name:?}"));
        quoted.collect::<Vec<_>>().join(" or ")
    }

    /// Records, if the file begins with an array of objects that have a text, or with two such objects;
    /// else one text, as the JSON of a source tree is.
    fn json(
        &mut self,
        file: &Found,
        name: &str,
        mut stream: impl BufRead,
        limit: usize,
    ) -> Result<Result<(), Stopped>> {
        let mut head = vec![];
        let most = (self.options.max_document_bytes as u64).saturating_add(1 << 16);
        if let Err(error) = stream.by_ref().take(most).read_to_end(&mut head) {
            return Ok(Err(error.into()));
        }
        let named = file.named && file.name == name;
        let records = holds_records(&head, &self.options.text_fields, named);
        let stream = io::Cursor::new(head).chain(stream);
        if records {
            return self.records(file, name, stream);
        }
        self.text_file(name, stream, limit)
    }

    fn text_file(
        &mut self,
        name: &str,
        stream: impl Read,
        limit: usize,
    ) -> Result<Result<(), Stopped>> {
        // One byte more than is allowed, so that too much shows.
        let mut bytes = vec![];
        if let Err(error) = stream.take((limit as u64).saturating_add(1)).read_to_end(&mut bytes) {
            return Ok(Err(error.into()));
        }
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            self.skipped.add(Reason::Utf16, name);
        } else if bytes.len() > limit {
            self.skipped.add(Reason::TooLarge, name);
        } else if bytes.contains(&0) && !self.options.take_binary {
            self.skipped.add(Reason::Binary, name);
        } else if let Ok(text) = String::from_utf8(bytes) {
            self.document(name, Document { path: name.to_owned(), text, is_record: false })?;
        } else {
            self.skipped.add(Reason::NotUtf8, name);
        }
        Ok(Ok(()))
    }

    /// The text of a record.
    fn text(&mut self, place: &str, path: String, text: String) -> Result<()> {
        if text.len() > self.options.max_document_bytes {
            self.skipped.add(Reason::TooLarge, place);
            return Ok(());
        }
        if text.contains(HALF) {
            self.skipped.add(Reason::HalfCharacter, place);
            return Ok(());
        }
        self.document(place, Document { path, text, is_record: true })
    }

    fn document(&mut self, place: &str, document: Document) -> Result<()> {
        if let Some(reason) = self.refuses(&document.text) {
            self.skipped.add(reason, place);
            return Ok(());
        }
        self.documents += 1;
        let reading = Reading { bytes: self.consumed.get(), ..self.reading };
        (self.progress)(reading);
        (self.take)(document)
    }

    fn refuses(&mut self, text: &str) -> Option<Reason> {
        if text.is_empty() {
            return Some(Reason::Empty);
        }
        if let Some(reason) = filters::refuses(text, self.options) {
            return Some(reason);
        }
        if self.options.take_duplicates {
            return None;
        }
        let hash = blake3::hash(text.as_bytes());
        let hash = *hash.as_bytes().first_chunk().expect("a hash of 32 bytes");
        (!self.seen.insert(hash)).then_some(Reason::Duplicate)
    }
}

/// Tells whether a `.json` file begins as records do: with a text, or, where the file itself was
/// asked for, with any object.
fn holds_records(head: &[u8], fields: &[String], named: bool) -> bool {
    let Ok(mut records) = Records::new(head, head.len()) else { return false };
    let mut next = || {
        let record = records.next().ok().flatten()?.1?;
        let fault = text_of(&record, fields).err();
        let is_record = fault.is_none_or(|fault| named && fault.reason == Reason::NoText);
        Some((records.shape(), is_record))
    };
    match next() {
        Some((Shape::Array, is_record)) => is_record,
        // A single object on a line is somebody's settings.
        Some((Shape::Lines, true)) => next().is_some_and(|(_, is_record)| is_record),
        _ => false,
    }
}
