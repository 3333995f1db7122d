//! Writes down what differs between two passes of one shape: everything that launches read from memory, in one piece that is
//! copied to the device at once.

use lacuna_checkpoint::Config;
use std::ops::Range;

use super::shape::{Rows, Shape, distinct, sequences};
use super::{Draw, KeysAndValues};
use crate::batch::words;
use crate::launch::Bytes;
use crate::recorder::Recorder;

/// Bytes of a sequence and of a draw, as the kernels have them.
const SEQUENCE_BYTES: usize = 96;
const DRAW_BYTES: usize = 88;
/// A row that goes nowhere, a piece of work that is none, a draw from no row.
const NONE: u32 = u32::MAX;

/// The places of the tables of a shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tables {
    /// The first byte of all of them.
    pub(crate) at: u64,
    pub(super) tokens: u64,
    pub(super) positions: u64,
    /// The row of the pool that each row's keys and values go to.
    pub(super) places: u64,
    /// Each row in its place.
    pub(super) in_order: u64,
    pub(super) ranges: u64,
    pub(super) pieces: u64,
    /// The sequences of the first layer; those of the next follow `sequences_bytes` behind.
    pub(super) sequences: u64,
    pub(super) sequences_bytes: u64,
    pub(super) wanted: u64,
    pub(super) draws: u64,
    forbidden: u64,
    seen: u64,
    /// Bytes of a set of tokens.
    seen_bytes: u64,
    head_dim: usize,
}

/// The rows of a pass, as the tables tell them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) positions: &'a [u32],
    pub(crate) texts: &'a [Rows<'a>],
    /// Rows whose logits are wanted, counted from the pass's first.
    pub(crate) wanted: &'a [u32],
    /// A draw from each of these, where one is made.
    pub(crate) draws: &'a [Option<&'a Draw>],
}

impl Tables {
    pub(super) fn new(shape: Shape, config: &Config, recorder: &mut Recorder) -> Self {
        let sequences_bytes = (shape.sequences * SEQUENCE_BYTES) as u64;
        let seen_bytes = config.vocab_size.div_ceil(32).next_multiple_of(2) as u64 * 4;
        let mut end = 0u64;
        let mut take = |bytes: usize| {
            let at = end;
            end = (at + bytes as u64).next_multiple_of(16);
            at
        };
        let [tokens, positions, places, in_order] = std::array::from_fn(|_| take(4 * shape.rows));
        let (ranges, pieces) = (take(16 * shape.rows), take(8 * shape.pieces));
        let sequences = take(sequences_bytes as usize * config.num_layers);
        let wanted = take(4 * shape.wanted);
        let draws = take(if shape.draws { DRAW_BYTES * shape.wanted } else { 0 });
        let forbidden = take(4 * shape.forbidden);
        let seen = take(seen_bytes as usize * shape.seen);
        let at = recorder.table(end);
        let [tokens, positions, places, in_order, ranges, pieces, sequences, wanted, draws] =
            [tokens, positions, places, in_order, ranges, pieces, sequences, wanted, draws]
                .map(|offset| at + offset);
        let (forbidden, seen) = (at + forbidden, at + seen);
        Self {
            at,
            tokens,
            positions,
            places,
            in_order,
            ranges,
            pieces,
            sequences,
            sequences_bytes,
            wanted,
            draws,
            forbidden,
            seen,
            seen_bytes,
            head_dim: config.head_dim,
        }
    }

    /// The bytes that stand in them for a pass of this shape. Rows beyond the pass's read token 0 and go nowhere.
    pub(crate) fn of(&self, shape: Shape, pass: Pass<'_>, at: &KeysAndValues) -> Bytes {
        let mut all = Bytes::default();
        let mut put = |place: u64, data: Bytes| all.put((place - self.at) as usize, data);
        let rows = shape.rows;
        let padded = |list: &[u32], n: usize, with: u32| {
            let mut list = list.to_vec();
            list.resize(n, with);
            words(&list)
        };
        let (mut places, mut ranges) = (Vec::with_capacity(rows), Vec::with_capacity(4 * rows));
        for text in pass.texts {
            for row in text.first..text.first + text.queries.len() {
                places.push((text.at + text.past + row) as u32);
                let ends = |range: &Range<usize>| [range.start as u32, range.end as u32];
                ranges.extend(text.ranges.ranges(row).iter().flat_map(ends));
            }
        }
        put(self.tokens, padded(pass.tokens, rows, 0));
        put(self.positions, padded(pass.positions, rows, 0));
        put(self.places, padded(&places, rows, NONE));
        put(self.in_order, words(&(0..rows as u32).collect::<Vec<_>>()));
        put(self.ranges, padded(&ranges, 4 * rows, 0));
        let pieces = sequences(pass.texts).enumerate().flat_map(|(number, one)| {
            (0..one.pieces).flat_map(move |piece| [number as u32, piece as u32])
        });
        put(self.pieces, padded(&pieces.collect::<Vec<_>>(), 2 * shape.pieces, NONE));
        for (i, layer) in at.layers.iter().enumerate() {
            let mut table = self.sequence_table(pass.texts, *layer, at.row_bytes);
            table.bytes.resize(self.sequences_bytes as usize, 0);
            put(self.sequences + i as u64 * self.sequences_bytes, table);
        }
        put(self.wanted, padded(pass.wanted, shape.wanted, 0));
        if shape.draws {
            self.put_draws(shape, pass.draws, put);
        }
        all
    }

    /// The sequences of one layer as attention reads them.
    fn sequence_table(&self, texts: &[Rows<'_>], layer: [u64; 2], row_bytes: u64) -> Bytes {
        let (mut table, mut part) = (Bytes::default(), 0);
        for one in sequences(texts) {
            for at in layer {
                let first = at + one.at as u64 * row_bytes;
                let row = row_bytes as usize / 2;
                table = table.pointer(first).long(0).long(self.head_dim).int(row).end();
            }
            let counts = [one.query, one.rows, one.keys, one.prefix, one.split, one.pieces];
            table = counts.into_iter().fold(table, Bytes::int).long(part);
            part += one.pieces * one.rows;
        }
        table
    }

    /// Draws, and the lists and sets that they point to.
    fn put_draws(&self, shape: Shape, draws: &[Option<&Draw>], mut put: impl FnMut(u64, Bytes)) {
        let made = || draws.iter().flatten();
        let lists = distinct(made().map(|draw| &draw.forbidden[..]));
        let sets = distinct(made().filter_map(|draw| draw.penalised()));
        let first_of = |list: &[u32]| {
            let before = lists.iter().take_while(|other| **other != list);
            self.forbidden + 4 * before.map(|other| other.len()).sum::<usize>() as u64
        };
        let set_of = |set: &[u32]| {
            let number = sets.iter().take_while(|other| **other != set).count();
            self.seen + number as u64 * self.seen_bytes
        };
        let rows = draws.iter().copied().chain(std::iter::repeat(None)).take(shape.wanted);
        let table = rows.enumerate().fold(Bytes::default(), |table, (row, draw)| {
            let none = Draw::default();
            let (row, draw, at) = match draw {
                Some(draw) => (row as u64, draw, first_of(&draw.forbidden)),
                None => (u64::MAX, &none, self.forbidden),
            };
            draw_args(table, row, draw, (draw.penalised().map(set_of), at))
        });
        put(self.draws, table);
        put(self.forbidden, words(&lists.concat()));
        for (number, set) in sets.iter().enumerate() {
            let mut bits = vec![0u32; self.seen_bytes as usize / 4];
            for token in *set {
                if let Some(word) = bits.get_mut(*token as usize / 32) {
                    *word |= 1 << (token % 32);
                }
            }
            put(self.seen + number as u64 * self.seen_bytes, words(&bits));
        }
    }
}

/// A draw as the kernels read it.
fn draw_args(table: Bytes, row: u64, draw: &Draw, (seen, forbidden): (Option<u64>, u64)) -> Bytes {
    let table = [row, draw.seed, draw.position, draw.refinement]
        .into_iter()
        .fold(table, |table, word| table.long(word as usize));
    let numbers = [draw.temperature, draw.top_p.unwrap_or(0.), draw.min_p.unwrap_or(0.)];
    let table = numbers.into_iter().fold(table, Bytes::double).double(draw.repetition_penalty);
    let top_k = draw.top_k.map_or(0, |k| k.min(i32::MAX as u32) as usize);
    let table = table.pointer_or_null(seen).pointer(forbidden);
    table.int(draw.forbidden.len()).int(top_k)
}
