//! Checks a decoder's batch against model and caches, and cuts its attention into pieces of work.

use super::{Caches, DecodeBatch, Weights};
use crate::error::{Error, Result};

/// A batch that fits, and the work that its attention is cut into.
pub(super) struct Checked<'a> {
    pub(super) batch: DecodeBatch<'a>,
    /// The row of all caches that each row's keys and values go to.
    pub(super) places: Vec<u32>,
    pub(super) ranges: Vec<[std::ops::Range<usize>; 2]>,
    /// Each sequence's first row and rows, its keys and those that all rows see, keys of a piece and pieces, and its first
    /// partial result.
    pub(super) sequences: Vec<[usize; 7]>,
    pub(super) pieces: Vec<u32>,
    pub(super) parts: usize,
    pub(super) most_rows: usize,
}

/// Rows of a sequence share one summary of what they see.
const MOST_ROWS: usize = 32;
/// Keys of a piece, by the length of the cache alone: at least 256, and at most 64 pieces.
fn keys_of_a_piece(keys: usize) -> usize {
    keys.div_ceil(64).next_multiple_of(64).max(256)
}

impl<'a> Checked<'a> {
    pub(super) fn new(weights: &Weights, caches: &Caches, batch: DecodeBatch<'a>) -> Result<Self> {
        let input = |reason: String| Err(Error::Input(reason));
        let rows = batch.tokens.len();
        let counts = (batch.positions.len(), batch.segments.query_rows(), batch.segments.len());
        if counts != (rows, rows, batch.sequences.len()) || rows == 0 {
            let (positions, queries, segments) = counts;
            return input(format!(
                "{rows} tokens, {positions} positions, {queries} queries; {segments} segments, {} sequences",
                batch.sequences.len()
            ));
        }
        if !batch.draws.is_empty() && batch.draws.len() != batch.wanted.len() {
            let (draws, wanted) = (batch.draws.len(), batch.wanted.len());
            return input(format!("{draws} draws from {wanted} wanted rows"));
        }
        let vocab = weights.config.vocab_size;
        if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= vocab) {
            return input(format!("token {token} is outside the vocabulary"));
        }
        let last = |list: &[u32]| list.iter().max().map_or(0, |last| *last as usize);
        if last(batch.wanted) >= rows || batch.wanted.is_empty() {
            return input(format!("row {} is wanted of {rows}", last(batch.wanted)));
        }
        if last(batch.positions) >= weights.positions {
            let (position, most) = (last(batch.positions), weights.positions);
            return input(format!("position {position}, planned for {most}"));
        }
        let mut all = Self {
            batch,
            places: Vec::with_capacity(rows),
            ranges: Vec::with_capacity(rows),
            sequences: Vec::new(),
            pieces: Vec::new(),
            parts: 0,
            most_rows: 0,
        };
        for (number, (segment, of)) in batch.segments.iter().zip(batch.sequences).enumerate() {
            let (n, keys) = (segment.queries.len(), of.past + segment.queries.len());
            let capacity = caches.capacities.get(of.cache).copied().unwrap_or(0);
            if keys > capacity || n > MOST_ROWS || n == 0 {
                return input(format!(
                    "{n} rows behind {} tokens of cache {}: it has room for {capacity}, and a pass takes {MOST_ROWS}",
                    of.past, of.cache
                ));
            }
            if segment.keys.len() != keys {
                let found = segment.keys.len();
                return input(format!("a sequence of {keys} keys whose rows see {found}"));
            }
            if batch.sequences[..number].iter().any(|other| other.cache == of.cache) {
                return input(format!("cache {} is given to two sequences", of.cache));
            }
            let first = caches.first[of.cache] + of.past;
            all.places.extend((first..first + n).map(|place| place as u32));
            all.ranges.extend((0..n).map(|query| segment.ranges.ranges(query).clone()));
            let prefix = segment.ranges.prefix();
            let split = keys_of_a_piece(keys);
            let pieces = keys.div_ceil(split);
            all.sequences.push([segment.queries.start, n, keys, prefix, split, pieces, all.parts]);
            all.pieces.extend((0..pieces).flat_map(|piece| [number as u32, piece as u32]));
            all.parts += pieces * n;
            all.most_rows = all.most_rows.max(n);
        }
        Ok(all)
    }
}
