//! Keeps windows on disk in one format, which is mapped and checked before use.
//!
//! A folder holds `shard-00000.bin`, `shard-00001.bin`, … and, written last, `manifest.json`: a
//! folder without it is not a dataset. The manifest ends with a hash of itself. Numbers are little-endian. A shard is
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

use crate::error::{Error, Result, io_error};
use crate::window::{Window, check_ids, lengths};
use lacuna_files::MappedFile;
use std::io;
use std::path::{Path, PathBuf};

mod folders;
mod manifest;
mod writer;

pub use folders::ShardFolders;
pub use manifest::{Manifest, ShardEntry};
pub use writer::{ShardOptions, ShardWriter};

const MAGIC: &[u8; 8] = b"lacunash";
const VERSION: u32 = 1;
const HEADER: usize = 128;
/// The bytes that are hashed between two reports.
const PIECE: usize = 16 << 20;
/// The offset at which the header's own hash begins.
const SEAL: usize = 96;

fn manifest_path(folder: &Path) -> PathBuf {
    folder.join("manifest.json")
}

fn shard_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("shard-{number:05}.bin"))
}

fn width_of(vocab_size: usize) -> usize {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

/// One mapped shard whose header and sizes have been checked.
#[derive(Debug)]
pub(crate) struct Shard {
    name: String,
    map: MappedFile,
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

    fn parse(map: MappedFile, name: String) -> Result<Self, String> {
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

fn map(path: &Path) -> Result<MappedFile> {
    // Shards are written to a temporary name and never changed under their own, so nothing of ours shortens the file.
    let map = MappedFile::open(path)?;
    if map.bytes().is_empty() {
        let empty = io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty");
        return Err(io_error(path, "read")(empty));
    }
    Ok(map)
}
