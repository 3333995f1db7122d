//! Writes documents into a new folder of shards.

use super::{HEADER, MAGIC, Manifest, ShardEntry, VERSION, manifest_path, shard_path, width_of};
use crate::error::{Error, Result, io_error};
use crate::packing::{Packed, Packer, Remainder, Sample};
use crate::window::check_ids;
use lacuna_files::WholeFile;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Settings by which a folder of shards is written.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// The number of tokens that every window holds.
    pub window_len: NonZeroUsize,
    /// The fate of the last tokens.
    pub remainder: Remainder,
    /// All ids are below this.
    pub vocab_size: usize,
    /// [`Tokenizer::fingerprint`](lacuna_text::Tokenizer::fingerprint).
    pub tokenizer: String,
    /// A shard is written when it holds this many tokens, rounded down to whole windows (at least
    /// one). 2^25 makes files of 64 MiB with 16-bit tokens.
    pub shard_tokens: usize,
}

/// Packs documents into a new folder of shards.
///
/// Until [`finish`](Self::finish) has written the manifest, the folder is no dataset; a writer
/// dropped before that takes its shards away again.
#[derive(Debug)]
pub struct ShardWriter {
    folder: PathBuf,
    options: ShardOptions,
    packer: Packer,
    entries: Vec<ShardEntry>,
    documents: usize,
    text_bytes: u64,
    finished: bool,
}

impl ShardWriter {
    /// Makes the folder, which must not hold a dataset yet.
    ///
    /// # Errors
    /// When it cannot be made or holds a manifest.
    pub fn create(folder: impl AsRef<Path>, options: ShardOptions) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        lacuna_files::create_folder(&folder)
            .map_err(|error| io_error(&folder, "make the folder")(error.into_source()))?;
        if manifest_path(&folder).exists() {
            return Err(Error::Packing(format!(
                "{} already holds shards; remove it or name another folder",
                folder.display()
            )));
        }
        let packer = Packer::new(options.window_len, options.remainder);
        let (entries, documents, text_bytes, finished) = (vec![], 0, 0, false);
        Ok(Self { folder, options, packer, entries, documents, text_bytes, finished })
    }

    /// Adds a document of `text_bytes` bytes and its end token.
    ///
    /// # Errors
    /// When an id is outside the vocabulary or a full shard cannot be written.
    pub fn push(&mut self, tokens: &[u32], eos: u32, text_bytes: usize) -> Result<()> {
        self.check(tokens)?;
        self.check(&[eos])?;
        self.packer.push(tokens, eos);
        self.count(text_bytes)
    }

    /// Adds a conversation of `text_bytes` bytes.
    ///
    /// # Errors
    /// As [`push`](Self::push), and as [`Packer::push_sample`].
    pub fn push_sample(&mut self, sample: &Sample, text_bytes: usize) -> Result<()> {
        self.check(&sample.tokens)?;
        self.packer.push_sample(sample)?;
        self.count(text_bytes)
    }

    /// Deals with the remainder, writes the last shard and the manifest.
    ///
    /// # Errors
    /// When a file cannot be written, or when there is not a single window.
    pub fn finish(mut self) -> Result<Manifest> {
        let packer = Packer::new(self.options.window_len, self.options.remainder);
        let tokens = self.packer.tokens();
        let rest = std::mem::replace(&mut self.packer, packer).finish();
        let padding = rest.padding();
        if rest.windows() > 0 {
            self.write(&rest)?;
        }
        if self.entries.is_empty() {
            return Err(Error::Packing(format!(
                "{tokens} tokens do not fill one window of {}; add text or shorten the window",
                self.options.window_len
            )));
        }
        let manifest = Manifest {
            format: "lacuna-shards".to_owned(),
            version: VERSION,
            tokenizer: self.options.tokenizer.clone(),
            vocab_size: self.options.vocab_size,
            window_len: self.options.window_len,
            windows: self.entries.iter().map(|entry| entry.windows).sum(),
            documents: self.documents,
            padding,
            text_bytes: self.text_bytes,
            shards: std::mem::take(&mut self.entries),
        };
        let mut text = serde_json::to_string_pretty(&manifest).expect("text and numbers serialize");
        text.push('\n');
        let written = lacuna_files::write_file(&manifest_path(&self.folder), text.as_bytes());
        self.finished = written.is_ok();
        self.entries = if self.finished { vec![] } else { manifest.shards.clone() };
        written?;
        Ok(manifest)
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let document = self.documents;
        check_ids(tokens, self.options.vocab_size)
            .map_err(|reason| Error::Packing(format!("document {document}: {reason}")))
    }

    fn count(&mut self, text_bytes: usize) -> Result<()> {
        self.documents += 1;
        self.text_bytes += text_bytes as u64;
        let windows = (self.options.shard_tokens / self.options.window_len.get()).max(1);
        while self.packer.tokens() / self.options.window_len.get() >= windows {
            let full = self.packer.take_full(windows);
            self.write(&full)?;
        }
        Ok(())
    }

    fn write(&mut self, packed: &Packed) -> Result<()> {
        let path = shard_path(&self.folder, self.entries.len());
        let body = body(packed, width_of(self.options.vocab_size));
        let hash = blake3::hash(&body);
        let header = header(packed, self.options.vocab_size, hash);
        let mut file = WholeFile::beside(&path)?;
        file.write(&header)?;
        file.write(&body)?;
        file.publish()?;
        let blake3 = hash.to_hex().to_string();
        self.entries.push(ShardEntry { windows: packed.windows(), blake3 });
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if !self.finished {
            for number in 0..self.entries.len() {
                // Nothing more can be done about a file that will not go.
                let _ = lacuna_files::remove_file(&shard_path(&self.folder, number));
            }
        }
    }
}

fn header(packed: &Packed, vocab_size: usize, body: blake3::Hash) -> [u8; HEADER] {
    let mut fields = vec![];
    let mut put = |bytes: &[u8]| fields.extend_from_slice(bytes);
    put(MAGIC);
    put(&VERSION.to_le_bytes());
    put(&(width_of(vocab_size) as u32).to_le_bytes());
    put(&(packed.stream.tokens.len() as u64).to_le_bytes());
    put(&(packed.window_len().get() as u64).to_le_bytes());
    put(&(packed.stream.starts.len() as u64).to_le_bytes());
    put(&(vocab_size as u32).to_le_bytes());
    put(&u32::from(packed.stream.eligible.is_some()).to_le_bytes());
    put(&[0; 16]);
    put(body.as_bytes());
    let seal = blake3::hash(&fields);
    fields.extend_from_slice(seal.as_bytes());
    fields.try_into().expect("the fields fill the header")
}

fn body(packed: &Packed, width: usize) -> Vec<u8> {
    let stream = &packed.stream;
    let size = stream.tokens.len() * width + stream.starts.len() * 8 + stream.tokens.len() / 8 + 1;
    let mut body = Vec::with_capacity(size);
    for token in &stream.tokens {
        body.extend_from_slice(&token.to_le_bytes()[..width]);
    }
    for &start in &stream.starts {
        body.extend_from_slice(&(start as u64).to_le_bytes());
    }
    for flags in stream.eligible.iter().flat_map(|flags| flags.chunks(8)) {
        body.push(flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u8::from(flag)));
    }
    body
}
