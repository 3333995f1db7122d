//! Writes documents into a new folder of shards.

use super::{HEADER, MAGIC, Manifest, ShardEntry, VERSION, manifest_path, shard_path, width_of};
use crate::error::{Error, Result, io_error};
use crate::packing::{Packed, Packer, Remainder, Sample, Stream};
use crate::window::check_ids;
use lacuna_files::WholeFile;
use std::collections::BTreeSet;
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
/// Tokens go to the disk as they come: what is kept in memory is a few windows, and of the open shard the places where
/// its documents begin. Until [`finish`](Self::finish) has written the manifest, the folder is no dataset; a writer
/// dropped before that takes its shards away again.
#[derive(Debug)]
pub struct ShardWriter {
    folder: PathBuf,
    options: ShardOptions,
    packer: Packer,
    open: Option<OpenShard>,
    entries: Vec<ShardEntry>,
    documents: usize,
    text_bytes: u64,
    /// The end tokens of the documents.
    ends: BTreeSet<u32>,
    passed_over: Vec<String>,
    finished: bool,
}

/// The tokens that wait in memory before they are written, at least a window and at most a shard.
const WAITING: usize = 1 << 16;

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
        Ok(Self {
            folder,
            options,
            packer,
            open: None,
            entries: vec![],
            documents: 0,
            text_bytes: 0,
            ends: BTreeSet::new(),
            passed_over: vec![],
            finished: false,
        })
    }

    /// Adds a document of `text_bytes` bytes and its end token.
    ///
    /// # Errors
    /// When an id is outside the vocabulary or the disk refuses.
    pub fn push(&mut self, tokens: &[u32], eos: u32, text_bytes: usize) -> Result<()> {
        self.check(tokens)?;
        self.check(&[eos])?;
        self.ends.insert(eos);
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

    /// Fills the window that is begun with padding, so that what comes next begins a window.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn fill_window(&mut self, pad: u32) -> Result<()> {
        self.packer.fill_window(pad);
        self.flow(WAITING.min(self.options.shard_tokens))
    }

    /// Lets the manifest say what of the corpus was passed over, a line each.
    pub(crate) fn note_passed_over(&mut self, lines: impl Iterator<Item = String>) {
        self.passed_over = lines.collect();
    }

    /// Deals with the remainder, writes the last shard and the manifest.
    ///
    /// # Errors
    /// When a file cannot be written, or when there is not a single window.
    pub fn finish(mut self) -> Result<Manifest> {
        let tokens = self.packer.tokens();
        self.flow(1)?;
        let packer = Packer::new(self.options.window_len, self.options.remainder);
        let rest = std::mem::replace(&mut self.packer, packer).finish();
        let padding = rest.padding();
        if rest.windows() > 0 {
            self.append(&rest)?;
        }
        self.close()?;
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
            document_end: self.ends.first().copied().filter(|_| self.ends.len() == 1),
            passed_over: std::mem::take(&mut self.passed_over),
            shards: std::mem::take(&mut self.entries),
        };
        let text = lacuna_files::sealed(&manifest);
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
        self.flow(WAITING.min(self.options.shard_tokens))
    }

    /// Writes all whole windows, if at least so many tokens wait.
    fn flow(&mut self, least: usize) -> Result<()> {
        let window = self.options.window_len.get();
        if self.packer.tokens() < least.max(window) {
            return Ok(());
        }
        let most = (self.options.shard_tokens / window).max(1);
        while self.packer.tokens() >= window {
            let there = self.open.as_ref().map_or(0, |open| open.tokens / window);
            let full = self.packer.take_full(most - there);
            self.append(&full)?;
            if there + full.windows() == most {
                self.close()?;
            }
        }
        Ok(())
    }

    fn append(&mut self, packed: &Packed) -> Result<()> {
        if self.open.is_none() {
            let path = shard_path(&self.folder, self.entries.len());
            self.open = Some(OpenShard::create(&path, width_of(self.options.vocab_size))?);
        }
        self.open.as_mut().expect("opened above").append(&packed.stream)
    }

    /// Gives the open shard its name.
    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let windows = open.tokens / self.options.window_len.get();
        let blake3 = open.publish(self.options.window_len, self.options.vocab_size)?;
        self.entries.push(ShardEntry { windows, blake3 });
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

/// A shard that is being written: its tokens are on their way to the disk, the rest follows them.
struct OpenShard {
    file: WholeFile,
    hasher: blake3::Hasher,
    width: usize,
    tokens: usize,
    starts: Vec<u64>,
    flags: Option<Flags>,
}

impl std::fmt::Debug for OpenShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenShard").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl OpenShard {
    fn create(path: &Path, width: usize) -> Result<Self> {
        let mut file = WholeFile::beside(path)?;
        file.write(&[0; HEADER])?;
        let hasher = blake3::Hasher::new();
        Ok(Self { file, hasher, width, tokens: 0, starts: vec![], flags: None })
    }

    fn append(&mut self, stream: &Stream) -> Result<()> {
        let mut bytes = Vec::with_capacity(stream.tokens.len() * self.width);
        for token in &stream.tokens {
            bytes.extend_from_slice(&token.to_le_bytes()[..self.width]);
        }
        self.write(&bytes)?;
        self.starts.extend(stream.starts.iter().map(|&start| (self.tokens + start) as u64));
        if stream.eligible.is_some() && self.flags.is_none() {
            let mut flags = Flags::default();
            flags.extend(std::iter::repeat_n(true, self.tokens));
            self.flags = Some(flags);
        }
        match (&mut self.flags, &stream.eligible) {
            (Some(flags), Some(eligible)) => flags.extend(eligible.iter().copied()),
            (Some(flags), None) => flags.extend(std::iter::repeat_n(true, stream.tokens.len())),
            (None, _) => {}
        }
        self.tokens += stream.tokens.len();
        Ok(())
    }

    /// Writes what follows the tokens and then the header; returns the hash of everything behind it.
    fn publish(mut self, window_len: NonZeroUsize, vocab_size: usize) -> Result<String> {
        let starts: Vec<u8> = self.starts.iter().flat_map(|start| start.to_le_bytes()).collect();
        self.write(&starts)?;
        let flagged = self.flags.is_some();
        if let Some(flags) = self.flags.take() {
            self.write(&flags.bytes)?;
        }
        let hash = self.hasher.finalize();
        let header = self.header(flagged, window_len, vocab_size, hash);
        self.file.overwrite(0, &header)?;
        self.file.publish()?;
        Ok(hash.to_hex().to_string())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        Ok(self.file.write(bytes)?)
    }

    fn header(
        &self,
        flagged: bool,
        window_len: NonZeroUsize,
        vocab_size: usize,
        body: blake3::Hash,
    ) -> [u8; HEADER] {
        let mut fields = vec![];
        let mut put = |bytes: &[u8]| fields.extend_from_slice(bytes);
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&(self.width as u32).to_le_bytes());
        put(&(self.tokens as u64).to_le_bytes());
        put(&(window_len.get() as u64).to_le_bytes());
        put(&(self.starts.len() as u64).to_le_bytes());
        put(&(vocab_size as u32).to_le_bytes());
        put(&u32::from(flagged).to_le_bytes());
        put(&[0; 16]);
        put(body.as_bytes());
        let seal = blake3::hash(&fields);
        fields.extend_from_slice(seal.as_bytes());
        fields.try_into().expect("the fields fill the header")
    }
}

/// One bit a token, the low bit first.
#[derive(Default)]
struct Flags {
    bytes: Vec<u8>,
    len: usize,
}

impl Flags {
    fn extend(&mut self, flags: impl Iterator<Item = bool>) {
        for flag in flags {
            if self.len.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("pushed above");
            *last |= u8::from(flag) << (self.len % 8);
            self.len += 1;
        }
    }
}
