//! Windows on disk: one format, mapped, checked before use.
//!
//! A folder holds `shard-00000.bin`, `shard-00001.bin`, … and, written last, `manifest.json`: a
//! folder without it is not a dataset. Numbers are little-endian. A shard is
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `lacunash` |
//! | 8..12, 12..16 | version 1; bytes a token, 2 or 4 |
//! | 16..24, 24..32 | tokens; tokens a window (divides the former) |
//! | 32..40, 40..44 | document starts; vocabulary size |
//! | 44..48 | 1 where eligibility flags follow, else 0 |
//! | 48..64 | zero |
//! | 64..96 | blake3 of everything behind the header |
//! | 96..128 | blake3 of bytes 0..96 |
//! | 128.. | tokens; document starts, u64 each, ascending; flags, one bit a token, low bit first |

use crate::dataset::{Window, check_ids};
use crate::error::{Error, Result, io_error};
use crate::packing::{Packed, Packer, Remainder, Sample, lengths};
use lacuna_files::WholeFile;
use memmap2::Mmap;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

mod manifest;

pub use manifest::{Manifest, ShardEntry};

const MAGIC: &[u8; 8] = b"lacunash";
const VERSION: u32 = 1;
const HEADER: usize = 128;
/// What is hashed between two reports.
const PIECE: usize = 16 << 20;
/// Where the header's own hash begins.
const SEAL: usize = 96;

/// How a folder of shards is written.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// How many tokens every window holds.
    pub window_len: NonZeroUsize,
    /// What becomes of the last tokens.
    pub remainder: Remainder,
    /// All ids are below this.
    pub vocab_size: usize,
    /// [`Tokenizer::fingerprint`](crate::Tokenizer::fingerprint).
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
        std::fs::create_dir_all(&folder).map_err(io_error(&folder, "make the folder"))?;
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
                let _ = std::fs::remove_file(shard_path(&self.folder, number));
            }
        }
    }
}

fn manifest_path(folder: &Path) -> PathBuf {
    folder.join("manifest.json")
}

fn shard_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("shard-{number:05}.bin"))
}

fn width_of(vocab_size: usize) -> usize {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
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

/// One mapped shard whose header and sizes have been checked.
#[derive(Debug)]
pub(crate) struct Shard {
    name: String,
    map: Mmap,
    width: usize,
    tokens: usize,
    window_len: usize,
    vocab_size: usize,
    starts: usize,
    flagged: bool,
}

impl Shard {
    pub(crate) fn open(folder: &Path, number: usize, manifest: &Manifest) -> Result<Self> {
        let path = shard_path(folder, number);
        let map = map(&path)?;
        let name = format!("shard {number} ({})", path.display());
        let fail = |reason| Error::Shard { shard: name.clone(), reason };
        let shard = Self::parse(map, name.clone()).map_err(fail)?;
        let entry = &manifest.shards[number];
        let said = (manifest.vocab_size, manifest.window_len.get(), entry.windows);
        let held = (shard.vocab_size, shard.window_len, shard.windows());
        if said != held {
            return Err(fail(format!(
                "the manifest says (vocabulary, window, windows) {said:?}, the header {held:?}"
            )));
        }
        if blake3::Hash::from_hex(&entry.blake3).ok() != Some(shard.body_hash()) {
            return Err(fail("its hash is not the manifest's: files of two packings".to_owned()));
        }
        Ok(shard)
    }

    fn parse(map: Mmap, name: String) -> Result<Self, String> {
        let held = map.len();
        if held < HEADER {
            return Err(format!("a header of {HEADER} bytes is expected, file holds {held} bytes"));
        }
        if &map[..8] != MAGIC {
            return Err("not a lacuna shard: it does not begin with \"lacunash\"".to_owned());
        }
        if blake3::hash(&map[..SEAL]).as_bytes() != &map[SEAL..HEADER] {
            return Err("the header is damaged: it does not match its own hash".to_owned());
        }
        let u32_at = |at: usize| u64::from(u32::from_le_bytes(array(&map[at..])));
        let u64_at = |at: usize| u64::from_le_bytes(array(&map[at..]));
        let (version, width) = (u32_at(8), u32_at(12));
        let (tokens, window_len, starts) = (u64_at(16), u64_at(24), u64_at(32));
        let (vocab_size, flags) = (u32_at(40), u32_at(44));
        if version != u64::from(VERSION) {
            return Err(format!("version {version}, this program reads {VERSION}"));
        }
        if !matches!(width, 2 | 4) || flags > 1 {
            return Err(format!("{width} bytes a token and flags {flags}: no such format"));
        }
        if window_len == 0 || !tokens.is_multiple_of(window_len) || starts > tokens {
            return Err(format!(
                "{tokens} tokens and {starts} documents do not fit windows of {window_len}"
            ));
        }
        let expected = || {
            let token_bytes = tokens.checked_mul(width)?;
            let behind = starts.checked_mul(8)?.checked_add(tokens.div_ceil(8) * flags)?;
            Some((token_bytes.checked_add(HEADER as u64)?, behind))
        };
        let (tokens_end, behind) = expected().ok_or("sizes beyond any file")?;
        if (held as u64) < tokens_end {
            let there = (held - HEADER) as u64 / width;
            return Err(format!("header says {tokens} tokens, file holds {there}"));
        }
        if Some(held as u64) != tokens_end.checked_add(behind) {
            let there = held as u64 - tokens_end;
            return Err(format!(
                "header says {behind} bytes of document starts and flags, file holds {there}"
            ));
        }
        let shard = Self {
            name,
            map,
            width: width as usize,
            tokens: tokens as usize,
            window_len: window_len as usize,
            vocab_size: vocab_size as usize,
            starts: starts as usize,
            flagged: flags == 1,
        };
        let ascending = |index: usize| shard.start(index - 1) < shard.start(index);
        let inside = starts == 0 || shard.start(shard.starts - 1) < tokens;
        if !(inside && (1..shard.starts).all(ascending)) {
            return Err("document starts are not ascending and inside the shard".to_owned());
        }
        Ok(shard)
    }

    pub(crate) fn windows(&self) -> usize {
        self.tokens / self.window_len
    }

    pub(crate) fn window(&self, index: usize) -> Result<Window> {
        let begin = index * self.window_len;
        let end = begin + self.window_len;
        let tokens = self.ids(begin, end);
        check_ids(&tokens, self.vocab_size)
            .map_err(|reason| self.error(format!("window {index}: {reason}")))?;
        let eligible = (begin..end).map(|at| self.eligible(at)).collect();
        // The first start behind the window's begin.
        let (mut low, mut high) = (0, self.starts);
        while low < high {
            let middle = low.midpoint(high);
            if self.start(middle) <= begin as u64 { low = middle + 1 } else { high = middle }
        }
        let inside =
            (low..self.starts).map(|at| self.start(at) as usize).take_while(|&start| start < end);
        Ok(Window { tokens, eligible, documents: lengths(begin, end, inside) })
    }

    /// Everything behind the header against the header's hash, and every id.
    pub(crate) fn verify(&self, read: &mut dyn FnMut(u64)) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        for chunk in self.map[HEADER..].chunks(PIECE) {
            hasher.update(chunk);
            read(chunk.len() as u64);
        }
        if hasher.finalize() != self.body_hash() {
            return Err(self.error("its contents do not match its hash; pack it again".to_owned()));
        }
        for (index, begin) in (0..self.tokens).step_by(self.window_len).enumerate() {
            check_ids(&self.ids(begin, begin + self.window_len), self.vocab_size)
                .map_err(|reason| self.error(format!("window {index}: {reason}")))?;
        }
        Ok(())
    }

    /// Bytes that [`verify`](Self::verify) reads.
    pub(crate) fn body_bytes(&self) -> u64 {
        (self.map.len() - HEADER) as u64
    }

    fn body_hash(&self) -> blake3::Hash {
        blake3::Hash::from_bytes(array(&self.map[64..]))
    }

    fn ids(&self, begin: usize, end: usize) -> Vec<u32> {
        let bytes = &self.map[HEADER + begin * self.width..HEADER + end * self.width];
        match self.width {
            2 => bytes.chunks_exact(2).map(|b| u16::from_le_bytes(array(b)).into()).collect(),
            _ => bytes.chunks_exact(4).map(|b| u32::from_le_bytes(array(b))).collect(),
        }
    }

    fn start(&self, index: usize) -> u64 {
        u64::from_le_bytes(array(&self.map[HEADER + self.tokens * self.width + index * 8..]))
    }

    fn eligible(&self, at: usize) -> bool {
        let flags = HEADER + self.tokens * self.width + self.starts * 8;
        !self.flagged || self.map[flags + at / 8] >> (at % 8) & 1 == 1
    }

    fn error(&self, reason: String) -> Error {
        Error::Shard { shard: self.name.clone(), reason }
    }
}

/// The first `N` bytes. The callers have checked that they are there.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("lengths are checked when the shard is opened")
}

fn map(path: &Path) -> Result<Mmap> {
    let file = lacuna_files::open_regular(path)?;
    let length = file.metadata().map_err(io_error(path, "read"))?.len();
    if length == 0 {
        let empty = io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty");
        return Err(io_error(path, "read")(empty));
    }
    // SAFETY: the map is only ever read, as bytes of which any value is valid. Shards are written
    // to a temporary name and never changed under their own, so nothing of ours shortens the file;
    // should a stranger do so while it is mapped, the system ends the process.
    unsafe { Mmap::map(&file) }.map_err(io_error(path, "map"))
}
