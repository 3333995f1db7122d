//! Prepares the rows of a batch for the kernels: everything that only the host knows, as tables.

use lacuna_checkpoint::Config;
use lacuna_kernels::{KeyRanges, Segments};

use crate::error::{Error, Result};
use crate::launch::Bytes;
use crate::layout::Layout;

/// The rows of a pass and what is learnt from them. Sequences of any lengths lie end to end.
#[derive(Clone, Copy, Debug)]
pub struct TrainingBatch<'a> {
    /// The token of each row.
    pub tokens: &'a [u32],
    /// The position of each row in its sequence or document.
    pub positions: &'a [u32],
    /// The sequences, and what each row sees of its own.
    pub segments: &'a Segments,
    /// The rows whose hidden states are supervised.
    pub wanted: &'a [u32],
    /// The token that each of them is to predict.
    pub targets: &'a [u32],
    /// The weight of each one's loss, the step's denominator included.
    pub weights: &'a [f32],
}

/// The two ranges of keys that a query sees, counted over all keys of the pass.
pub(crate) type Seen = [std::ops::Range<usize>; 2];

/// The rows of a batch, checked.
pub(crate) struct Rows<'a> {
    pub(crate) batch: TrainingBatch<'a>,
    seen: Vec<Seen>,
    /// Rows that are added to the wanted ones: the first once more, with a loss that weighs nothing.
    added: usize,
}

/// The lists of a batch that a step reads from memory, in their order, and their sizes.
pub(crate) struct Lists {
    pub(crate) sizes: ListSizes,
    pub(crate) all: Vec<Bytes>,
}

/// The numbers of a batch that decide a step's launches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListSizes {
    pub(crate) rows: usize,
    /// Ids of tokens that occur, and room for more.
    pub(crate) tokens: usize,
    pub(crate) wanted: usize,
    /// Rows among the wanted that occur, and room for more; none where every row is wanted, in order.
    pub(crate) selected: Option<usize>,
}

/// No tensor of a pass has this many numbers: kernels count them in an `int`.
const MOST_NUMBERS: usize = 1 << 31;

impl<'a> Rows<'a> {
    /// `rounds`: wanted rows are rounded up, by a little, so that other batches have as many.
    pub(crate) fn new(batch: TrainingBatch<'a>, layout: &Layout, rounds: bool) -> Result<Self> {
        let config = &layout.config;
        let input = |reason: String| Err(Error::Input(reason));
        let (rows, wanted) = (batch.tokens.len(), batch.wanted.len());
        if rows == 0 || wanted == 0 {
            return input("a batch of which no row is wanted has no gradient".into());
        }
        let lengths = (batch.positions.len(), batch.segments.query_rows());
        if lengths != (rows, rows) {
            let (positions, queries) = lengths;
            return input(format!("{rows} tokens, {positions} positions, {queries} queries"));
        }
        if (batch.targets.len(), batch.weights.len()) != (wanted, wanted) {
            let (targets, weights) = (batch.targets.len(), batch.weights.len());
            return input(format!("{wanted} wanted rows, {targets} targets, {weights} weights"));
        }
        let tokens = batch.tokens.iter().chain(batch.targets);
        if let Some(token) = tokens.copied().find(|token| *token as usize >= config.vocab_size) {
            return input(format!("token {token} is outside the vocabulary"));
        }
        let beyond = |most: usize| move |row: &u32| *row as usize >= most;
        if let Some(row) = batch.wanted.iter().copied().find(beyond(rows)) {
            return input(format!("row {row} is wanted of {rows}"));
        }
        if let Some(position) = batch.positions.iter().copied().find(beyond(layout.positions)) {
            return input(format!("position {position}, planned for {}", layout.positions));
        }
        let widths =
            [config.num_heads * config.head_dim, config.hidden_size, config.intermediate_size];
        let widest = widths.into_iter().max().unwrap_or(0);
        if rows.max(wanted).saturating_mul(widest) >= MOST_NUMBERS {
            return input(format!("{rows} rows of {widest} numbers are too many for one pass"));
        }
        let mut checked = Self { batch, seen: seen(batch.segments, rows)?, added: 0 };
        if rounds && !checked.wants_all() {
            // Less than a thirty-second of many.
            let of = (wanted / 64).next_power_of_two().max(64);
            checked.added = wanted.next_multiple_of(of) - wanted;
        }
        Ok(checked)
    }

    /// The wanted rows, those that are added included.
    fn wanted(&self) -> Vec<u32> {
        let added = std::iter::repeat_n(self.batch.wanted[0], self.added);
        self.batch.wanted.iter().copied().chain(added).collect()
    }

    /// Everything that a step reads of the batch. `rounds`: with room for as many ids as any batch of so many rows has.
    pub(crate) fn lists(&self, vocab: usize, rounds: bool) -> Lists {
        let batch = self.batch;
        let (rows, wanted) = (batch.tokens.len(), self.wanted());
        let with = |list: &[u32], more: u32| {
            let mut list = list.to_vec();
            list.resize(wanted.len(), more);
            list
        };
        let mut weights = batch.weights.to_vec();
        weights.resize(wanted.len(), 0.);
        let (tokens, [ids, starts, places]) =
            occurrences(batch.tokens, rounds.then_some(rows.min(vocab)));
        let mut all = vec![
            words(batch.tokens),
            ids,
            starts,
            places,
            words(&with(batch.targets, batch.targets[0])),
            Bytes::of(&weights, f32::to_ne_bytes),
            words(batch.positions),
            ranges(self.seen.iter()),
        ];
        let selected = (!self.wants_all()).then(|| {
            let (n, occur) = occurrences(&wanted, rounds.then_some(wanted.len()));
            all.push(words(&wanted));
            all.extend(occur);
            let positions = wanted.iter().map(|row| batch.positions[*row as usize]);
            all.push(words(&positions.collect::<Vec<_>>()));
            all.push(ranges(wanted.iter().map(|row| &self.seen[*row as usize])));
            n
        });
        Lists { sizes: ListSizes { rows, tokens, wanted: wanted.len(), selected }, all }
    }

    /// True if every row is wanted, in order.
    pub(crate) fn wants_all(&self) -> bool {
        let wanted = self.batch.wanted;
        wanted.len() == self.batch.tokens.len()
            && wanted.iter().enumerate().all(|(i, row)| i == *row as usize)
    }

    /// Operations of a step's products, as [`TrainingStep`](crate::TrainingStep) tells them.
    pub(crate) fn operations(&self, config: &Config) -> f64 {
        let (rows, wanted) = (self.batch.tokens.len() as f64, self.batch.wanted.len() as f64);
        let count = |seen: &Seen| seen.iter().map(|range| range.len() as f64).sum::<f64>();
        let all_pairs: f64 = self.seen.iter().map(count).sum();
        let of_wanted = self.batch.wanted.iter().map(|row| count(&self.seen[*row as usize]));
        let of_wanted: f64 = of_wanted.sum();
        let [h, inner] = [config.hidden_size, config.intermediate_size].map(|n| n as f64);
        let [q, kv] =
            [config.num_heads, config.num_kv_heads].map(|heads| (heads * config.head_dim) as f64);
        // Of the last layer only wanted rows have queries and go on behind the attention.
        let layer = |queries: f64, pairs: f64| {
            queries * (2. * h * q + 3. * h * inner) + rows * 2. * h * kv + pairs * 2. * q
        };
        let layers = (config.num_layers - 1) as f64 * layer(rows, all_pairs);
        let products = layers + layer(wanted, of_wanted) + wanted * h * config.vocab_size as f64;
        3. * 2. * products
    }
}

/// The ranges of rows as kernels read them.
fn ranges<'a>(seen: impl Iterator<Item = &'a Seen>) -> Bytes {
    let words = seen.map(|seen| seen.clone().map(|range| [range.start as i32, range.end as i32]));
    let words: Vec<[[i32; 2]; 2]> = words.collect();
    Bytes::of(words.as_flattened().as_flattened(), i32::to_ne_bytes)
}

/// The keys that each row sees, among those of the whole pass: so one launch takes sequences of any lengths.
fn seen(segments: &Segments, keys: usize) -> Result<Vec<Seen>> {
    let mut seen = Vec::with_capacity(keys);
    for segment in segments.iter() {
        if segment.keys.end > keys {
            let reason = format!("a sequence reads keys {:?} of {keys}", segment.keys);
            return Err(Error::Input(reason));
        }
        for query in 0..segment.queries.len() {
            seen.push(key_ranges(&segment.ranges, query, segment.keys.start)?);
        }
    }
    Ok(seen)
}

/// The keys that a query sees, its prefix among them, as two ranges that are counted from `first` on.
pub(crate) fn key_ranges(ranges: &KeyRanges, query: usize, first: usize) -> Result<Seen> {
    let [one, two] = ranges.ranges(query).clone();
    let mut own: Vec<std::ops::Range<usize>> = Vec::new();
    for range in [0..ranges.prefix(), one, two].into_iter().filter(|range| !range.is_empty()) {
        match own.last_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => own.push(range),
        }
    }
    if own.len() > 2 {
        let reason = "a row sees three ranges of keys, and the kernels know of two";
        return Err(Error::Input(reason.into()));
    }
    own.resize(2, 0..0);
    let shift = |range: &std::ops::Range<usize>| match range.is_empty() {
        true => 0..0,
        false => range.start + first..range.end + first,
    };
    Ok([shift(&own[0]), shift(&own[1])])
}

/// The ids that occur, where the places of each begin, and these places, those of one together and ascending. There are
/// `n` ids, or as many as there are; those beyond have no places.
pub(crate) fn occurrences(ids: &[u32], n: Option<usize>) -> (usize, [Bytes; 3]) {
    let mut places: Vec<u32> = (0..ids.len() as u32).collect();
    places.sort_by_key(|place| ids[*place as usize]);
    let (mut tokens, mut starts) = (Vec::new(), Vec::new());
    for (i, place) in places.iter().enumerate() {
        let id = ids[*place as usize];
        if tokens.last() != Some(&id) {
            tokens.push(id);
            starts.push(i as u32);
        }
    }
    let n = n.unwrap_or(tokens.len());
    tokens.resize(n, 0);
    starts.resize(n + 1, ids.len() as u32);
    (n, [words(&tokens), words(&starts), words(&places)])
}

/// A list of numbers as a kernel reads it.
pub(crate) fn words(list: &[u32]) -> Bytes {
    Bytes::of(list, u32::to_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna_kernels::AttentionMask;

    #[test]
    fn every_row_sees_what_its_sequence_says() {
        let block_size = 2.try_into().unwrap();
        let mask = |seq_len| AttentionMask::BlockDiffusion { block_size, seq_len };
        let ranges = [
            KeyRanges::new(mask(3), 6, 6, 0),
            KeyRanges::documents(mask(5), &[2, 3]).unwrap(),
            KeyRanges::new(AttentionMask::Causal, 4, 4, 0),
        ];
        let segments = Segments::end_to_end(ranges.clone());
        let seen = seen(&segments, 20).unwrap();
        let (mut row, mut key) = (0, 0);
        for ranges in ranges {
            for query in 0..ranges.q_len() {
                for at in 0..20 {
                    let own = at >= key && at < key + ranges.kv_len();
                    let expected = own && ranges.visible(query, at - key);
                    assert_eq!(seen[row].iter().any(|r| r.contains(&at)), expected, "{row} {at}");
                }
                row += 1;
            }
            key += ranges.kv_len();
        }
        assert_eq!((row, key), (20, 20));
    }
}
