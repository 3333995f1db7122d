//! Plans a pass of a decoder: a few rows of each of many sequences, behind caches of their own, and a candidate for each
//! wanted row.
//!
//! Activations and products are f32, as they are on the CPU; queries, keys, values and what attention gathers are
//! rounded to bf16. Matrices are bf16 or quantized, multiplied as they are stored, and read once for up to sixteen rows.

use lacuna_checkpoint::{Config, Parameters};
use lacuna_kernels::{Segments, StorageDtype};

use crate::arena::Arena;
use crate::card::{Attention, Card};
use crate::error::{Error, Result};
use crate::launch::{Plan, Upload};
use crate::layout::{self, Angles};
use crate::recorder::Recorder;
use crate::recorder::decode::{CANDIDATE_BYTES, Format};
use builder::Builder;
use check::Checked;

mod builder;
mod check;

/// The place of a parameter for decoding, and the format that it is stored in: vectors in f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weight {
    /// Its first byte.
    pub at: u64,
    /// Its format.
    pub dtype: StorageDtype,
}

/// The places of a model's weights and tables for decoding: matrices as they are stored, norms and biases in f32.
#[derive(Clone, PartialEq, Debug)]
pub struct Weights {
    config: Config,
    parameters: Parameters<Weight>,
    positions: usize,
    cos: u64,
    sin: u64,
    uploads: Vec<Upload>,
    bytes: u64,
}

/// The columns that a product of few rows takes at a time.
const PART: usize = 32;

impl Weights {
    /// The layout of a model whose matrices are bf16, for texts of up to `positions` tokens.
    ///
    /// # Errors
    /// As [`stored`](Self::stored).
    pub fn new(config: &Config, positions: usize) -> Result<Self> {
        Self::stored(config, positions, &config.shapes().map(|_, _| StorageDtype::BF16))
    }

    /// The layout of a model whose matrices have these formats, GGML's; whatever is said of vectors, they are f32.
    ///
    /// # Errors
    /// Errors if there are no kernels for such a model: heads of another size than 64 or 128, widths that are no
    /// multiple of 32 (q4_k: of 256), another format than bf16, q8_0, q4_0, q4_1 and q4_k.
    pub fn stored(
        config: &Config,
        positions: usize,
        formats: &Parameters<StorageDtype>,
    ) -> Result<Self> {
        layout::check(config, positions)?;
        let widths = [config.hidden_size, config.intermediate_size];
        if let Some(width) = widths.into_iter().find(|width| !width.is_multiple_of(PART)) {
            let what = format!("rows of {width} numbers in a decoder");
            return Err(Error::Unsupported { what, expected: "multiples of 32" });
        }
        let mut arena = Arena::default();
        let mut take = |bytes: usize| arena.take(bytes as u64).at;
        let shapes = config.shapes();
        let both = shapes
            .zip(formats)
            .ok_or_else(|| Error::Input("formats of another model's parameters".into()))?;
        let parameters = both.try_map(|name, (shape, dtype)| {
            let dtype = if shape.len() == 1 { StorageDtype::F32 } else { **dtype };
            let bytes = match Format::of(dtype) {
                Some(format) if shape[1].is_multiple_of(format.columns) => dtype.bytes_of(shape),
                None if shape.len() == 1 => dtype.bytes_of(shape),
                _ => None,
            };
            let Some(bytes) = bytes else {
                let what = format!("{name} of {:?} numbers in {dtype}", shape);
                let expected = "bf16, q8_0, q4_0 and q4_1 in rows of 32 numbers, q4_k of 256";
                return Err(Error::Unsupported { what, expected });
            };
            Ok(Weight { at: take(bytes), dtype })
        })?;
        let angles = Angles { frequencies: config.inverse_frequencies(), positions };
        let tables = [f64::cos, f64::sin].map(|f| {
            let data = angles.table_f32(f);
            Upload { at: take(data.bytes.len()), data }
        });
        let [cos, sin] = [tables[0].at, tables[1].at];
        let (config, bytes) = (config.clone(), arena.bytes());
        Ok(Self { config, parameters, positions, cos, sin, uploads: tables.into(), bytes })
    }

    /// The place of every parameter.
    pub fn parameters(&self) -> &Parameters<Weight> {
        &self.parameters
    }

    /// Tables that are written once, before the first pass.
    pub fn uploads(&self) -> &[Upload] {
        &self.uploads
    }

    /// Caches behind the weights, one for each sequence, with room for this many tokens.
    pub fn caches(&self, capacities: &[usize]) -> Caches {
        let mut first = Vec::with_capacity(capacities.len());
        let mut rows = 0;
        for capacity in capacities {
            first.push(rows);
            rows += capacity;
        }
        let mut arena = Arena::behind(self.bytes);
        let bytes = rows * self.config.num_kv_heads * self.config.head_dim * 2;
        let mut take = || arena.take(bytes as u64).at;
        let layers = (0..self.config.num_layers).map(|_| [take(), take()]).collect();
        Caches { first, capacities: capacities.into(), layers, bytes: arena.bytes() }
    }
}

/// The places of the keys and values of sequences: in each layer one behind the other, in bf16.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caches {
    /// The row that each sequence's begin with.
    first: Vec<usize>,
    capacities: Vec<usize>,
    /// Keys and values of each layer.
    layers: Vec<[u64; 2]>,
    bytes: u64,
}

/// One sequence's part of a pass.
#[derive(Clone, Copy, Debug)]
pub struct CachedSequence {
    /// The cache that it has.
    pub cache: usize,
    /// Tokens that the cache holds: the pass's own go behind them.
    pub past: usize,
}

/// A draw from the logits of a wanted row, as `lacuna-samplers` addresses it.
#[derive(Clone, Debug, Default)]
pub struct Draw {
    /// Names the random stream.
    pub seed: u64,
    /// The position that is drawn for.
    pub position: u64,
    /// The refinement within its block.
    pub refinement: u64,
    /// 0: the most probable token.
    pub temperature: f64,
    /// Only the k largest logits.
    pub top_k: Option<u32>,
    /// Only the fewest most probable tokens that hold this much probability.
    pub top_p: Option<f64>,
    /// Only tokens at least this probable in proportion to the most probable.
    pub min_p: Option<f64>,
    /// Tokens that may not come out, ascending.
    pub forbidden: Vec<u32>,
}

/// A candidate as a device leaves it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// The token; none if the row has a number that is none, or nothing may be drawn.
    pub token: Option<u32>,
    /// Its probability.
    pub confidence: f64,
    /// Its distance to the most probable other token.
    pub margin: f64,
    /// The row's entropy, in nats.
    pub entropy: f64,
    /// A number of its own for random orders.
    pub uniform: f64,
}

/// The rows of a decoder's pass.
#[derive(Clone, Copy, Debug)]
pub struct DecodeBatch<'a> {
    /// The token of each row, sequences end to end.
    pub tokens: &'a [u32],
    /// The position of each row.
    pub positions: &'a [u32],
    /// The keys of its own cache that each row sees, its past included: one segment a sequence.
    pub segments: &'a Segments,
    /// The sequences of the segments.
    pub sequences: &'a [CachedSequence],
    /// The rows whose logits are wanted.
    pub wanted: &'a [u32],
    /// A draw from each of these, or none at all.
    pub draws: &'a [Draw],
}

/// A decoder's pass as a plan, and where its results are.
#[derive(Clone, PartialEq, Debug)]
pub struct DecodePass {
    /// The launches.
    pub plan: Plan,
    /// Logits of the wanted rows, [wanted, vocab], in f32.
    pub logits: u64,
    /// Their candidates, of [`Candidate::BYTES`] each.
    pub candidates: u64,
}

impl Candidate {
    /// Bytes of a candidate in the arena.
    pub const BYTES: usize = CANDIDATE_BYTES;

    /// Reads what the kernels wrote.
    pub fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let int = |at: usize| i32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let double = |at: usize| f64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let token = (int(4) == 0).then(|| int(0)).and_then(|token| u32::try_from(token).ok());
        Self {
            token,
            confidence: double(8),
            margin: double(16),
            entropy: double(24),
            uniform: double(32),
        }
    }
}

impl DecodePass {
    /// A pass over some rows of some sequences. New keys and values are written behind what each cache holds; the next pass
    /// that says so counts them as its past, another overwrites them.
    ///
    /// # Errors
    /// Errors if the batch does not fit the model, its caches or itself.
    pub fn new(weights: &Weights, caches: &Caches, batch: DecodeBatch<'_>) -> Result<Self> {
        let check = Checked::new(weights, caches, batch)?;
        let head_dim = weights.config.head_dim;
        let attention = Attention::of(Card::Small, head_dim).ok_or(Error::Unsupported {
            what: format!("heads of {head_dim} numbers"),
            expected: "heads of 64 or 128",
        })?;
        let recorder = Recorder::new(Card::Small, attention, caches.bytes);
        let mut pass = Builder::new(recorder, weights, caches, &check);
        let logits = pass.logits();
        let candidates = pass.candidates(logits);
        Ok(Self { plan: pass.recorder.finish(), logits: logits.at, candidates })
    }
}
