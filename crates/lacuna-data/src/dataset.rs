//! Holds windows to train on, in memory or in mapped shards.

use crate::error::{Error, Result};
use crate::packing::Packed;
use crate::shard::{Manifest, Shard};
use crate::window::{Window, check_ids};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

/// Windows to train on or to score, in memory or in mapped shards. A clone shares them.
#[derive(Debug, Clone)]
pub struct Dataset {
    store: Store,
    window_len: NonZeroUsize,
    vocab_size: usize,
    windows: usize,
}

#[derive(Debug, Clone)]
enum Store {
    Memory(Arc<Packed>),
    /// Each with the number of its first window.
    Shards(Arc<(Vec<(usize, Shard)>, Manifest)>),
    /// Each with the number of its first window.
    Joined(Vec<(usize, Dataset)>),
}

impl Dataset {
    /// Windows in memory, with ids below `vocab_size`.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub fn from_packed(packed: Packed, vocab_size: usize) -> Result<Self> {
        check_ids(&packed.stream.tokens, vocab_size)
            .map_err(|reason| Error::Packing(format!("packed windows: {reason}")))?;
        let (window_len, windows) = (packed.window_len(), packed.windows());
        Ok(Self { store: Store::Memory(Arc::new(packed)), window_len, vocab_size, windows })
    }

    /// Opens a folder of shards that [`ShardWriter`](crate::ShardWriter) wrote, without reading it
    /// through. Sizes and headers are checked here, ids as windows are read, contents by
    /// [`verify`](Self::verify).
    ///
    /// # Errors
    /// When the manifest or a shard is missing, cut short, or disagrees with the other.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let manifest = Manifest::read(folder.as_ref())?;
        let mut shards = vec![];
        let mut windows = 0;
        for number in 0..manifest.shards.len() {
            let shard = Shard::open(folder.as_ref(), number, &manifest)?;
            let first = windows;
            windows += shard.windows();
            shards.push((first, shard));
        }
        let (window_len, vocab_size) = (manifest.window_len, manifest.vocab_size);
        Ok(Self {
            store: Store::Shards(Arc::new((shards, manifest))),
            window_len,
            vocab_size,
            windows,
        })
    }

    /// The windows of several datasets, one after the other.
    ///
    /// # Errors
    /// When there is none, or their windows differ in length.
    pub fn joined(parts: Vec<Self>) -> Result<Self> {
        let lengths = || parts.iter().map(Self::window_len);
        let Some(window_len) = lengths().next() else {
            return Err(Error::Packing("no dataset to join".to_owned()));
        };
        if let Some(other) = lengths().find(|len| *len != window_len) {
            return Err(Error::Packing(format!(
                "windows of {window_len} and of {other} tokens cannot be mixed; pack them with one --window"
            )));
        }
        let vocab_size = parts.iter().map(Self::vocab_size).max().unwrap_or(0);
        let mut windows = 0;
        let with_first = |part: Self| {
            let first = windows;
            windows += part.windows();
            (first, part)
        };
        let parts = parts.into_iter().map(with_first).collect();
        Ok(Self { store: Store::Joined(parts), window_len, vocab_size, windows })
    }

    /// The datasets that were joined to this one; itself, if it was not joined.
    pub fn parts(&self) -> Vec<&Self> {
        match &self.store {
            Store::Joined(parts) => parts.iter().map(|(_, part)| part).collect(),
            _ => vec![self],
        }
    }

    /// The number of windows.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// The number of tokens that every window holds.
    pub fn window_len(&self) -> NonZeroUsize {
        self.window_len
    }

    /// All ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The folder's manifest; windows in memory have none, nor have several folders.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.store {
            Store::Memory(_) | Store::Joined(_) => None,
            Store::Shards(shards) => Some(&shards.1),
        }
    }

    /// Window number `index`.
    ///
    /// # Errors
    /// When a shard holds an id outside its vocabulary.
    ///
    /// # Panics
    /// When there are not that many windows.
    pub fn window(&self, index: usize) -> Result<Window> {
        assert!(index < self.windows, "window {index} of {}", self.windows);
        match &self.store {
            Store::Memory(packed) => Ok(packed.window(index)),
            Store::Shards(shards) => {
                let (shards, _) = &**shards;
                let after = shards.partition_point(|(first, _)| *first <= index);
                let (first, shard) = &shards[after - 1];
                shard.window(index - first)
            }
            Store::Joined(parts) => {
                let after = parts.partition_point(|(first, _)| *first <= index);
                let (first, part) = &parts[after - 1];
                part.window(index - first)
            }
        }
    }

    /// All windows in their order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Window>> + '_ {
        (0..self.windows).map(|index| self.window(index))
    }

    /// Reads everything and compares it with the hashes that were written with it.
    ///
    /// # Errors
    /// When a shard's contents are not what was written.
    pub fn verify(&self) -> Result<()> {
        self.verify_with(&mut |_, _| {})
    }

    /// As [`verify`](Self::verify), and tells `progress` the bytes read and those in all.
    ///
    /// # Errors
    /// When a shard's contents are not what was written.
    pub fn verify_with(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let shards = match &self.store {
            Store::Memory(_) => return Ok(()),
            Store::Shards(shards) => &shards.0,
            Store::Joined(parts) => {
                return parts.iter().try_for_each(|(_, part)| part.verify_with(progress));
            }
        };
        let all = shards.iter().map(|(_, shard)| shard.body_bytes()).sum();
        let mut done = 0;
        shards.iter().try_for_each(|(_, shard)| {
            shard.verify(&mut |bytes| {
                done += bytes;
                progress(done, all);
            })
        })
    }
}
