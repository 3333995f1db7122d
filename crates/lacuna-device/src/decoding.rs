//! Keeps a model for decoding on a machine: its weights, a pool of keys and values, and a plan for each shape of pass, which
//! is recorded once and played again.

use std::ops::Range;

use lacuna_checkpoint::{Config, Parameters};
use lacuna_kernels::{Segments, StorageDtype};

use crate::card::Card;
use crate::decode::{
    Candidate, DecodePlan, Draw, KeysAndValues, Pass, Rows, Shape, Tables, Weight, Weights,
};
use crate::error::{Error, Result};
use crate::launch::{Bytes, Machine, Recording, Step};
use pool::{Move, Pool};

mod pool;
mod stretch;

pub use pool::CacheId;

/// Rows that a pass takes, and rows of it whose logits are formed, unless a text's rows can't be parted.
const PASS_ROWS: usize = 256;
const PASS_WANTED: usize = 128;
/// Plans that are kept; of more the one that was played longest ago is dropped.
const MOST_PLANS: usize = 64;
/// The part of a machine's room that is left to others and to what the driver keeps, as a divisor.
const LEFT: u64 = 16;

/// The choices of a decoder that change its memory, and no token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodingOptions {
    /// The kernels that are used.
    pub card: Card,
    /// Positions of the longest text.
    pub positions: usize,
    /// Rows of a text that may see one another, so that they have to be read in one pass, and rows of them whose logits
    /// may be wanted: those of the longest text where each of its tokens sees all others.
    pub rows: usize,
    /// See `rows`.
    pub wanted: usize,
    /// Tokens whose keys and values there is room for, of all texts together; none: as many as the machine has room
    /// for.
    pub cache_tokens: Option<usize>,
    /// The most bytes of the machine's memory that may be taken; none: nearly all that there are.
    pub memory_max: Option<u64>,
}

/// A model on a machine, decoded on.
#[derive(Debug)]
pub struct Decoding {
    machine: Hidden,
    card: Card,
    weights: Weights,
    at: KeysAndValues,
    pool: Pool,
    reserved: u64,
    plans: Vec<Kept>,
    counts: DecodingCounts,
}

/// The work of a decoder so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DecodingCounts {
    /// Plans that were made and recorded.
    pub plans: u64,
    /// Passes: recordings that were played.
    pub passes: u64,
    /// Bytes that were read back.
    pub bytes_read: u64,
}

/// A machine, of which there is nothing to show.
struct Hidden(Box<dyn Machine>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

/// A plan that is recorded.
#[derive(Debug)]
struct Kept {
    shape: Shape,
    tables: Tables,
    logits: u64,
    candidates: u64,
    recording: Recording,
    /// The number of the pass that it was played for last.
    played: u64,
}

/// One text's part of a pass.
#[derive(Clone, Copy, Debug)]
pub struct CachedSequence {
    /// The cache that it has.
    pub cache: CacheId,
    /// Tokens that the cache holds: the pass's own go behind them.
    pub past: usize,
}

/// The rows of a decoder's pass.
#[derive(Clone, Copy, Debug)]
pub struct DecodeBatch<'a> {
    /// The token of each row, texts end to end.
    pub tokens: &'a [u32],
    /// The position of each row.
    pub positions: &'a [u32],
    /// The keys of its own cache that each row sees, its past included: one segment a text.
    pub segments: &'a Segments,
    /// The texts of the segments.
    pub sequences: &'a [CachedSequence],
    /// The rows whose logits are wanted, ascending.
    pub wanted: &'a [u32],
    /// A draw from each of these where one is to be made; none at all: from none.
    pub draws: &'a [Option<Draw>],
}

/// The thing that a pass leaves of a wanted row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Read<'a> {
    /// Its logits, `[vocab]`.
    Logits(&'a [f32]),
    /// The candidate that was drawn from them.
    Candidate(Candidate),
}

impl Decoding {
    /// A model on a machine, before its weights are written. Matrices have these formats.
    ///
    /// # Errors
    /// As [`Weights::stored`], and if the machine has no room.
    pub fn new(
        mut machine: Box<dyn Machine>,
        config: &Config,
        formats: &Parameters<StorageDtype>,
        options: DecodingOptions,
    ) -> Result<Self> {
        let weights = Weights::stored(config, options.positions, formats)?;
        let rows = options.rows.max(PASS_ROWS);
        let wanted = options.wanted.max(PASS_WANTED);
        let largest = Shape::largest(rows, wanted, options.positions);
        // The memory that a pass takes behind keys and values does not depend on how many those are.
        let none = weights.pool(0);
        let needed = DecodePlan::new(&weights, &none, options.card, largest)?.plan.arena_bytes;
        let tokens = match options.cache_tokens {
            Some(tokens) => tokens,
            None => {
                let room = machine.room().map(|room| room - room / LEFT);
                let room = room.into_iter().chain(options.memory_max).min().unwrap_or(0);
                let left = room.saturating_sub(needed);
                let tokens = left / weights.cache_bytes_per_token();
                if tokens == 0 {
                    return Err(Error::Machine {
                        doing: "making room for a decoder".into(),
                        reason: format!(
                            "weights and a pass take {needed} bytes, keys and values some more, and there are {room}; take \
                             a smaller model, or keep its matrices in q8_0 or q4_k"
                        ),
                    });
                }
                usize::try_from(tokens).unwrap_or(usize::MAX)
            }
        };
        let tokens = tokens.min(MOST_TOKENS);
        let at = weights.pool(tokens);
        let reserved = DecodePlan::new(&weights, &at, options.card, largest)?.plan.arena_bytes;
        machine.reserve(reserved)?;
        for upload in weights.uploads() {
            machine.write(upload.at, &upload.data)?;
        }
        Ok(Self {
            machine: Hidden(machine),
            card: options.card,
            weights,
            at,
            pool: Pool::new(tokens),
            reserved,
            plans: Vec::new(),
            counts: DecodingCounts::default(),
        })
    }

    /// The places of the weights, for [`write`](Self::write).
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Writes a parameter as it is stored.
    ///
    /// # Errors
    /// Errors if the bytes are not as many as the parameter's, or the machine fails.
    pub fn write(&mut self, weight: Weight, bytes: Vec<u8>) -> Result<()> {
        if bytes.len() as u64 != weight.bytes {
            let (found, expected) = (bytes.len(), weight.bytes);
            let reason =
                format!("{found} bytes of a parameter in {}, expected {expected}", weight.dtype);
            return Err(Error::Input(reason));
        }
        self.machine.0.write(weight.at, &Bytes { bytes, pointers: Vec::new() })
    }

    /// Tokens whose keys and values there is room for, of all texts together.
    pub fn cache_tokens(&self) -> usize {
        self.pool.rows()
    }

    /// Bytes of the machine's memory that are taken, whatever is decoded.
    pub fn memory_bytes(&self) -> u64 {
        self.reserved
    }

    /// Its work so far.
    pub fn counts(&self) -> DecodingCounts {
        self.counts
    }

    /// A cache for another text, with room for so many tokens.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if the others leave none, and if the machine fails.
    pub fn begin(&mut self, tokens: usize) -> Result<CacheId> {
        let (id, moves) = self.pool.take(tokens.max(1))?;
        self.follow(moves)?;
        Ok(id)
    }

    /// Gives a text's cache back.
    pub fn end(&mut self, cache: CacheId) {
        self.pool.give_back(cache);
    }

    /// Makes room for so many tokens of a text in all.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn reserve(&mut self, cache: CacheId, tokens: usize) -> Result<()> {
        let moves = self.pool.grow(cache, tokens)?;
        self.follow(moves)
    }

    /// Copies the first tokens of a text to the front of another's cache, which has room for them.
    ///
    /// # Errors
    /// Errors if it has not, or the machine fails.
    pub fn copy(&mut self, from: CacheId, to: CacheId, tokens: usize) -> Result<()> {
        self.pool.use_rows(from, tokens)?;
        self.pool.use_rows(to, tokens)?;
        let (from, to) = (self.pool.first(from)?, self.pool.first(to)?);
        self.follow(vec![Move { from, to, rows: tokens }])
    }

    /// Moves the keys and values of some tokens of a text to another place of its cache.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub fn shift(&mut self, cache: CacheId, from: Range<usize>, to: usize) -> Result<()> {
        self.pool.use_rows(cache, from.end.max(to + from.len()))?;
        let first = self.pool.first(cache)?;
        self.follow(vec![Move { from: first + from.start, to: first + to, rows: from.len() }])
    }

    /// A pass over some rows of some texts. New keys and values are written behind what each cache holds, which has room
    /// for them; the next pass that says so counts them as its past, another overwrites them. `read` gets what is left
    /// of each wanted row, in their order.
    ///
    /// A text of many rows has several passes, cut where its rows see nothing behind the cut. Which rows share a pass
    /// with others', and how many of those there are, changes no bit of a result.
    ///
    /// # Errors
    /// Errors if the batch does not fit the model, its caches or itself, or the machine fails.
    pub fn pass(
        &mut self,
        batch: DecodeBatch<'_>,
        read: &mut dyn FnMut(usize, Read<'_>),
    ) -> Result<()> {
        stretch::check(&self.weights, batch)?;
        for (segment, of) in batch.segments.iter().zip(batch.sequences) {
            self.pool.use_rows(of.cache, of.past + segment.queries.len())?;
        }
        let stretches = stretch::cut(batch, PASS_ROWS)?;
        let mut first_wanted = 0;
        for pass in stretch::together(&stretches, batch, PASS_ROWS, PASS_WANTED) {
            let own = &stretches[pass];
            let rows = own.iter().map(|one| one.rows.clone());
            let wanted: Vec<u32> = own.iter().flat_map(|one| one.wanted_of(batch)).collect();
            // Rows of a pass lie end to end.
            let (mut tokens, mut positions, mut starts) = (Vec::new(), Vec::new(), Vec::new());
            for rows in rows.clone() {
                starts.push(tokens.len());
                tokens.extend_from_slice(&batch.tokens[rows.clone()]);
                positions.extend_from_slice(&batch.positions[rows]);
            }
            let renumbered: Vec<u32> = wanted
                .iter()
                .map(|row| {
                    let row = *row as usize;
                    let in_pass = rows.clone().zip(&starts).find(|(rows, _)| rows.contains(&row));
                    let (rows, start) = in_pass.expect("a wanted row is one of its text's");
                    (row - rows.start + start) as u32
                })
                .collect();
            let draws: Vec<Option<&Draw>> = match batch.draws {
                [] => vec![None; wanted.len()],
                draws => draws[first_wanted..first_wanted + wanted.len()]
                    .iter()
                    .map(Option::as_ref)
                    .collect(),
            };
            let mut texts = Vec::with_capacity(own.len());
            for one in own {
                let of = batch.sequences[one.text];
                texts.push(Rows {
                    queries: &one.rows,
                    first: one.first,
                    ranges: &one.ranges,
                    at: self.pool.first(of.cache)?,
                    past: of.past,
                });
            }
            let (tokens, positions) = (&tokens[..], &positions[..]);
            let (texts, wanted, draws) = (&texts[..], &renumbered[..], &draws[..]);
            self.play(Pass { tokens, positions, texts, wanted, draws }, &mut |row, left| {
                read(first_wanted + row, left)
            })?;
            first_wanted += wanted.len();
        }
        Ok(())
    }

    /// Plays the plan of the pass's shape on its tables.
    fn play(&mut self, pass: Pass<'_>, read: &mut dyn FnMut(usize, Read<'_>)) -> Result<()> {
        let shape = Shape::of(pass.texts, pass.wanted.len(), pass.draws);
        let at = self.plan(shape)?;
        let Kept { tables, logits, candidates, recording, .. } = self.plans[at];
        let machine = &mut self.machine.0;
        machine.write(tables.at, &tables.of(shape, pass, &self.at))?;
        machine.play(recording)?;
        self.counts.passes += 1;
        self.plans[at].played = self.counts.passes;
        if pass.wanted.is_empty() {
            return Ok(());
        }
        let n = pass.wanted.len();
        let mut drawn = vec![0; if shape.draws { n * Candidate::BYTES } else { 0 }];
        if shape.draws {
            machine.read(candidates, &mut drawn)?;
            self.counts.bytes_read += drawn.len() as u64;
        }
        let vocab = self.weights.config().vocab_size;
        let mut row = vec![0; 0];
        let mut numbers: Vec<f32> = Vec::new();
        for (i, draw) in pass.draws.iter().enumerate() {
            if draw.is_some() {
                let (candidates, _) = drawn.as_chunks::<{ Candidate::BYTES }>();
                read(i, Read::Candidate(Candidate::read(&candidates[i])));
                continue;
            }
            row.resize(4 * vocab, 0);
            machine.read(logits + (4 * vocab * i) as u64, &mut row)?;
            self.counts.bytes_read += row.len() as u64;
            numbers.clear();
            numbers.extend(row.as_chunks::<4>().0.iter().map(|word| f32::from_ne_bytes(*word)));
            read(i, Read::Logits(&numbers));
        }
        Ok(())
    }

    /// The place of a shape's plan among those that are kept; it is made where it is not there.
    fn plan(&mut self, shape: Shape) -> Result<usize> {
        if let Some(at) = self.plans.iter().position(|kept| kept.shape == shape) {
            return Ok(at);
        }
        let made = DecodePlan::new(&self.weights, &self.at, self.card, shape)?;
        if made.plan.arena_bytes > self.reserved {
            return Err(Error::Input(format!(
                "a pass over {} rows takes {} bytes, and {} are reserved for the largest that was planned for",
                shape.rows,
                made.plan.arena_bytes - self.at.bytes,
                self.reserved - self.at.bytes,
            )));
        }
        if self.plans.len() == MOST_PLANS {
            let oldest = self.plans.iter().enumerate().min_by_key(|(_, kept)| kept.played);
            let oldest = oldest.map_or(0, |(at, _)| at);
            self.machine.0.forget(self.plans.swap_remove(oldest).recording);
        }
        let recording = self.machine.0.record(&made.plan.steps)?;
        self.counts.plans += 1;
        let DecodePlan { tables, logits, candidates, .. } = made;
        let played = self.counts.passes;
        self.plans.push(Kept { shape, tables, logits, candidates, recording, played });
        Ok(self.plans.len() - 1)
    }

    /// Moves rows of all layers.
    fn follow(&mut self, moves: Vec<Move>) -> Result<()> {
        let row = self.at.row_bytes;
        let pieces = moves.into_iter().flat_map(Move::pieces);
        let steps = pieces.flat_map(|Move { from, to, rows }| {
            let both = self.at.layers.iter().flatten();
            both.map(move |at| Step::Copy {
                from: at + from as u64 * row,
                to: at + to as u64 * row,
                bytes: rows as u64 * row,
            })
        });
        let steps: Vec<Step> = steps.collect();
        match steps[..] {
            [] => Ok(()),
            _ => self.machine.0.run(&steps),
        }
    }
}

/// The most tokens of a pool: kernels count rows in an `int`.
const MOST_TOKENS: usize = 1 << 30;
