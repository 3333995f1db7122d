//! Says what of a pass decides its launches, so that passes of one shape are one plan: numbers of rows and of pieces of
//! work, rounded up. What the rounding adds goes nowhere: no row's result depends on other texts' rows.

use lacuna_kernels::KeyRanges;
use std::ops::Range;

use super::Draw;

/// Rows of a sequence that share one summary of what they see.
pub(super) const MOST_ROWS: usize = 32;
/// Forbidden tokens that every shape with draws has room for.
const FEW_FORBIDDEN: usize = 16;

/// The most pieces that keys are cut into.
const MOST_PIECES: usize = 64;
/// The fewest keys of a piece.
const FEW_KEYS: usize = 256;

/// Keys of a piece, by the length of the cache alone.
fn keys_of_a_piece(keys: usize) -> usize {
    keys.div_ceil(MOST_PIECES).next_multiple_of(64).max(FEW_KEYS)
}

/// The pieces that so many keys are cut into.
pub(crate) fn pieces(keys: usize) -> usize {
    keys.div_ceil(keys_of_a_piece(keys))
}

/// The rows of a pass that belong to one text, and what they see of its cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The text's rows of the batch that this pass takes.
    pub(crate) queries: &'a Range<usize>,
    /// The first of them, counted from the first of the text's in the batch.
    pub(crate) first: usize,
    /// The keys that each of the text's rows sees.
    pub(crate) ranges: &'a KeyRanges,
    /// The row of the pool that its keys begin with.
    pub(crate) at: usize,
    /// Tokens that lie there already.
    pub(crate) past: usize,
}

/// A text's rows that one summary serves, with the pieces that its keys are cut into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sequence {
    /// Its first row among the pass's, and how many there are.
    pub(super) query: usize,
    pub(super) rows: usize,
    /// Its keys, and those at the front that every row sees.
    pub(super) keys: usize,
    pub(super) prefix: usize,
    /// Keys of a piece, and how many pieces there are.
    pub(super) split: usize,
    pub(super) pieces: usize,
    /// The row of the pool that its keys begin with.
    pub(super) at: usize,
}

/// The sequences of a pass, as attention takes them.
pub(super) fn sequences<'a>(of: &'a [Rows<'a>]) -> impl Iterator<Item = Sequence> + 'a {
    let mut query = 0;
    of.iter().flat_map(move |text| {
        let n = text.queries.len();
        let first = query;
        query += n;
        let keys = text.past + text.first + n;
        (0..n).step_by(MOST_ROWS).map(move |row| Sequence {
            query: first + row,
            rows: MOST_ROWS.min(n - row),
            keys,
            prefix: text.ranges.prefix().min(keys),
            split: keys_of_a_piece(keys),
            pieces: pieces(keys),
            at: text.at,
        })
    })
}

/// The numbers that launches depend on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    /// Rows whose logits are formed; without any the last layer leaves its keys and values alone.
    pub(crate) wanted: usize,
    /// True if candidates are drawn.
    pub(crate) draws: bool,
    /// Words of all lists of forbidden tokens.
    pub(crate) forbidden: usize,
    /// Sets of tokens that were seen.
    pub(crate) seen: usize,
    pub(crate) sequences: usize,
    /// The most rows of a sequence.
    pub(crate) most_rows: usize,
    /// Pieces of work of the attention, and partial results that they leave.
    pub(crate) pieces: usize,
    pub(crate) parts: usize,
}

/// A number of rows, rounded up: to a power of two, from 16 on to a multiple of 16, from 128 on of 64.
fn rounded(rows: usize) -> usize {
    match rows {
        0 => 0,
        1..=16 => rows.next_power_of_two(),
        17..=128 => rows.next_multiple_of(16),
        _ => rows.next_multiple_of(64),
    }
}

impl Shape {
    /// The shape that takes these rows, so many of them wanted.
    pub(crate) fn of(texts: &[Rows<'_>], wanted: usize, draws: &[Option<&Draw>]) -> Self {
        let mut shape = Self {
            rows: rounded(texts.iter().map(|text| text.queries.len()).sum()),
            wanted: rounded(wanted),
            draws: draws.iter().any(Option::is_some),
            forbidden: 0,
            seen: 0,
            sequences: 0,
            most_rows: 1,
            pieces: 0,
            parts: 0,
        };
        for sequence in sequences(texts) {
            shape.sequences += 1;
            shape.most_rows = shape.most_rows.max(sequence.rows);
            shape.pieces += sequence.pieces;
            shape.parts += sequence.pieces * sequence.rows;
        }
        for one in [&mut shape.sequences, &mut shape.most_rows, &mut shape.pieces, &mut shape.parts]
        {
            *one = one.next_power_of_two();
        }
        if shape.draws {
            let lists = distinct(draws.iter().flatten().map(|draw| &draw.forbidden[..]));
            let words: usize = lists.iter().map(|list| list.len()).sum();
            shape.forbidden = words.next_power_of_two().max(FEW_FORBIDDEN);
            let sets = distinct(draws.iter().flatten().filter_map(|draw| draw.penalised())).len();
            shape.seen = if sets == 0 { 0 } else { sets.next_power_of_two() };
        }
        shape
    }

    /// A shape that no pass of `rows` rows, `wanted` of them wanted, on caches of up to `keys` tokens is larger than.
    pub(crate) fn largest(rows: usize, wanted: usize, keys: usize) -> Self {
        let (rows, wanted) = (rounded(rows), rounded(wanted));
        // Longer caches have larger pieces, and may have fewer of them than a shorter one.
        let pieces = if keys > MOST_PIECES * FEW_KEYS { MOST_PIECES } else { pieces(keys) };
        let parts = (rows * pieces).next_power_of_two();
        Self {
            rows,
            wanted,
            draws: true,
            forbidden: (wanted * FEW_FORBIDDEN).next_power_of_two(),
            seen: wanted.next_power_of_two(),
            sequences: rows.next_power_of_two(),
            most_rows: MOST_ROWS,
            pieces: parts,
            parts,
        }
    }
}

impl Draw {
    /// The tokens that were seen, if that matters.
    pub(super) fn penalised(&self) -> Option<&[u32]> {
        (self.repetition_penalty != 1.).then_some(&self.seen[..])
    }
}

/// The lists that occur, each once: the rows of a text share theirs.
pub(super) fn distinct<'a>(lists: impl Iterator<Item = &'a [u32]>) -> Vec<&'a [u32]> {
    let mut all: Vec<&[u32]> = Vec::new();
    for list in lists {
        if !all.contains(&list) {
            all.push(list);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna_kernels::AttentionMask;

    #[test]
    fn passes_of_nearly_the_same_size_have_one_shape_and_none_is_too_small() {
        let of = |lengths: &[usize], past: usize| {
            let ranges: Vec<_> = lengths
                .iter()
                .map(|n| (0..*n, KeyRanges::new(AttentionMask::Causal, *n, past + n, past)))
                .collect();
            let texts: Vec<Rows<'_>> = ranges
                .iter()
                .map(|(queries, ranges)| Rows { queries, first: 0, ranges, at: 0, past })
                .collect();
            let exact: Vec<Sequence> = sequences(&texts).collect();
            (Shape::of(&texts, lengths.len(), &[]), exact)
        };
        assert_eq!(of(&[5, 3, 6], 100).0, of(&[6, 6, 4], 140).0);
        assert_ne!(of(&[5], 100).0, of(&[5], 300).0, "a second piece of keys");
        let (shape, exact) = of(&[70, 2], 1000);
        assert_eq!(exact.iter().map(|one| one.rows).collect::<Vec<_>>(), [32, 32, 6, 2]);
        assert_eq!(exact.iter().map(|one| one.query).collect::<Vec<_>>(), [0, 32, 64, 70]);
        assert!(shape.rows >= 72 && shape.pieces >= 20 && shape.parts >= 72 * 4 + 70);
        let most = Shape::largest(72, 2, 1070);
        assert!(most.rows >= shape.rows && most.parts >= shape.parts);
        assert!(most.pieces >= shape.pieces && most.sequences >= shape.sequences);
    }
}
