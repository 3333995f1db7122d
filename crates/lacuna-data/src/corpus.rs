//! Documents from source trees, text files, JSON lines and archives.

use crate::error::{Error, Result, io_error};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// One text of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Where it was found, relative to the input that held it, with forward slashes. A JSON line is
    /// `file.jsonl#12`, counted from 1.
    pub path: String,
    /// The text, unchanged.
    pub text: String,
}

/// What a corpus reader takes and what it passes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusOptions {
    /// File name endings to take from folders and archives, without the dot; empty takes all. An
    /// input named itself is taken whatever its name.
    pub extensions: Vec<String>,
    /// Larger documents are passed over, and counted.
    pub max_document_bytes: usize,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self { extensions: vec![], max_document_bytes: 1 << 20 }
    }
}

/// How many documents were passed over, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Holding a zero byte.
    pub binary: usize,
    /// Text in another encoding than UTF-8.
    pub not_utf8: usize,
    /// Above [`CorpusOptions::max_document_bytes`].
    pub too_large: usize,
    /// Without a single byte.
    pub empty: usize,
    /// With another ending than those asked for.
    pub other_extension: usize,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { binary, not_utf8, too_large, empty, other_extension } = self;
        write!(
            f,
            "passed over {binary} binary, {not_utf8} not UTF-8, {too_large} too large, {empty} \
             empty, {other_extension} of other endings"
        )
    }
}

/// Documents in memory, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    /// Sorted by path within each input; inputs in the order given.
    pub documents: Vec<Document>,
    /// What was passed over.
    pub skipped: Skipped,
}

impl Corpus {
    /// Reads all inputs into memory.
    ///
    /// # Errors
    /// As [`for_each_document`].
    pub fn read(inputs: &[impl AsRef<Path>], options: &CorpusOptions) -> Result<Self> {
        let mut documents = vec![];
        let skipped = for_each_document(inputs, options, |document| {
            documents.push(document);
            Ok(())
        })?;
        Ok(Self { documents, skipped })
    }

    /// Splits into training and held-out documents by [`is_held_out`].
    pub fn split(self, fraction: f64) -> (Vec<Document>, Vec<Document>) {
        self.documents.into_iter().partition(|document| !is_held_out(&document.path, fraction))
    }

    /// The bytes of all texts together.
    pub fn text_bytes(&self) -> u64 {
        self.documents.iter().map(|document| document.text.len() as u64).sum()
    }
}

/// Whether the document at `path` belongs to the held-out part, which takes about `fraction` of the
/// documents.
///
/// Decided by the path's hash alone: adding or removing other documents moves nothing, and a larger
/// fraction keeps all that a smaller one held out.
pub fn is_held_out(path: &str, fraction: f64) -> bool {
    let hash = blake3::hash(path.as_bytes());
    let bytes = hash.as_bytes().first_chunk().expect("a hash of 32 bytes");
    (u64::from_le_bytes(*bytes) as f64) < fraction * 2f64.powi(64)
}

/// Hands every document of the inputs to `take`, one at a time, in a fixed order.
///
/// An input is a folder (walked in order of names; hidden files and what its `.gitignore` names are
/// left out), a `.jsonl` file, plain, `.gz` or `.zst` (one object a line, with `text` or `content`),
/// a `.tar.gz` or `.tgz`, or any other file, taken as one text.
///
/// # Errors
/// When an input is missing or unreadable, a JSON line has no text, `take` fails, or there is not a
/// single document.
pub fn for_each_document(
    inputs: &[impl AsRef<Path>],
    options: &CorpusOptions,
    take: impl FnMut(Document) -> Result<()>,
) -> Result<Skipped> {
    let mut reader = Reader { options, take, skipped: Skipped::default(), documents: 0 };
    for input in inputs {
        reader.input(input.as_ref())?;
    }
    if reader.documents == 0 {
        let inputs: Vec<_> = inputs.iter().map(|p| p.as_ref().display().to_string()).collect();
        return Err(Error::EmptyCorpus {
            inputs: if inputs.is_empty() { "no inputs".to_owned() } else { inputs.join(", ") },
            skipped: reader.skipped.to_string(),
        });
    }
    Ok(reader.skipped)
}

struct Reader<'a, F> {
    options: &'a CorpusOptions,
    take: F,
    skipped: Skipped,
    documents: usize,
}

impl<F: FnMut(Document) -> Result<()>> Reader<'_, F> {
    fn input(&mut self, input: &Path) -> Result<()> {
        let metadata = std::fs::metadata(input).map_err(io_error(input, "read"))?;
        if metadata.is_dir() {
            return self.folder(input);
        }
        let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.file(input, &name)
    }

    fn folder(&mut self, root: &Path) -> Result<()> {
        // Nothing outside the folder may decide what is in it.
        let walk = ignore::WalkBuilder::new(root)
            .parents(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(false)
            .sort_by_file_name(|a, b| a.cmp(b))
            .build();
        for entry in walk {
            let entry = entry.map_err(|error| Error::Corpus {
                path: root.to_owned(),
                reason: format!("cannot walk the folder: {error}"),
            })?;
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            let name = parts.join("/");
            if self.wanted(&name) {
                self.file(entry.path(), &name)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &str) -> Result<()> {
        let file = File::open(path).map_err(io_error(path, "read"))?;
        let lower = name.to_ascii_lowercase();
        if lower.ends_with(".jsonl") {
            self.lines(BufReader::new(file), path, name)
        } else if lower.ends_with(".jsonl.gz") {
            let file = flate2::read::MultiGzDecoder::new(BufReader::new(file));
            self.lines(BufReader::new(file), path, name)
        } else if lower.ends_with(".jsonl.zst") {
            let file = zstd::Decoder::new(file).map_err(io_error(path, "read"))?;
            self.lines(BufReader::new(file), path, name)
        } else if lower.ends_with(".tar.gz") || lower.ends_with(".tgz") {
            self.archive(flate2::read::MultiGzDecoder::new(BufReader::new(file)), path)
        } else {
            let bytes = self.bounded(file).map_err(io_error(path, "read"))?;
            self.bytes(name, bytes)
        }
    }

    fn archive(&mut self, stream: impl Read, path: &Path) -> Result<()> {
        let broken = || io_error(path, "read the archive");
        for entry in tar::Archive::new(stream).entries().map_err(broken())? {
            let entry = entry.map_err(broken())?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if self.wanted(&name) {
                let bytes = self.bounded(entry).map_err(broken())?;
                self.bytes(&name, bytes)?;
            }
        }
        Ok(())
    }

    fn lines(&mut self, mut lines: impl BufRead, path: &Path, name: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Line {
            text: Option<String>,
            content: Option<String>,
        }
        // JSON may spell a byte with six: \u0041.
        let limit = self.options.max_document_bytes.saturating_mul(6).saturating_add(1 << 16);
        for number in 1.. {
            let mut line = vec![];
            let read = (&mut lines).take(limit as u64).read_until(b'\n', &mut line);
            if read.map_err(io_error(path, "read"))? == 0 {
                break;
            }
            if line.len() == limit && !line.ends_with(b"\n") {
                lines.skip_until(b'\n').map_err(io_error(path, "read"))?;
                self.skipped.too_large += 1;
                continue;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let reason = match serde_json::from_slice(&line) {
                Ok(Line { text: Some(text), .. } | Line { content: Some(text), .. }) => {
                    self.text(&format!("{name}#{number}"), text)?;
                    continue;
                }
                Ok(_) => "an object with a string \"text\" or \"content\" is expected".to_owned(),
                Err(error) => format!("a JSON object is expected ({error})"),
            };
            let reason = format!("line {number}: {reason}");
            return Err(Error::Corpus { path: path.to_owned(), reason });
        }
        Ok(())
    }

    /// Reads one byte more than is allowed, so that too much shows.
    fn bounded(&self, from: impl Read) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![];
        from.take(self.options.max_document_bytes as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        if bytes.len() > self.options.max_document_bytes {
            self.skipped.too_large += 1;
        } else if bytes.contains(&0) {
            self.skipped.binary += 1;
        } else if let Ok(text) = String::from_utf8(bytes) {
            return self.text(name, text);
        } else {
            self.skipped.not_utf8 += 1;
        }
        Ok(())
    }

    fn text(&mut self, name: &str, text: String) -> Result<()> {
        if text.is_empty() {
            self.skipped.empty += 1;
            return Ok(());
        }
        if text.len() > self.options.max_document_bytes {
            self.skipped.too_large += 1;
            return Ok(());
        }
        self.documents += 1;
        (self.take)(Document { path: name.to_owned(), text })
    }

    fn wanted(&mut self, name: &str) -> bool {
        let Self { options, skipped, .. } = self;
        let ending = |extension: &String| {
            name.strip_suffix(extension.as_str()).is_some_and(|stem| stem.ends_with('.'))
        };
        let wanted = options.extensions.is_empty() || options.extensions.iter().any(ending);
        skipped.other_extension += usize::from(!wanted);
        wanted
    }
}
