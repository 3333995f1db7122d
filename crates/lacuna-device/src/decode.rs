//! Plans a pass of a decoder: a few rows of each of many sequences, behind caches of their own, and a candidate for each
//! wanted row.
//!
//! Activations and products are f32, as they are on the CPU; queries, keys, values and what attention gathers are
//! rounded to bf16. Matrices are bf16 or quantized, multiplied as they are stored, and read once for up to sixteen rows.

use lacuna_checkpoint::{Config, Parameters};
use lacuna_kernels::StorageDtype;

use crate::arena::Arena;
use crate::card::{Attention, Card};
use crate::error::{Error, Result};
use crate::launch::{Plan, Upload};
use crate::layout::{self, Angles};
use crate::recorder::Recorder;
use crate::recorder::decode::{CANDIDATE_BYTES, Format};
use builder::Builder;
pub(crate) use shape::{Rows, Shape};
pub(crate) use tables::{Pass, Tables};

mod builder;
mod shape;
mod tables;

/// The place of a parameter for decoding, and the format that it is stored in: vectors in f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weight {
    /// Its first byte.
    pub at: u64,
    /// Its format.
    pub dtype: StorageDtype,
    /// Its bytes.
    pub bytes: u64,
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
            Ok(Weight { at: take(bytes), dtype, bytes: bytes as u64 })
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

    /// The format that a parameter of this shape is kept in where `dtype` is wanted: that one if there are kernels for it
    /// and its blocks fill the rows, else bf16; vectors are f32.
    pub fn kept_in(dtype: StorageDtype, shape: &[usize]) -> StorageDtype {
        let fits = |format: Format| shape.last().is_some_and(|n| n.is_multiple_of(format.columns));
        match shape {
            [_] => StorageDtype::F32,
            _ if Format::of(dtype).is_some_and(fits) => dtype,
            _ => StorageDtype::BF16,
        }
    }

    /// The place of every parameter.
    pub fn parameters(&self) -> &Parameters<Weight> {
        &self.parameters
    }

    /// Tables that are written once, before the first pass.
    pub fn uploads(&self) -> &[Upload] {
        &self.uploads
    }

    /// The model that they are of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Positions that the tables of the rotary embedding cover.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Bytes that the keys and values of a token take, in bf16.
    pub fn cache_bytes_per_token(&self) -> u64 {
        (2 * self.config.num_layers * self.row() * 2) as u64
    }

    /// Numbers of a token's keys in one layer.
    fn row(&self) -> usize {
        self.config.num_kv_heads * self.config.head_dim
    }

    /// Room behind the weights for the keys and values of so many tokens, of however many texts.
    pub(crate) fn pool(&self, tokens: usize) -> KeysAndValues {
        let mut arena = Arena::behind(self.bytes);
        let mut take = || arena.take((tokens * self.row() * 2) as u64).at;
        let layers = (0..self.config.num_layers).map(|_| [take(), take()]).collect();
        KeysAndValues { layers, row_bytes: (self.row() * 2) as u64, bytes: arena.bytes() }
    }
}

/// The places of keys and values: in each layer those of all tokens one behind the other, in bf16.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeysAndValues {
    /// Keys and values of each layer.
    pub(crate) layers: Vec<[u64; 2]>,
    /// Bytes of a token's keys in a layer, and of its values.
    pub(crate) row_bytes: u64,
    /// The end of all of them.
    pub(crate) bytes: u64,
}

/// A draw from the logits of a wanted row, as `lacuna-samplers` addresses it.
#[derive(Clone, PartialEq, Debug)]
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
    /// Logits of the tokens in `seen` are divided by this if positive, multiplied if negative. 1: off.
    pub repetition_penalty: f64,
    /// The tokens that the penalty applies to.
    pub seen: Vec<u32>,
}

impl Default for Draw {
    fn default() -> Self {
        Self {
            seed: 0,
            position: 0,
            refinement: 0,
            temperature: 0.,
            top_k: None,
            top_p: None,
            min_p: None,
            forbidden: Vec::new(),
            repetition_penalty: 1.,
            seen: Vec::new(),
        }
    }
}

/// The reason why nothing is drawn from a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoToken {
    /// A logit is NaN or +∞.
    NotFinite,
    /// All tokens are forbidden or have logit −∞.
    NothingAllowed,
}

/// A candidate as a device leaves it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// The token, or the reason why there is none.
    pub token: Result<u32, NoToken>,
    /// Its probability.
    pub confidence: f64,
    /// Its distance to the most probable other token.
    pub margin: f64,
    /// The row's entropy, in nats.
    pub entropy: f64,
    /// A number of its own for random orders.
    pub uniform: f64,
}

/// A decoder's pass as a plan, for every batch of its shape.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct DecodePlan {
    /// The launches. Nothing is uploaded but [`Tables`].
    pub(crate) plan: Plan,
    /// The places of what differs from batch to batch.
    pub(crate) tables: Tables,
    /// Logits of the wanted rows, [wanted, vocab], in f32.
    pub(crate) logits: u64,
    /// Their candidates, of [`Candidate::BYTES`] each, if the shape has draws.
    pub(crate) candidates: u64,
}

impl Candidate {
    /// Bytes of a candidate in the arena.
    pub const BYTES: usize = CANDIDATE_BYTES;

    /// Reads what the kernels wrote.
    pub fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let int = |at: usize| i32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let double = |at: usize| f64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let token = match (int(4), u32::try_from(int(0))) {
            (0, Ok(token)) => Ok(token),
            (1, _) => Err(NoToken::NotFinite),
            _ => Err(NoToken::NothingAllowed),
        };
        Self {
            token,
            confidence: double(8),
            margin: double(16),
            entropy: double(24),
            uniform: double(32),
        }
    }
}

impl DecodePlan {
    /// The plan for a shape.
    pub(crate) fn new(
        weights: &Weights,
        keys_and_values: &KeysAndValues,
        card: Card,
        shape: Shape,
    ) -> Result<Self> {
        let head_dim = weights.config.head_dim;
        let attention = Attention::of(card, head_dim).ok_or(Error::Unsupported {
            what: format!("heads of {head_dim} numbers"),
            expected: "heads of 64 or 128",
        })?;
        let mut recorder = Recorder::new(card, attention, keys_and_values.bytes);
        let tables = Tables::new(shape, &weights.config, &mut recorder);
        let mut pass = Builder::new(recorder, weights, keys_and_values, (shape, tables));
        let logits = pass.logits();
        let candidates = logits.map(|logits| pass.candidates(logits));
        Ok(Self {
            plan: pass.recorder.finish(),
            tables,
            logits: logits.map_or(0, |logits| logits.at),
            candidates: candidates.unwrap_or(0),
        })
    }
}
