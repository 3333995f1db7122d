//! Finds each tensor of a checkpoint by name, over all of its files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use lacuna_kernels::StorageDtype;

use crate::error::{Error, Result};
use crate::header::HeaderEntry;

/// The kind of file that a checkpoint came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A directory in Hugging Face layout.
    Safetensors,
    /// One `.gguf` file.
    Gguf,
}

/// The place of a tensor, with its format and shape.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) file: usize,
    pub(crate) dtype: StorageDtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
    /// The number of heads whose rows the file stores for interleaved rotary pairs; `None` if they are in Hugging
    /// Face's order.
    pub(crate) permuted: Option<usize>,
}

/// An owned index over the files of a checkpoint, made of their headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    pub(crate) tensors: BTreeMap<String, Entry>,
    pub(crate) ignored: Vec<String>,
}

impl Index {
    pub(crate) fn insert(
        &mut self,
        entry: HeaderEntry,
        file: usize,
        path: &Path,
        permuted: Option<usize>,
    ) -> Result<()> {
        if is_ignored(&entry.name) {
            self.ignored.push(entry.name);
            return Ok(());
        }
        let Some(dtype) = entry.dtype else {
            let reason = format!("stored as {}, which is no dtype of weights", entry.dtype_name);
            return Err(Error::tensor(path, &entry.name, reason));
        };
        let HeaderEntry { name, shape, range, .. } = entry;
        if self.tensors.contains_key(&name) {
            return Err(Error::tensor(path, &name, "appears twice"));
        }
        self.tensors.insert(name, Entry { file, dtype, shape, range, permuted });
        Ok(())
    }
}

/// Tells whether a name is that of a buffer that old exporters saved and that follows from the configuration.
fn is_ignored(name: &str) -> bool {
    ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}
