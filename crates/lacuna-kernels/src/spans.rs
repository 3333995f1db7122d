//! A mask laid out for one pass: which ranges of keys each query reads.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::AttentionMask;
use crate::attention::plan::Plan;

/// Which keys each query sees: a `prefix` that everyone sees, then at most two contiguous ranges.
///
/// Cheap to clone; build it once per pass and share it between layers.
///
/// # Example: four queries of the second block against a cache of four keys
/// ```
/// # use lacuna_kernels::{AttentionMask, Spans};
/// let spans = Spans::new(AttentionMask::Full, 4, 8, 4);
/// assert_eq!(spans.pairs(), 32);
/// ```
#[derive(Clone, Debug)]
pub struct Spans(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    q_len: usize,
    kv_len: usize,
    prefix: usize,
    /// One list of `q_len` entries per batch row, or a single list that all rows share.
    rows: Vec<Vec<[Range<usize>; 2]>>,
    /// Work plans made so far, by (group, lanes): every layer of a pass asks for the same one.
    plans: Plans,
}

type Plans = Mutex<Vec<((usize, usize), Arc<Plan>)>>;

impl Spans {
    /// Queries `0..q_len` against `prefix` cached keys followed by `kv_len - prefix` keys of the
    /// mask's own: 2 · `seq_len` of them for [`AttentionMask::BlockDiffusion`], where `q_len` may
    /// be smaller (`seq_len` asks for the noisy half only).
    ///
    /// # Panics
    /// If `prefix > kv_len`.
    pub fn new(mask: AttentionMask, q_len: usize, kv_len: usize, prefix: usize) -> Self {
        assert!(prefix <= kv_len, "a prefix of {prefix} keys does not fit into {kv_len}");
        let own = kv_len - prefix;
        let shift = |r: Range<usize>| r.start + prefix..r.end + prefix;
        let row = (0..q_len).map(|q| mask.ranges(q, own).map(shift)).collect();
        Self(Arc::new(Inner { q_len, kv_len, prefix, rows: vec![row], plans: Plans::default() }))
    }

    /// Packed documents: `documents[row]` holds the lengths of consecutive documents of that row.
    /// Positions and blocks restart in each document and nothing is seen across documents.
    ///
    /// For [`AttentionMask::BlockDiffusion`] each half holds the documents once, and `seq_len` is
    /// the window, i.e. the sum of every row.
    ///
    /// # Errors
    /// If there is no row, or the rows differ in length, or a sum is not `seq_len`.
    pub fn documents(mask: AttentionMask, documents: &[Vec<usize>]) -> Result<Self> {
        let Some(first) = documents.first() else {
            bail!("spans: no rows of documents were given, expected one per batch row")
        };
        let window: usize = first.iter().sum();
        if let AttentionMask::BlockDiffusion { seq_len, .. } = mask
            && seq_len != window
        {
            bail!("spans: documents of row 0 sum to {window}, expected seq_len = {seq_len}")
        }
        let mut rows = Vec::with_capacity(documents.len());
        for (row, lengths) in documents.iter().enumerate() {
            let sum: usize = lengths.iter().sum();
            if sum != window {
                bail!("spans: documents of row {row} sum to {sum}, expected {window} as in row 0")
            }
            rows.push(document_row(mask, lengths, window));
        }
        let len = rows[0].len();
        Ok(Self(Arc::new(Inner {
            q_len: len,
            kv_len: len,
            prefix: 0,
            rows,
            plans: Plans::default(),
        })))
    }

    /// A speculative pass over \[`draft` masked | `queued` | `draft` tokens\]: the training mask whose clean half
    /// begins with `queued` finished tokens. Masked block b sees the prefix, itself, what is queued and the
    /// draft's blocks before b; queued and draft tokens are block-causal. Both are multiples of the block size.
    pub fn speculative(
        block_size: NonZeroUsize,
        queued: usize,
        draft: usize,
        prefix: usize,
    ) -> Self {
        let size = block_size.get();
        let clean = prefix + draft;
        let masked = (0..draft).map(|i| {
            let begin = i / size * size;
            [prefix + begin..prefix + (begin + size).min(draft), clean..clean + queued + begin]
        });
        let finished = (0..queued + draft).map(|i| {
            let end = ((i / size + 1) * size).min(queued + draft);
            [prefix..prefix, clean..clean + end]
        });
        let row: Vec<_> = masked.chain(finished).collect();
        let q_len = row.len();
        Self(Arc::new(Inner {
            q_len,
            kv_len: prefix + q_len,
            prefix,
            rows: vec![row],
            plans: Plans::default(),
        }))
    }

    /// The same for the first `n` queries alone, e.g. the noisy half of a block-diffusion pass.
    ///
    /// # Panics
    /// If there are fewer than `n` queries.
    pub fn first_queries(&self, n: usize) -> Self {
        let rows = self.0.rows.iter().map(|row| row[..n].to_vec()).collect();
        Self(Arc::new(Inner {
            q_len: n,
            kv_len: self.0.kv_len,
            prefix: self.0.prefix,
            rows,
            plans: Plans::default(),
        }))
    }

    /// The same for the listed queries of each batch row. Shorter lists are filled up with queries
    /// that see nothing but the prefix.
    ///
    /// # Panics
    /// If a query does not exist, or neither one list nor one row of spans is there for each of the
    /// other.
    pub fn select_queries(&self, queries: &[Vec<usize>]) -> Self {
        assert!(
            self.rows() == 1 || self.rows() == queries.len(),
            "{} lists of queries for {} rows of spans",
            queries.len(),
            self.rows()
        );
        let q_len = queries.iter().map(Vec::len).max().unwrap_or(0);
        let select = |(row, queries): (usize, &Vec<usize>)| {
            let mut selected: Vec<_> =
                queries.iter().map(|q| self.ranges(row, *q).clone()).collect();
            selected.resize(q_len, [0..0, 0..0]);
            selected
        };
        let rows = queries.iter().enumerate().map(select).collect();
        let Inner { kv_len, prefix, .. } = *self.0;
        Self(Arc::new(Inner { q_len, kv_len, prefix, rows, plans: Plans::default() }))
    }

    /// Whether query `q` of batch row `row` sees key `kv`.
    pub fn visible(&self, row: usize, q: usize, kv: usize) -> bool {
        kv < self.prefix() || self.ranges(row, q).iter().any(|r| r.contains(&kv))
    }

    /// Visible (query, key) pairs, summed over the listed rows: the work of one head.
    pub fn pairs(&self) -> usize {
        let own = |q: &[Range<usize>; 2]| q[0].len() + q[1].len() + self.0.prefix;
        self.0.rows.iter().flatten().map(own).sum()
    }

    /// Number of queries.
    pub fn q_len(&self) -> usize {
        self.0.q_len
    }

    /// Number of keys, the prefix included.
    pub fn kv_len(&self) -> usize {
        self.0.kv_len
    }

    /// Keys at the front that every query sees.
    pub fn prefix(&self) -> usize {
        self.0.prefix
    }

    /// How many batch rows are listed: 1 if all rows share one pattern.
    pub fn rows(&self) -> usize {
        self.0.rows.len()
    }

    /// The two ranges of a query beyond the prefix, ascending; either may be empty.
    pub(crate) fn ranges(&self, row: usize, q: usize) -> &[Range<usize>; 2] {
        let row = if self.0.rows.len() == 1 { 0 } else { row };
        &self.0.rows[row][q]
    }

    /// The order of work for `group` query heads per key head and panels of `lanes` queries.
    pub(crate) fn plan(&self, group: usize, lanes: usize) -> Arc<Plan> {
        let mut plans = self.0.plans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, plan)) = plans.iter().find(|(key, _)| *key == (group, lanes)) {
            return plan.clone();
        }
        let plan = Arc::new(Plan::new(self, group, lanes));
        plans.push(((group, lanes), plan.clone()));
        plan
    }

    /// 1 where visible, else 0: `[rows, 1, q_len, kv_len]`.
    ///
    /// # Errors
    /// If the device can't hold the tensor.
    pub fn to_tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let (rows, q_len, kv_len) = (self.rows(), self.q_len(), self.kv_len());
        let mut seen = Vec::with_capacity(rows * q_len * kv_len);
        for row in 0..rows {
            for q in 0..q_len {
                seen.extend((0..kv_len).map(|kv| u8::from(self.visible(row, q, kv))));
            }
        }
        Tensor::from_vec(seen, (rows, 1, q_len, kv_len), device)?.to_dtype(dtype)
    }

    pub(crate) fn check(&self, batch: usize, q_len: usize, kv_len: usize) -> Result<()> {
        if (self.q_len(), self.kv_len()) != (q_len, kv_len) {
            let (q, kv) = (self.q_len(), self.kv_len());
            bail!("attention: q has {q_len} rows and k {kv_len}, expected {q} and {kv} as in spans")
        }
        if self.rows() != 1 && self.rows() != batch {
            bail!("attention: batch is {batch}, expected {} as in spans", self.rows())
        }
        Ok(())
    }
}

fn document_row(mask: AttentionMask, lengths: &[usize], window: usize) -> Vec<[Range<usize>; 2]> {
    let diffusion = matches!(mask, AttentionMask::BlockDiffusion { .. });
    let halves = if diffusion { 2 } else { 1 };
    let mut row = vec![[0..0, 0..0]; halves * window];
    let mut start = 0;
    for &len in lengths {
        let local = match mask {
            AttentionMask::BlockDiffusion { block_size, .. } => {
                AttentionMask::BlockDiffusion { block_size, seq_len: len }
            }
            other => other,
        };
        // A local index below `len` lies in the first half of the window, the rest in the second.
        let place = |r: Range<usize>| match r {
            r if r.is_empty() => 0..0,
            r if r.start < len => start + r.start..start + r.end,
            r => window + start + r.start - len..window + start + r.end - len,
        };
        for q in 0..halves * len {
            let at = if q < len { start + q } else { window + start + q - len };
            row[at] = local.ranges(q, halves * len).map(place);
        }
        start += len;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_agree_with_the_mask_behind_a_prefix() {
        let block_size = NonZeroUsize::new(4).unwrap();
        let masks = [
            (AttentionMask::Causal, 7, 7),
            (AttentionMask::Full, 5, 7),
            (AttentionMask::BlockCausal { block_size }, 6, 6),
            (AttentionMask::BlockDiffusion { block_size, seq_len: 6 }, 12, 12),
            (AttentionMask::BlockDiffusion { block_size, seq_len: 6 }, 6, 12),
        ];
        for (mask, q_len, own) in masks {
            for prefix in [0, 1, 9] {
                let spans = Spans::new(mask, q_len, prefix + own, prefix);
                let mut pairs = 0;
                for q in 0..q_len {
                    for kv in 0..prefix + own {
                        let expected = kv < prefix || mask.visible(q, kv - prefix);
                        assert_eq!(spans.visible(0, q, kv), expected, "{mask:?} {q} {kv}");
                        pairs += usize::from(expected);
                    }
                }
                assert_eq!(spans.pairs(), pairs);
            }
        }
    }

    #[test]
    fn selected_queries_see_what_they_saw_and_those_filled_in_nothing() {
        let block_size = NonZeroUsize::new(2).unwrap();
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len: 8 };
        let shared = Spans::new(mask, 16, 16, 0);
        let apart = Spans::documents(mask, &[vec![3, 5], vec![8]]).unwrap();
        let queries = [vec![5, 0, 5, 12], vec![7]];
        for spans in [shared, apart] {
            let selected = spans.select_queries(&queries);
            assert_eq!((selected.q_len(), selected.kv_len(), selected.rows()), (4, 16, 2));
            for (row, queries) in queries.iter().enumerate() {
                for slot in 0..4 {
                    for kv in 0..16 {
                        let seen = queries.get(slot).is_some_and(|q| spans.visible(row, *q, kv));
                        assert_eq!(selected.visible(row, slot, kv), seen, "{row} {slot} {kv}");
                    }
                }
            }
        }
    }

    #[test]
    fn documents_see_nothing_of_each_other_and_count_from_their_start() {
        let block_size = NonZeroUsize::new(2).unwrap();
        let rows = [vec![3, 1, 4], vec![8]];
        let owner = |row: usize, position: usize| {
            let mut start = 0;
            for (document, len) in rows[row].iter().enumerate() {
                if position < start + len {
                    return (document, position - start, *len);
                }
                start += len;
            }
            unreachable!()
        };
        let diffusion = AttentionMask::BlockDiffusion { block_size, seq_len: 8 };
        let masks = [
            AttentionMask::Causal,
            AttentionMask::Full,
            AttentionMask::BlockCausal { block_size },
            diffusion,
        ];
        for mask in masks {
            let spans = Spans::documents(mask, &rows).unwrap();
            let len = if mask == diffusion { 16 } else { 8 };
            assert_eq!((spans.q_len(), spans.kv_len()), (len, len));
            for row in 0..2 {
                for q in 0..len {
                    for kv in 0..len {
                        let (doc_q, at_q, doc_len) = owner(row, q % 8);
                        let (doc_kv, at_kv, _) = owner(row, kv % 8);
                        let local = match mask {
                            AttentionMask::BlockDiffusion { block_size, .. } => {
                                AttentionMask::BlockDiffusion { block_size, seq_len: doc_len }
                            }
                            other => other,
                        };
                        let at = |half: usize, at: usize| half * doc_len + at;
                        let expected =
                            doc_q == doc_kv && local.visible(at(q / 8, at_q), at(kv / 8, at_kv));
                        assert_eq!(spans.visible(row, q, kv), expected, "{mask:?} {row} {q} {kv}");
                    }
                }
            }
        }
    }

    #[test]
    fn uneven_documents_are_refused() {
        let err = Spans::documents(AttentionMask::Causal, &[vec![3, 4], vec![5]]).unwrap_err();
        assert!(err.to_string().contains("row 1 sum to 5, expected 7"), "{err}");
        assert!(Spans::documents(AttentionMask::Causal, &[]).is_err());
    }
}
