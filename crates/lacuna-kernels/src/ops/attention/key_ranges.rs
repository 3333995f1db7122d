//! Lays a mask out for one run of queries, as the ranges of keys that each of them reads.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::AttentionMask;
use super::cpu::plan::Plan;

/// The keys that each of a run of queries sees: a `prefix` that all see, then at most two contiguous ranges.
///
/// Cheap to clone, and clones share what the kernels work out from it: build it once for each pattern of a
/// pass, and use it for all windows of that pattern and in all layers.
///
/// # Example: four queries of the second block against a cache of four keys
/// ```
/// # use lacuna_kernels::{AttentionMask, KeyRanges};
/// let ranges = KeyRanges::new(AttentionMask::Full, 4, 8, 4);
/// assert_eq!(ranges.pairs(), 32);
/// ```
#[derive(Clone, Debug)]
pub struct KeyRanges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kv_len: usize,
    prefix: usize,
    /// The ranges that each query sees beyond the prefix.
    queries: Vec<[Range<usize>; 2]>,
    /// Work plans made so far, by (group, lanes): every layer of a pass asks for the same one.
    plans: Mutex<Vec<PlanOf>>,
}

type PlanOf = ((usize, usize), Arc<Plan>);

impl KeyRanges {
    fn of(queries: Vec<[Range<usize>; 2]>, kv_len: usize, prefix: usize) -> Self {
        Self(Arc::new(Inner { kv_len, prefix, queries, plans: Mutex::default() }))
    }

    /// Lays out `mask` for queries `0..q_len` against `prefix` cached keys, followed by `kv_len - prefix` keys of the
    /// mask's own: 2 · `seq_len` of them for [`AttentionMask::BlockDiffusion`], where `q_len` may be smaller
    /// (`seq_len` asks for the noisy half only).
    ///
    /// # Panics
    /// If `prefix > kv_len`.
    pub fn new(mask: AttentionMask, q_len: usize, kv_len: usize, prefix: usize) -> Self {
        assert!(prefix <= kv_len, "a prefix of {prefix} keys does not fit into {kv_len}");
        let own = kv_len - prefix;
        let shift = |r: Range<usize>| r.start + prefix..r.end + prefix;
        Self::of((0..q_len).map(|q| mask.ranges(q, own).map(shift)).collect(), kv_len, prefix)
    }

    /// Lays out `mask` for one window of packed documents, given their lengths in order. Positions and blocks restart
    /// in each document, and nothing is seen across documents.
    ///
    /// For [`AttentionMask::BlockDiffusion`] each half holds the documents once, and `seq_len` is
    /// the window, i.e. the sum of the lengths.
    ///
    /// # Errors
    /// If the sum is not `seq_len`.
    pub fn documents(mask: AttentionMask, lengths: &[usize]) -> Result<Self> {
        let window: usize = lengths.iter().sum();
        if let AttentionMask::BlockDiffusion { seq_len, .. } = mask
            && seq_len != window
        {
            bail!("key ranges: documents sum to {window}, expected seq_len = {seq_len}")
        }
        let queries = document_queries(mask, lengths, window);
        let kv_len = queries.len();
        Ok(Self::of(queries, kv_len, 0))
    }

    /// Lays out a speculative pass over \[`draft` masked | `queued` | `draft` tokens\]: the training mask whose clean
    /// half begins with `queued` finished tokens. Masked block b sees the prefix, itself, the queued tokens and the
    /// draft's blocks before b; queued and draft tokens are block-causal. Both are multiples of the block size.
    pub fn speculative(
        block_size: NonZeroUsize,
        queued: usize,
        draft: usize,
        prefix: usize,
    ) -> Self {
        Self::drafted((block_size, queued, draft, prefix), |i| {
            (i / block_size.get() + 1) * block_size.get()
        })
    }

    /// [`speculative`](Self::speculative) under causal attention: masked tokens see of their own block, and queued and
    /// draft tokens see of all of those, only what stands before them, and themselves.
    pub fn speculative_causal(
        block_size: NonZeroUsize,
        queued: usize,
        draft: usize,
        prefix: usize,
    ) -> Self {
        Self::drafted((block_size, queued, draft, prefix), |i| i + 1)
    }

    /// A speculative pass in which token i of its run sees this run up to `end(i)`.
    fn drafted(
        (block_size, queued, draft, prefix): (NonZeroUsize, usize, usize, usize),
        end: impl Fn(usize) -> usize,
    ) -> Self {
        let size = block_size.get();
        let clean = prefix + draft;
        let masked = (0..draft).map(|i| {
            let begin = i / size * size;
            [prefix + begin..prefix + end(i).min(draft), clean..clean + queued + begin]
        });
        let finished = (0..queued + draft)
            .map(|i| [prefix..prefix, clean..clean + end(i).min(queued + draft)]);
        let queries: Vec<_> = masked.chain(finished).collect();
        let kv_len = prefix + queries.len();
        Self::of(queries, kv_len, prefix)
    }

    /// The ranges of the first `n` queries alone, e.g. of the noisy half of a block-diffusion pass.
    ///
    /// # Panics
    /// If there are fewer than `n` queries.
    pub fn first_queries(&self, n: usize) -> Self {
        Self::of(self.0.queries[..n].to_vec(), self.0.kv_len, self.0.prefix)
    }

    /// The ranges of the listed queries, in the list's order.
    ///
    /// # Panics
    /// If a query does not exist.
    pub fn select_queries(&self, queries: &[usize]) -> Self {
        let selected = queries.iter().map(|q| self.ranges(*q).clone()).collect();
        Self::of(selected, self.0.kv_len, self.0.prefix)
    }

    /// Tells whether query `q` sees key `kv`.
    pub fn visible(&self, q: usize, kv: usize) -> bool {
        kv < self.prefix() || self.ranges(q).iter().any(|r| r.contains(&kv))
    }

    /// Visible (query, key) pairs: the work of one head.
    pub fn pairs(&self) -> usize {
        let own = |q: &[Range<usize>; 2]| q[0].len() + q[1].len() + self.0.prefix;
        self.0.queries.iter().map(own).sum()
    }

    /// Number of queries.
    pub fn q_len(&self) -> usize {
        self.0.queries.len()
    }

    /// Number of keys, the prefix included.
    pub fn kv_len(&self) -> usize {
        self.0.kv_len
    }

    /// Keys at the front that every query sees.
    pub fn prefix(&self) -> usize {
        self.0.prefix
    }

    /// The two ranges of a query beyond the prefix, ascending; either may be empty.
    pub fn ranges(&self, q: usize) -> &[Range<usize>; 2] {
        &self.0.queries[q]
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

    /// The mask as a tensor `[q_len, kv_len]`: 1 where the query sees the key, else 0.
    ///
    /// # Errors
    /// If the device can't hold the tensor.
    pub fn to_tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let (q_len, kv_len) = (self.q_len(), self.kv_len());
        let mut seen = Vec::with_capacity(q_len * kv_len);
        for q in 0..q_len {
            seen.extend((0..kv_len).map(|kv| u8::from(self.visible(q, kv))));
        }
        Tensor::from_vec(seen, (q_len, kv_len), device)?.to_dtype(dtype)
    }
}

fn document_queries(
    mask: AttentionMask,
    lengths: &[usize],
    window: usize,
) -> Vec<[Range<usize>; 2]> {
    let diffusion = matches!(mask, AttentionMask::BlockDiffusion { .. });
    let halves = if diffusion { 2 } else { 1 };
    let mut queries = vec![[0..0, 0..0]; halves * window];
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
            queries[at] = local.ranges(q, halves * len).map(place);
        }
        start += len;
    }
    queries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_agree_with_the_mask_behind_a_prefix() {
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
                let ranges = KeyRanges::new(mask, q_len, prefix + own, prefix);
                let mut pairs = 0;
                for q in 0..q_len {
                    for kv in 0..prefix + own {
                        let expected = kv < prefix || mask.visible(q, kv - prefix);
                        assert_eq!(ranges.visible(q, kv), expected, "{mask:?} {q} {kv}");
                        pairs += usize::from(expected);
                    }
                }
                assert_eq!(ranges.pairs(), pairs);
            }
        }
    }

    #[test]
    fn selected_queries_see_what_they_saw() {
        let block_size = NonZeroUsize::new(2).unwrap();
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len: 8 };
        let whole = KeyRanges::new(mask, 16, 16, 0);
        let documents = KeyRanges::documents(mask, &[3, 5]).unwrap();
        for ranges in [whole, documents] {
            let queries = [5, 0, 5, 12];
            let selected = ranges.select_queries(&queries);
            assert_eq!((selected.q_len(), selected.kv_len()), (4, 16));
            for (slot, q) in queries.iter().enumerate() {
                for kv in 0..16 {
                    let seen = ranges.visible(*q, kv);
                    assert_eq!(selected.visible(slot, kv), seen, "{slot} {kv}");
                }
            }
        }
    }

    #[test]
    fn documents_see_nothing_of_each_other_and_count_from_their_start() {
        let block_size = NonZeroUsize::new(2).unwrap();
        let diffusion = AttentionMask::BlockDiffusion { block_size, seq_len: 8 };
        let masks = [
            AttentionMask::Causal,
            AttentionMask::Full,
            AttentionMask::BlockCausal { block_size },
            diffusion,
        ];
        for lengths in [vec![3, 1, 4], vec![8]] {
            let owner = |position: usize| {
                let mut start = 0;
                for (document, len) in lengths.iter().enumerate() {
                    if position < start + len {
                        return (document, position - start, *len);
                    }
                    start += len;
                }
                unreachable!()
            };
            for mask in masks {
                let ranges = KeyRanges::documents(mask, &lengths).unwrap();
                let len = if mask == diffusion { 16 } else { 8 };
                assert_eq!((ranges.q_len(), ranges.kv_len()), (len, len));
                for (q, kv) in (0..len).flat_map(|q| (0..len).map(move |kv| (q, kv))) {
                    let (doc_q, at_q, doc_len) = owner(q % 8);
                    let (doc_kv, at_kv, _) = owner(kv % 8);
                    let local = match mask {
                        AttentionMask::BlockDiffusion { block_size, .. } => {
                            AttentionMask::BlockDiffusion { block_size, seq_len: doc_len }
                        }
                        other => other,
                    };
                    let at = |half: usize, at: usize| half * doc_len + at;
                    let seen = doc_q == doc_kv && local.visible(at(q / 8, at_q), at(kv / 8, at_kv));
                    assert_eq!(ranges.visible(q, kv), seen, "{mask:?} {lengths:?} {q} {kv}");
                }
            }
        }
    }

    #[test]
    fn documents_that_do_not_fill_the_window_are_refused() {
        let block_size = NonZeroUsize::new(2).unwrap();
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len: 8 };
        let err = KeyRanges::documents(mask, &[3, 4]).unwrap_err();
        assert!(err.to_string().contains("sum to 7, expected seq_len = 8"), "{err}");
    }
}
