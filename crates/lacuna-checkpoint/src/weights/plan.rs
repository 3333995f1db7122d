//! Plans what memory a checkpoint takes, and in which formats, before a weight is read.

use std::collections::BTreeMap;

use lacuna_kernels::StorageDtype;

use super::{Report, Weights};
use crate::index::Entry;
use crate::memory::{MemoryEstimate, Workload};

impl Weights {
    /// The memory that opening it for inference on the CPU takes, with matrices in `dtype` (default: as stored) and
    /// for such work.
    ///
    /// Weights in their own format are mapped: the system reads them when they are used and may drop them
    /// again, but a pass reads all, so what does not fit is read from the disk for every pass.
    pub fn memory(&self, dtype: Option<StorageDtype>, work: Workload) -> MemoryEstimate {
        let bytes = |(name, entry): (&String, &Entry)| {
            let kept = match (entry.shape.as_slice(), dtype.unwrap_or(entry.dtype)) {
                ([_], _) | (_, StorageDtype::F64) => StorageDtype::F32,
                _ => dtype.map_or(entry.dtype, |dtype| self.kept_as(name, entry, dtype)),
            };
            kept.bytes_of(&entry.shape).unwrap_or(usize::MAX) as u64
        };
        let weights = self.index.tensors.iter().map(bytes).fold(0, u64::saturating_add);
        self.config.memory_with(weights, work)
    }

    /// A report of what the files hold.
    pub fn report(&self) -> Report {
        let mut bytes_by_dtype = BTreeMap::new();
        for entry in self.index.tensors.values() {
            *bytes_by_dtype.entry(entry.dtype).or_insert(0) += entry.range.len() as u64;
        }
        let parameters =
            self.index.tensors.values().map(|entry| entry.shape.iter().product::<usize>() as u64);
        Report {
            format: self.format(),
            files: self.files.iter().map(|file| file.path().to_path_buf()).collect(),
            dtype: bytes_by_dtype.iter().max_by_key(|(_, bytes)| **bytes).map(|(dtype, _)| *dtype),
            bytes: bytes_by_dtype.values().sum(),
            parameters: parameters.sum(),
            bytes_by_dtype,
            missing: self.missing.clone(),
            extra: self.extra.clone(),
            ignored: self.index.ignored.clone(),
        }
    }

    /// The format that [`matrix_in`](Self::matrix_in) keeps a matrix in if `wanted` is asked for; `None` if there is no
    /// such matrix.
    pub fn kept_in(&self, name: &str, wanted: StorageDtype) -> Option<StorageDtype> {
        self.entry(name).ok().map(|entry| self.kept_as(name, entry, wanted))
    }

    /// The format that a matrix is kept in if `wanted` is asked for.
    pub(super) fn kept_as(&self, name: &str, entry: &Entry, wanted: StorageDtype) -> StorageDtype {
        let finer = if self.config.makes_logits(name) { wanted.for_logits() } else { wanted };
        finer.fitting(&entry.shape)
    }

    /// Matrices that can't be kept in `wanted`, by the format that they take, because their rows are no whole number
    /// of its blocks.
    pub fn fallbacks(&self, wanted: StorageDtype) -> BTreeMap<StorageDtype, Vec<String>> {
        let mut fallbacks: BTreeMap<StorageDtype, Vec<String>> = BTreeMap::new();
        for (name, entry) in self.index.tensors.iter().filter(|(_, entry)| entry.shape.len() == 2) {
            let kept = self.kept_as(name, entry, wanted);
            if kept != wanted && kept != wanted.for_logits() {
                fallbacks.entry(kept).or_default().push(name.clone());
            }
        }
        fallbacks
    }
}
