//! Records what a folder of shards says of itself.

use super::{VERSION, manifest_path, shard_path};
use crate::error::{Error, Result};
use lacuna_files::{Damage, Seal, short};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::Path;

const LARGEST_MANIFEST: u64 = 64 << 20;

/// The description of a folder of shards, in `manifest.json`, [sealed](lacuna_files::sealed).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always "lacuna-shards".
    pub format: String,
    /// Of the shards' format; this crate reads 1.
    pub version: u32,
    /// [`Tokenizer::fingerprint`](lacuna_text::Tokenizer::fingerprint) of the tokenizer that made the ids.
    pub tokenizer: String,
    /// All ids are below this.
    pub vocab_size: usize,
    /// The number of tokens that every window holds.
    pub window_len: NonZeroUsize,
    /// Windows of all shards.
    pub windows: usize,
    /// Documents of all shards.
    pub documents: usize,
    /// Tokens at the very end that are padding.
    pub padding: usize,
    /// Bytes of text that went in.
    pub text_bytes: u64,
    /// The token that ends every document, where all have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_end: Option<u32>,
    /// The parts of the corpus that were passed over, a line for each reason, as people read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
    /// In the order of their files.
    pub shards: Vec<ShardEntry>,
}

/// One shard in a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// The number of windows that it holds.
    pub windows: usize,
    /// The blake3 hash of everything behind its header, in hexadecimal.
    pub blake3: String,
}

impl Manifest {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// When it is missing, not as it was written, or not a manifest that this version understands.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = manifest_path(folder);
        let shard = format!("manifest {}", path.display());
        let bytes = lacuna_files::read_file(&path, LARGEST_MANIFEST)?;
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| Error::Shard {
            shard: shard.clone(),
            reason: format!(
                "not a manifest of shards ({}); pack the corpus again",
                short(&error.to_string())
            ),
        })?;
        let fail = |reason| Err(Error::Shard { shard, reason });
        if manifest.format != "lacuna-shards" || manifest.version != VERSION {
            let (format, version) = (&manifest.format, manifest.version);
            return fail(format!(
                "format {format:?} version {version}, expected \"lacuna-shards\" version {VERSION}"
            ));
        }
        let windows: Option<usize> =
            manifest.shards.iter().try_fold(0usize, |sum, entry| sum.checked_add(entry.windows));
        if windows != Some(manifest.windows) {
            let said = manifest.windows;
            return fail(format!("says {said} windows in all, its shards do not add up to that"));
        }
        let (window, vocabulary) = (manifest.window_len.get(), manifest.vocab_size);
        let Some(tokens) = manifest.windows.checked_mul(window) else {
            return fail(format!(
                "says {} windows of {window}: more than any disk",
                manifest.windows
            ));
        };
        if vocabulary == 0 || u32::try_from(vocabulary).is_err() {
            return fail(format!(
                "says {vocabulary} tokens in the vocabulary, expected 1 to 2^32 - 1"
            ));
        }
        let (documents, padding) = (manifest.documents, manifest.padding);
        if padding >= window || documents > tokens.saturating_add(window) {
            return fail(format!(
                "says {padding} tokens of padding and {documents} documents, which {tokens} tokens in windows of {window} can't hold"
            ));
        }
        if shard_path(folder, manifest.shards.len()).exists() {
            let shards = manifest.shards.len();
            return fail(format!(
                "says {shards} shards, the folder has more: files of two packings"
            ));
        }
        // At the end: a value that nothing can hold is told in its own words.
        if Seal::of(&bytes) == Seal::Broken {
            return fail(format!("{}; pack the corpus again", Damage::Seal));
        }
        Ok(manifest)
    }
}
