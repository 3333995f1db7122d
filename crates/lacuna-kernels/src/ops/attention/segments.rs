//! Lays the sequences of one pass end to end, for attention, which reads them beside q, k and v.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{KeyRanges, StoredRows};

/// One sequence of a pass: its rows among the queries, its rows among the keys, and the keys that each query sees.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Rows of q and of the output.
    pub queries: Range<usize>,
    /// Rows of k and v; of the segment's own k and v for [`attention_over`](crate::attention_over).
    pub keys: Range<usize>,
    /// The keys that each query sees; both are counted from the first of `queries` and of `keys`.
    pub ranges: KeyRanges,
}

/// All sequences of a pass, in the order of their queries. Cheap to clone.
///
/// A kernel takes them all in one call, whatever their lengths: training windows, halves of them, requests
/// that are being decoded. Segments of one pattern should share their [`KeyRanges`].
///
/// # Example: two windows of three tokens and a sequence of five
/// ```
/// # use lacuna_kernels::{AttentionMask::Causal, KeyRanges, Segments};
/// let three = KeyRanges::new(Causal, 3, 3, 0);
/// let segments = Segments::end_to_end([three.clone(), three, KeyRanges::new(Causal, 5, 5, 0)]);
/// assert_eq!(segments.query_rows(), 11);
/// assert_eq!(segments.iter().nth(1).map(|s| s.queries.clone()), Some(3..6));
/// ```
#[derive(Clone, Debug)]
pub struct Segments(Arc<[Segment]>);

impl Segments {
    /// The given segments as one pass.
    ///
    /// # Errors
    /// If a segment's ranges count other queries or keys than it has, its rows do not ascend, or its queries do
    /// not begin where those of the segment before end.
    pub fn new(segments: Vec<Segment>) -> Result<Self> {
        let mut next = 0;
        for (i, segment) in segments.iter().enumerate() {
            let Segment { queries, keys, ranges } = segment;
            // A range that runs backwards is as long as an empty one, and rows would get two owners behind it.
            if queries.start > queries.end || keys.start > keys.end {
                bail!("segment {i}: rows {queries:?} and keys {keys:?}, expected ascending ranges")
            }
            if (queries.len(), keys.len()) != (ranges.q_len(), ranges.kv_len()) {
                let (q, kv) = (ranges.q_len(), ranges.kv_len());
                bail!(
                    "segment {i}: rows {queries:?} and keys {keys:?}, expected {q} and {kv} of them"
                )
            }
            if queries.start != next {
                bail!("segment {i}: rows {queries:?}, expected them to begin at {next}")
            }
            next = queries.end;
        }
        Ok(Self(segments.into()))
    }

    /// One segment for each of `ranges`, with queries and keys laid end to end.
    pub fn end_to_end(ranges: impl IntoIterator<Item = KeyRanges>) -> Self {
        let (mut query, mut key) = (0, 0);
        let segment = |ranges: KeyRanges| {
            let queries = query..query + ranges.q_len();
            let keys = key..key + ranges.kv_len();
            (query, key) = (queries.end, keys.end);
            Segment { queries, keys, ranges }
        };
        Self(ranges.into_iter().map(segment).collect())
    }

    /// The segments in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Segment> {
        self.0.iter()
    }

    /// The number of segments.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is no segment.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Rows of q that the segments cover.
    pub fn query_rows(&self) -> usize {
        self.0.last().map_or(0, |last| last.queries.end)
    }

    /// Visible (query, key) pairs: the work of one head.
    pub fn pairs(&self) -> usize {
        self.iter().map(|segment| segment.ranges.pairs()).sum()
    }

    /// Checks q `[rows, heads, d]` against k and v `[keys, kv_heads, d]` that hold all segments' keys.
    pub(crate) fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        self.check_queries(q)?;
        let (k, v) = (k.dims3()?.into(), v.dims3()?.into());
        self.iter().try_for_each(|segment| check_keys(q, k, v, segment))
    }

    /// Checks q against one k and v for each segment.
    pub(crate) fn check_over(&self, q: &Tensor, caches: &[(StoredRows, StoredRows)]) -> Result<()> {
        self.check_queries(q)?;
        if caches.len() != self.len() {
            bail!(
                "attention: {} pairs of keys and values for {} segments",
                caches.len(),
                self.len()
            )
        }
        let mut pairs = self.iter().zip(caches);
        pairs.try_for_each(|(segment, (k, v))| check_keys(q, k.dims()?, v.dims()?, segment))
    }

    fn check_queries(&self, q: &Tensor) -> Result<()> {
        let (rows, ..) = q.dims3()?;
        if rows != self.query_rows() {
            bail!("attention: q has {rows} rows, expected {} as in the segments", self.query_rows())
        }
        Ok(())
    }

    /// The rows of k that no query can see, whose gradient is zero: those between segments, and those of segments
    /// without queries.
    ///
    /// # Errors
    /// If two segments share keys: their gradients would have to be added up.
    pub(crate) fn unread_keys(&self, keys: usize) -> Result<Vec<Range<usize>>> {
        let reads = |segment: &&Segment| !segment.queries.is_empty() && !segment.keys.is_empty();
        let mut read: Vec<_> = self.iter().filter(reads).map(|s| s.keys.clone()).collect();
        read.sort_by_key(|keys| (keys.start, keys.end));
        let (mut unread, mut from) = (Vec::new(), 0);
        for keys in read.into_iter().chain(std::iter::once(keys..keys)) {
            if keys.start < from {
                bail!("attention: two segments share key {}: no gradient is formed", keys.start)
            }
            if from < keys.start {
                unread.push(from..keys.start);
            }
            from = keys.end;
        }
        Ok(unread)
    }
}

fn check_keys(q: &Tensor, k: [usize; 3], v: [usize; 3], segment: &Segment) -> Result<()> {
    let (_, heads, d) = q.dims3()?;
    let [keys, kv_heads, kd] = k;
    if k != v {
        bail!("attention: v is {v:?}, expected {k:?} as k")
    }
    if kd != d || kv_heads == 0 || heads % kv_heads != 0 {
        bail!(
            "attention: k is {k:?} and q {:?}, expected the same head size, and heads a multiple of kv heads",
            q.dims()
        )
    }
    if segment.keys.end > keys {
        bail!("attention: a segment reads keys {:?}, but there are {keys}", segment.keys)
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AttentionMask::Causal;

    fn segment(queries: Range<usize>, keys: Range<usize>) -> Segment {
        let ranges = KeyRanges::new(Causal, queries.len(), keys.len(), 0);
        Segment { queries, keys, ranges }
    }

    #[test]
    fn segments_that_leave_out_a_row_or_miscount_are_refused() {
        assert!(Segments::new(vec![segment(0..3, 0..3), segment(3..4, 3..4)]).is_ok());
        let error = |segments| Segments::new(segments).unwrap_err().to_string();
        let gap = error(vec![segment(0..3, 0..3), segment(4..5, 3..4)]);
        assert!(gap.contains("segment 1: rows 4..5, expected them to begin at 3"), "{gap}");
        let short = Segment { keys: 0..2, ..segment(0..3, 0..3) };
        assert!(error(vec![short]).contains("expected 3 and 3 of them"));
    }

    #[test]
    fn ranges_that_run_backwards_are_refused() {
        let backwards = Range { start: 3, end: 1 };
        let error = |segments| Segments::new(segments).unwrap_err().to_string();
        let rows = vec![segment(0..3, 0..3), segment(backwards.clone(), 0..0), segment(1..4, 0..3)];
        assert!(error(rows).contains("segment 1: rows 3..1"));
        let keys = vec![segment(0..2, 0..2), segment(2..2, backwards)];
        assert!(error(keys).contains("keys 3..1, expected ascending ranges"));
    }

    #[test]
    fn keys_that_nobody_reads_are_told_and_shared_ones_have_no_gradient() {
        let segments = Segments::new(vec![segment(0..2, 4..6), segment(2..3, 1..2)]).unwrap();
        assert_eq!(segments.unread_keys(8).unwrap(), [0..1, 2..4, 6..8]);
        assert_eq!(segments.unread_keys(6).unwrap(), [0..1, 2..4]);
        let shared = Segments::new(vec![segment(0..2, 0..2), segment(2..3, 1..2)]).unwrap();
        let error = shared.unread_keys(2).unwrap_err().to_string();
        assert!(error.contains("share key 1"), "{error}");
    }
}
