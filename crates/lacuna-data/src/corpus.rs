//! Reads documents from source trees, text files, JSON lines, Parquet files and archives.

use crate::error::{Error, Result};
use languages::Choice;
use std::path::Path;

mod fields;
mod filters;
mod fingerprint;
mod languages;
mod listing;
mod reader;
mod skipped;

pub(crate) use fingerprint::fingerprint;
pub use languages::languages;
pub use skipped::{Reason, Skipped};

/// One text of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The place where it was found, relative to the input that held it, with forward slashes. A
    /// JSON line is `file.jsonl#12`, counted from 1, and so is an element of a JSON array and a row of a Parquet file.
    pub path: String,
    /// The text, unchanged.
    pub text: String,
    /// True if it is a record among others in one file. A record has no name that stays with it, so its text decides
    /// whether it is held out.
    pub is_record: bool,
}

impl Document {
    /// Tells whether it belongs to the held-out part, which takes about `fraction` of the documents: a file by its
    /// path, a record by its text. So the same records are held out whatever file they stand in, in whatever order.
    pub fn is_held_out(&self, fraction: f64) -> bool {
        is_held_out(if self.is_record { &self.text } else { &self.path }, fraction)
    }
}

/// Rules by which a corpus reader takes a file or passes over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusOptions {
    /// File name endings to take from folders and archives, without the dot; empty takes all. An
    /// input named itself is taken whatever its name.
    pub extensions: Vec<String>,
    /// Languages to take from folders and archives, of [`languages`], by the endings and names of their files; empty
    /// takes all. Files with one of the `extensions` are taken as well.
    pub languages: Vec<String>,
    /// Larger files of folders, members of archives and JSON lines are passed over, and counted. A
    /// file named itself is taken whatever its size.
    pub max_document_bytes: usize,
    /// The fields of a JSON line that may hold its text: the first that does counts.
    pub text_fields: Vec<String>,
    /// True if texts that hold a zero byte are taken.
    pub take_binary: bool,
    /// True if files and folders are taken whose names begin with a dot.
    pub take_hidden: bool,
    /// True if files and folders are taken that a `.gitignore` or `.ignore` names.
    pub take_ignored: bool,
    /// True if a text is taken as often as it comes. Else the first of equal texts is taken, for which 16 bytes of
    /// each text's hash are kept in memory.
    pub take_duplicates: bool,
    /// True if texts are passed over that say in their first lines that a program wrote them.
    pub skip_generated: bool,
    /// True if texts are passed over whose lines are longer than people write (1000 characters, or 100 in the mean),
    /// or of which less than a quarter is letters and digits.
    pub skip_minified: bool,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self {
            extensions: vec![],
            max_document_bytes: 1 << 20,
            text_fields: vec!["text".to_owned(), "content".to_owned()],
            take_binary: false,
            take_hidden: false,
            take_ignored: false,
            take_duplicates: false,
            languages: vec![],
            skip_generated: false,
            skip_minified: false,
        }
    }
}

/// Progress in reading a corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Files read to their end.
    pub files: usize,
    /// Files in all.
    pub files_total: usize,
    /// Bytes read, as they lie on the disk.
    pub bytes: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

/// Documents in memory, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    /// Sorted by path within each input; inputs in the order given.
    pub documents: Vec<Document>,
    /// The things that were passed over.
    pub skipped: Skipped,
}

impl Corpus {
    /// Reads all inputs into memory.
    ///
    /// # Errors
    /// As [`for_each_document`].
    pub fn read(inputs: &[impl AsRef<Path>], options: &CorpusOptions) -> Result<Self> {
        Self::read_with(inputs, options, &mut |_| {})
    }

    /// As [`read`](Self::read), and tells `progress` how far it is.
    ///
    /// # Errors
    /// As [`for_each_document`].
    pub fn read_with(
        inputs: &[impl AsRef<Path>],
        options: &CorpusOptions,
        progress: &mut dyn FnMut(Reading),
    ) -> Result<Self> {
        let mut documents = vec![];
        let skipped = for_each_document(inputs, options, progress, |document| {
            documents.push(document);
            Ok(())
        })?;
        Ok(Self { documents, skipped })
    }

    /// Splits into training and held-out documents by [`Document::is_held_out`].
    pub fn split(self, fraction: f64) -> (Vec<Document>, Vec<Document>) {
        self.documents.into_iter().partition(|document| !document.is_held_out(fraction))
    }

    /// The bytes of all texts together.
    pub fn text_bytes(&self) -> u64 {
        self.documents.iter().map(|document| document.text.len() as u64).sum()
    }

    /// A BLAKE3 hash of every path and text in their order: equal for corpora that train alike.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for Document { path, text, .. } in &self.documents {
            for part in [path, text] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
        }
        hasher.finalize()
    }
}

/// Tells whether the document that `name` stands for belongs to the held-out part, which takes about `fraction` of the
/// documents. The name of a file is its path, that of a record its text ([`Document::is_held_out`]).
///
/// Decided by the name's hash alone: adding or removing other documents moves nothing, and a larger
/// fraction keeps all that a smaller one held out.
pub fn is_held_out(name: &str, fraction: f64) -> bool {
    is_hash_held_out(blake3::hash(name.as_bytes()), fraction)
}

/// As [`is_held_out`], for what is named by a hash already.
pub(crate) fn is_hash_held_out(hash: blake3::Hash, fraction: f64) -> bool {
    let bytes = hash.as_bytes().first_chunk().expect("a hash of 32 bytes");
    (u64::from_le_bytes(*bytes) as f64) < fraction * 2f64.powi(64)
}

/// Hands every document of the inputs to `take`, one at a time, in a fixed order, and tells `progress`
/// how far the reading is.
///
/// An input is a folder (walked in order of names, links followed; hidden files and what its ignore
/// files name are left out), JSON records, or any other file, taken as one text. Records are
/// `.jsonl`, `.ndjson` (one object a line) and `.json` files that hold an array of objects or an
/// object a line; the text stands in one of [`CorpusOptions::text_fields`]. They may be compressed
/// (`.gz`, `.zst`). Rows of `.parquet` files are records too. Archives are `.tar`, `.tar.gz`, `.tgz` and `.tar.zst`.
///
/// Of equal texts the first is taken, unless [`CorpusOptions::take_duplicates`] says otherwise: so no text can be in
/// both parts of a split corpus.
///
/// A thing that can't be used is passed over, counted and named: files, members of archives, lines.
///
/// # Errors
/// When an input is missing, unreadable or damaged, none of its records has a text, `take` fails, or
/// there is not a single document.
pub fn for_each_document(
    inputs: &[impl AsRef<Path>],
    options: &CorpusOptions,
    progress: &mut dyn FnMut(Reading),
    take: impl FnMut(Document) -> Result<()>,
) -> Result<Skipped> {
    let choice = Choice::new(&options.extensions, &options.languages)?;
    let mut skipped = Skipped::with_limit(options.max_document_bytes);
    let mut files = vec![];
    for input in inputs {
        files.extend(listing::list(input.as_ref(), (options, &choice), &mut skipped)?);
    }
    let (skipped, documents) = reader::read(&files, (options, &choice), skipped, progress, take)?;
    if documents == 0 {
        let inputs: Vec<_> = inputs.iter().map(|p| p.as_ref().display().to_string()).collect();
        return Err(Error::EmptyCorpus {
            inputs: if inputs.is_empty() { "no inputs".to_owned() } else { inputs.join(", ") },
            skipped: skipped.to_string(),
        });
    }
    Ok(skipped)
}
