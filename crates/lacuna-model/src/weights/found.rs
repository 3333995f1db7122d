use std::collections::BTreeMap;
use std::path::Path;

use super::Entry;
use super::header::HeaderEntry;
use crate::error::{ModelError, Result};

/// Tensors by name while files are read.
#[derive(Default)]
pub(super) struct Found {
    pub(super) tensors: BTreeMap<String, Entry>,
    pub(super) ignored: Vec<String>,
}

impl Found {
    pub(super) fn insert(
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
            return Err(ModelError::tensor(path, &entry.name, reason));
        };
        let HeaderEntry { name, shape, range, .. } = entry;
        if self.tensors.contains_key(&name) {
            return Err(ModelError::tensor(path, &name, "appears twice"));
        }
        self.tensors.insert(name, Entry { file, dtype, shape, range, permuted });
        Ok(())
    }
}

/// Buffers that old exporters saved and that follow from the configuration.
fn is_ignored(name: &str) -> bool {
    ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}
