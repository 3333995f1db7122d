//! Keeps the keys and values of committed tokens, in one buffer per layer that grows by an eighth.

use candle_core::{DType, Device, Tensor};
use lacuna_checkpoint::Config;
use lacuna_kernels::{CachePrecision, StoredRows};
use std::ops::Range;

use crate::error::{Error, Result};

/// The committed past of one sequence: keys and values, [capacity, kv_heads, head_dim] per layer.
///
/// A pass writes its keys and values behind the committed ones; [`keep`](Self::keep) commits them, the next
/// pass overwrites them. Cropping is free, so a block can be tried and taken back.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(StoredRows, StoredRows)>,
    len: usize,
    /// Rows behind `len` that the last pass wrote.
    uncommitted: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for a model of this configuration, with room for `capacity` tokens at first. Keys and values are
    /// kept as the model computes them.
    ///
    /// # Errors
    /// Errors if the device has no room.
    pub fn new(config: &Config, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        Self::in_precision(CachePrecision::F32, config, capacity, (dtype, device))
    }

    /// An empty cache for a model that computes in `dtype`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the precision is not for such heads or this device.
    pub(crate) fn in_precision(
        precision: CachePrecision,
        config: &Config,
        capacity: usize,
        (dtype, device): (DType, &Device),
    ) -> Result<Self> {
        let capacity = capacity.max(1);
        let shape = [capacity, config.num_kv_heads, config.head_dim];
        let buffer = || StoredRows::zeros(precision, shape, dtype, device);
        let layers = (0..config.num_layers)
            .map(|_| Ok((buffer()?, buffer()?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { layers, len: 0, uncommitted: 0, capacity })
    }

    /// The number of committed tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is committed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all but the first `len` committed tokens; longer than what is there changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.uncommitted = 0;
    }

    /// Commits rows `range` of the last pass, counted from its first token, and drops its others.
    ///
    /// # Errors
    /// Errors if the last pass had fewer rows.
    pub fn keep(&mut self, range: Range<usize>) -> Result<()> {
        if range.end > self.uncommitted || range.start > range.end {
            return Err(Error::Input(format!(
                "rows {range:?} of a pass of {} can't be kept",
                self.uncommitted
            )));
        }
        if range.start > 0 && !range.is_empty() {
            for (k, v) in &self.layers {
                for buffer in [k, v] {
                    let first = self.len + range.start;
                    buffer.copy_within(first..first + range.len(), self.len)?;
                }
            }
        }
        self.len += range.len();
        self.uncommitted = 0;
        Ok(())
    }

    /// A copy of its first `len` committed tokens, for another sequence that begins with them; no more than there are.
    ///
    /// # Errors
    /// Errors if the device has no room.
    pub fn copied(&self, len: usize) -> Result<Self> {
        let len = self.len.min(len);
        let capacity = Self::capacity_for(len);
        let copy = |rows: &StoredRows| rows.grown(capacity, len);
        let layers = self.layers.iter().map(|(k, v)| Ok((copy(k)?, copy(v)?)));
        Ok(Self { layers: layers.collect::<Result<_>>()?, len, uncommitted: 0, capacity })
    }

    /// The number of tokens that it has room for: what its memory is counted by.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of tokens that a cache has room for after it grew to hold `tokens`, for whoever plans its memory.
    /// It is an eighth more: if caches doubled, the token after a long prompt would take as much memory again as the
    /// prompt. Rounded up to a multiple of 64, so that the buffer of a text that is done with is one for the next, and a
    /// server's memory does not crumble into pieces of every size.
    pub fn capacity_for(tokens: usize) -> usize {
        let wanted = tokens.saturating_add(tokens / 8 + 32);
        wanted.checked_next_multiple_of(64).unwrap_or(wanted)
    }

    /// Makes room for `n` tokens in all.
    pub(crate) fn reserve(&mut self, n: usize) -> Result<()> {
        if n <= self.capacity {
            return Ok(());
        }
        let capacity = Self::capacity_for(n);
        for (k, v) in &mut self.layers {
            for buffer in [k, v] {
                *buffer = buffer.grown(capacity, self.len)?;
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Writes the new keys and values of layer `i` behind the committed ones: [n, kv_heads, head_dim] each.
    pub(crate) fn write(&mut self, i: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let (k_buffer, v_buffer) = self.layer(i)?;
        k_buffer.write(self.len, k)?;
        v_buffer.write(self.len, v)?;
        self.uncommitted = k.dim(0)?;
        Ok(())
    }

    /// The keys and values of layer `i`, committed ones and those that were just written.
    pub(crate) fn written(&self, i: usize) -> Result<(StoredRows, StoredRows)> {
        let (k, v) = self.layer(i)?;
        let n = self.len + self.uncommitted;
        Ok((k.narrow(n)?, v.narrow(n)?))
    }

    fn layer(&self, i: usize) -> Result<&(StoredRows, StoredRows)> {
        let reason = "the cache belongs to a model with fewer layers";
        self.layers.get(i).ok_or_else(|| Error::Input(reason.into()))
    }
}
