//! Cuts the rows of texts into stretches that can be read one after the other, and puts stretches of several texts into one
//! pass.

use lacuna_kernels::KeyRanges;
use std::ops::Range;

use super::DecodeBatch;
use crate::decode::Weights;
use crate::error::{Error, Result};

/// Rows of a text that are read together.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    /// The text, by its place in the batch.
    pub(super) text: usize,
    /// Its rows of the batch, and the first of them, counted from the text's own first.
    pub(super) rows: Range<usize>,
    pub(super) first: usize,
    /// The keys that each of the text's rows sees.
    pub(super) ranges: KeyRanges,
}

impl Stretch {
    /// The batch's wanted rows that are among its own.
    pub(super) fn wanted_of<'a>(&self, batch: DecodeBatch<'a>) -> impl Iterator<Item = u32> + 'a {
        let rows = self.rows.clone();
        batch.wanted.iter().copied().filter(move |row| rows.contains(&(*row as usize)))
    }
}

/// Checks a batch against its model and itself.
pub(super) fn check(weights: &Weights, batch: DecodeBatch<'_>) -> Result<()> {
    let input = |reason: String| Err(Error::Input(reason));
    let rows = batch.tokens.len();
    let counts = (batch.positions.len(), batch.segments.query_rows(), batch.segments.len());
    if counts != (rows, rows, batch.sequences.len()) || rows == 0 {
        let (positions, queries, segments) = counts;
        return input(format!(
            "{rows} tokens, {positions} positions, {queries} queries; {segments} segments, {} texts",
            batch.sequences.len()
        ));
    }
    if !batch.draws.is_empty() && batch.draws.len() != batch.wanted.len() {
        let (draws, wanted) = (batch.draws.len(), batch.wanted.len());
        return input(format!("{draws} draws from {wanted} wanted rows"));
    }
    let vocab = weights.config().vocab_size;
    if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= vocab) {
        return input(format!("token {token} is outside the vocabulary"));
    }
    let last = batch.wanted.last().map_or(0, |last| *last as usize);
    if last >= rows || !batch.wanted.is_sorted() {
        return input(format!("row {last} is wanted of {rows}, expected rows that ascend"));
    }
    let position = batch.positions.iter().max().map_or(0, |last| *last as usize);
    if position >= weights.positions() {
        return input(format!("position {position}, planned for {}", weights.positions()));
    }
    for (number, (segment, of)) in batch.segments.iter().zip(batch.sequences).enumerate() {
        let keys = of.past + segment.queries.len();
        if segment.keys.len() != keys || segment.queries.is_empty() {
            let found = segment.keys.len();
            return input(format!("a text of {keys} keys whose rows see {found}"));
        }
        if batch.sequences[..number].iter().any(|other| other.cache == of.cache) {
            return input("a cache is given to two texts".into());
        }
    }
    Ok(())
}

/// The stretches of every text: at most `most` rows each, or as many as see one another. They depend on the text alone.
pub(super) fn cut(batch: DecodeBatch<'_>, most: usize) -> Result<Vec<Stretch>> {
    let mut stretches = Vec::new();
    for (text, (segment, of)) in batch.segments.iter().zip(batch.sequences).enumerate() {
        let (n, ranges) = (segment.queries.len(), &segment.ranges);
        let mut start = 0;
        let mut stretch = |end: usize| {
            let rows = segment.queries.start + start..segment.queries.start + end;
            stretches.push(Stretch { text, rows, first: start, ranges: ranges.clone() });
            start = end;
        };
        // The end of the longest stretch so far that sees nothing behind it.
        let (mut reach, mut end, mut begun) = (ranges.prefix(), 0, 0);
        for row in 0..n {
            reach = ranges.ranges(row).iter().fold(reach, |most, range| match range.is_empty() {
                true => most,
                false => most.max(range.end),
            });
            if reach > of.past + row + 1 {
                continue;
            }
            if row + 1 - begun > most && end > begun {
                stretch(end);
                begun = end;
            }
            end = row + 1;
        }
        if end > begun {
            stretch(end);
        }
        if end < n {
            let reason = format!("a text's rows see keys behind its {} tokens", of.past + n);
            return Err(Error::Input(reason));
        }
    }
    Ok(stretches)
}

/// The stretches that share a pass: as many, in their order, as have room in it.
pub(super) fn together(
    stretches: &[Stretch],
    batch: DecodeBatch<'_>,
    most_rows: usize,
    most_wanted: usize,
) -> Vec<Range<usize>> {
    let mut passes: Vec<Range<usize>> = Vec::new();
    let (mut rows, mut wanted) = (0, 0);
    for (i, one) in stretches.iter().enumerate() {
        let own_wanted = one.wanted_of(batch).count();
        (rows, wanted) = (rows + one.rows.len(), wanted + own_wanted);
        match passes.last_mut().filter(|_| rows <= most_rows && wanted <= most_wanted) {
            Some(pass) => pass.end = i + 1,
            None => {
                passes.push(i..i + 1);
                (rows, wanted) = (one.rows.len(), own_wanted);
            }
        }
    }
    passes
}
