//! Lays a model's state out at the front of the arena: what stays from step to step.

use lacuna_checkpoint::{Config, Parameters};

use crate::arena::{Arena, Region};
use crate::error::{Error, Result};
use crate::launch::{Bytes, Upload};
use crate::recorder::ADAMW_CHUNK;

/// The places of a parameter and of what training keeps of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its numbers, in bf16.
    pub values: u64,
    /// Its gradient, in f32: sums of products are, and an embedding that is the head too adds up both uses.
    pub gradient: u64,
    /// The copy in f32 that small steps add up in.
    pub master: u64,
    /// The first moment, in f32.
    pub first: u64,
    /// The second moment, in f32.
    pub second: u64,
    /// The number of its numbers.
    pub len: usize,
    /// True if weight decay applies to it: it is a matrix.
    pub decays: bool,
}

/// The places of a model's parameters, gradients, moments and tables. It depends on the configuration alone, so plans for
/// batches of any shape work on the same state.
#[derive(Clone, PartialEq, Debug)]
pub struct Layout {
    pub(crate) config: Config,
    parameters: Parameters<Place>,
    /// Positions that the tables of the rotary embedding cover.
    pub(crate) positions: usize,
    pub(crate) cos: u64,
    pub(crate) sin: u64,
    pub(crate) table: u64,
    pub(crate) chunks: u64,
    pub(crate) n_chunks: usize,
    pub(crate) squares: u64,
    /// The norm of all gradients before they are clipped, an f32.
    pub norm: u64,
    /// The numbers of a step that [`Optimizer::step`](crate::Optimizer::step) makes.
    pub step: u64,
    uploads: Vec<Upload>,
    bytes: u64,
}

/// Sizes of matrices are whole vectors of sixteen bytes.
const VECTOR: usize = 8;

impl Layout {
    /// The layout for a model that is trained on texts of up to `positions` tokens.
    ///
    /// # Errors
    /// Errors if there are no kernels for such a model: heads of another size than 64 or 128, or widths that
    /// are no multiple of 8.
    pub fn new(config: &Config, positions: usize) -> Result<Self> {
        check(config, positions)?;
        let mut arena = Arena::default();
        let mut take = |bytes: usize| arena.take(bytes as u64).at;
        let parameters = config.shapes().map(|_, shape| {
            let len: usize = shape.iter().product();
            let [gradient, master, first, second] = std::array::from_fn(|_| take(4 * len));
            let values = take(2 * len);
            Place { values, gradient, master, first, second, len, decays: shape.len() > 1 }
        });
        let half = config.head_dim / 2;
        let (cos, sin) = (take(2 * positions * half), take(2 * positions * half));
        let (table, chunks) = optimizer_tables(&parameters);
        let n_chunks = chunks.bytes.len() / 8;
        let (table_at, chunks_at) = (take(table.bytes.len()), take(chunks.bytes.len()));
        let (squares, norm, step) = (take(4 * n_chunks), take(4), take(12));
        let angles = Angles { frequencies: config.inverse_frequencies(), positions };
        let uploads = vec![
            Upload { at: cos, data: angles.table(f64::cos) },
            Upload { at: sin, data: angles.table(f64::sin) },
            Upload { at: table_at, data: table },
            Upload { at: chunks_at, data: chunks },
        ];
        let (table, chunks) = (table_at, chunks_at);
        let (config, bytes) = (config.clone(), arena.bytes());
        Ok(Self {
            config,
            parameters,
            positions,
            cos,
            sin,
            table,
            chunks,
            n_chunks,
            squares,
            norm,
            step,
            uploads,
            bytes,
        })
    }

    /// The place of every parameter.
    pub fn parameters(&self) -> &Parameters<Place> {
        &self.parameters
    }

    /// Tables that are written once, before the first plan.
    pub fn uploads(&self) -> &[Upload] {
        &self.uploads
    }

    /// Bytes of the state.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The region of all state, which a machine may save and load as it is.
    pub fn region(&self) -> Region {
        Region { at: 0, bytes: self.bytes }
    }
}

/// The angles of the rotary embedding.
pub(crate) struct Angles {
    pub(crate) frequencies: Vec<f64>,
    pub(crate) positions: usize,
}

impl Angles {
    /// [positions, head_dim / 2], computed in f64 and rounded once, to bf16.
    fn table(&self, f: fn(f64) -> f64) -> Bytes {
        let numbers: Vec<_> = self.all(f).map(half::bf16::from_f64).collect();
        Bytes::of(&numbers, half::bf16::to_ne_bytes)
    }

    /// The same in f32.
    pub(crate) fn table_f32(&self, f: fn(f64) -> f64) -> Bytes {
        let numbers: Vec<_> = self.all(f).map(|number| number as f32).collect();
        Bytes::of(&numbers, f32::to_ne_bytes)
    }

    fn all(&self, f: fn(f64) -> f64) -> impl Iterator<Item = f64> {
        let at = move |position: usize| {
            self.frequencies.iter().map(move |frequency| f(position as f64 * frequency))
        };
        (0..self.positions).flat_map(at)
    }
}

/// The tables that the optimizer's kernels read: a row for each parameter, and the chunks that blocks take.
fn optimizer_tables(parameters: &Parameters<Place>) -> (Bytes, Bytes) {
    let (mut table, mut chunks) = (Bytes::default(), Bytes::default());
    for (parameter, (_, place)) in parameters.iter().enumerate() {
        let pointers = [place.values, place.gradient, place.master, place.first, place.second];
        table = pointers.into_iter().fold(table, Bytes::pointer).long(place.len);
        table = table.flag(place.decays).end();
        for chunk in 0..place.len.div_ceil(ADAMW_CHUNK) {
            chunks = chunks.int(parameter).int(chunk);
        }
    }
    (table, chunks)
}

pub(crate) fn check(config: &Config, positions: usize) -> Result<()> {
    let refuse = |what: String, expected| Err(Error::Unsupported { what, expected });
    if !matches!(config.head_dim, 64 | 128) {
        return refuse(format!("heads of {} numbers", config.head_dim), "heads of 64 or 128");
    }
    for (what, size) in
        [("a hidden size", config.hidden_size), ("an intermediate size", config.intermediate_size)]
    {
        if size == 0 || !size.is_multiple_of(VECTOR) {
            return refuse(format!("{what} of {size}"), "multiples of 8");
        }
    }
    if config.num_layers == 0 || config.num_kv_heads == 0 || config.vocab_size == 0 {
        return refuse("a model without layers, heads or tokens".into(), "at least one of each");
    }
    if !config.num_heads.is_multiple_of(config.num_kv_heads) {
        let what = format!("{} heads on {} of keys", config.num_heads, config.num_kv_heads);
        return refuse(what, "as many query heads for each key head");
    }
    if positions == 0 || positions > config.max_position_embeddings {
        let most = config.max_position_embeddings;
        return Err(Error::Input(format!("{positions} positions, but the model has 1 to {most}")));
    }
    let largest = config.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).max();
    if largest.unwrap_or(0) >= 1 << 40 || config.vocab_size >= 1 << 30 {
        return refuse("a parameter beyond all memory".into(), "sizes that an int can count");
    }
    Ok(())
}
