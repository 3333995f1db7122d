//! Estimates what a model needs in memory, before a weight is read.

use lacuna_kernels::{CachePrecision, Rope, StorageDtype};

use crate::config::Config;

mod training;

pub use training::{Trained, TrainingMemory, TrainingWork};

/// A number of bytes as people read it: `4.6 GB`, `12.3 MB`.
pub fn shown_size(bytes: u64) -> String {
    match bytes {
        100_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// The work that memory is planned for, as far as memory depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Tokens whose keys and values are kept.
    pub context: usize,
    /// Rows of the largest pass.
    pub rows: usize,
    /// Rows of logits that exist at once, copies counted.
    pub logit_rows: usize,
    /// The precision that keys and values are kept in.
    pub cache: CachePrecision,
}

impl Workload {
    /// The work of decoding in a context of so many tokens: the prompt in one pass, logits of a block's rows, keys and
    /// values as they are computed.
    pub fn decoding(context: usize) -> Self {
        let cache = CachePrecision::default();
        Self { context, rows: context, logit_rows: context.min(32), cache }
    }
}

/// Bytes that a checkpoint takes once opened for inference on the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryEstimate {
    /// All weights.
    pub weights: u64,
    /// Keys and values of the given number of cached tokens.
    pub cache: u64,
    /// The rotary tables, and the largest pass: one over all of the given tokens, in f32.
    pub activations: u64,
    /// The program, its threads and the tokenizer.
    pub program: u64,
}

impl MemoryEstimate {
    /// The sum of all parts.
    pub fn total(self) -> u64 {
        let held = self.weights.saturating_add(self.cache).saturating_add(self.activations);
        held.saturating_add(self.program)
    }
}

impl Config {
    /// The bytes that the model needs with its matrices in `dtype`, for such work.
    pub fn memory(&self, dtype: StorageDtype, work: Workload) -> MemoryEstimate {
        let (values, bytes) = dtype.block();
        let weights = self.parameter_count().div_ceil(values as u64).saturating_mul(bytes as u64);
        self.memory_with(weights, work)
    }

    /// The estimate with weights of so many bytes.
    pub(crate) fn memory_with(&self, weights: u64, work: Workload) -> MemoryEstimate {
        let cache = self.cache_bytes_per_token(work.cache).saturating_mul(work.context as u64);
        // Measured with byte-level BPE: two strings, two map entries and a merge a token.
        let program = (14 << 20) + 600 * self.vocab_size as u64;
        MemoryEstimate { weights, cache, activations: self.activation_bytes(work), program }
    }

    /// The bytes of a pass's activations. A row holds the residual stream, its normed copy, queries, keys, values,
    /// the attention's result, the projection back, and the three vectors of the gated layer, though not all at once.
    fn activation_bytes(&self, work: Workload) -> u64 {
        let attention = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim;
        let row = 4 * self.hidden_size + attention + 3 * self.intermediate_size;
        let pass = (row as u64).saturating_mul(work.rows as u64);
        let logits = (self.vocab_size as u64).saturating_mul(work.logit_rows as u64);
        let positions = Rope::covered(work.context.max(work.rows), self.max_position_embeddings);
        let tables = (positions as u64).saturating_mul(self.head_dim as u64);
        pass.saturating_add(logits).saturating_add(tables).saturating_mul(4)
    }

    /// The bytes of keys and values of one token over all layers, in such a precision; in f32 if that is not for heads
    /// of this size.
    pub fn cache_bytes_per_token(&self, precision: CachePrecision) -> u64 {
        let row = precision.row_bytes(self.head_dim).unwrap_or(self.head_dim.saturating_mul(4));
        [2, self.num_layers, self.num_kv_heads, row]
            .into_iter()
            .fold(1, |n, factor| u64::saturating_mul(n, factor as u64))
    }
}
