//! Cached passes for decoding: ragged batches of sequences, each with its own visibility.

use candle_core::Tensor;
use lacuna_kernels::{AttentionMask, Positions, Spans, attention_by_token};
use std::num::NonZeroUsize;

use crate::cache::KvCache;
use crate::error::Result;
use crate::transformer::Transformer;

/// What the new tokens of a [`Lane`] see of each other, and where they stand behind the committed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Autoregressive: each sees those before it.
    Causal,
    /// Bidirectional in a block, causal between blocks.
    BlockCausal {
        /// Tokens of a block.
        block_size: NonZeroUsize,
    },
    /// \[`draft` masks | `queued` finished tokens | `draft` drafted tokens\]: the training mask at inference.
    Speculative {
        /// Tokens of a block.
        block_size: NonZeroUsize,
        /// Finished tokens that are not in the cache yet.
        queued: usize,
        /// Drafted tokens, and masks in their places.
        draft: usize,
    },
}

impl View {
    fn spans(self, n: usize, prefix: usize) -> Spans {
        match self {
            View::Causal => Spans::new(AttentionMask::Causal, n, prefix + n, prefix),
            View::BlockCausal { block_size } => {
                Spans::new(AttentionMask::BlockCausal { block_size }, n, prefix + n, prefix)
            }
            View::Speculative { block_size, queued, draft } => {
                Spans::speculative(block_size, queued, draft, prefix)
            }
        }
    }

    /// Position of new token `i`, counted from the end of the committed ones.
    fn offset(self, i: usize) -> usize {
        match self {
            View::Speculative { queued, draft, .. } if i < draft => queued + i,
            View::Speculative { draft, .. } => i - draft,
            _ => i,
        }
    }
}

/// One sequence's share of a cached pass ([`Transformer::pass`]).
pub struct Lane<'a> {
    /// The sequence's committed keys and values; the pass writes its own behind them, uncommitted.
    pub cache: &'a mut KvCache,
    /// The new tokens.
    pub tokens: &'a [u32],
    /// What the new tokens see of each other; committed ones are seen by all.
    pub view: View,
    /// Which of the new tokens' logits are wanted, ascending.
    pub rows: &'a [usize],
}

impl Transformer {
    /// One cached pass over several sequences; the logits [sum of wanted rows, vocab], lanes in order, or
    /// `None` if no row is wanted. New keys and values lie behind the committed ones until
    /// [`KvCache::keep`] takes them or the next pass overwrites them.
    ///
    /// # Errors
    /// Errors if a sequence outgrows the model's positions or a cache belongs to another model.
    pub fn pass(&self, lanes: &mut [Lane<'_>]) -> Result<Option<Tensor>> {
        let (mut tokens, mut wanted, mut position_ids) = (Vec::new(), Vec::new(), Vec::new());
        let mut lane_spans = Vec::with_capacity(lanes.len());
        for lane in lanes.iter_mut() {
            let (prefix, n) = (lane.cache.len(), lane.tokens.len());
            lane.cache.reserve(prefix + n)?;
            wanted.extend(lane.rows.iter().map(|r| (tokens.len() + r) as u32));
            position_ids.extend((0..n).map(|i| (prefix + lane.view.offset(i)) as u32));
            tokens.extend_from_slice(lane.tokens);
            lane_spans.push(lane.view.spans(n, prefix));
        }
        self.check_positions(position_ids.iter().max().map_or(0, |p| *p as usize + 1))?;
        let n_rows = tokens.len();
        let tokens = Tensor::from_vec(tokens, n_rows, &self.device)?;
        let positions = Positions::Explicit(vec![position_ids].into());
        let select = Some(self.select(&wanted, &wanted)?);
        let hidden = self.run(&tokens, select, |layer_idx, qkv, last| {
            let (q, k, v) = self.rotated(layer_idx, qkv, (1, n_rows, n_rows), &positions)?;
            let mut outputs = Vec::with_capacity(lanes.len());
            let mut start = 0;
            for (lane, spans) in lanes.iter_mut().zip(&lane_spans) {
                let n = lane.tokens.len();
                let lane_q = q.narrow(1, start, n)?;
                let (k, v) = lane.cache.extended(
                    layer_idx,
                    &k.narrow(1, start, n)?,
                    &v.narrow(1, start, n)?,
                )?;
                // After the last layer only wanted rows are read on.
                let unread = last && lane.rows.is_empty();
                outputs.push(if unread {
                    lane_q
                } else {
                    attention_by_token(self.backend, &lane_q, &k, &v, spans, self.scale())?
                });
                start += n;
            }
            let out =
                if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(&outputs, 1)? };
            self.rows_first(&out)
        })?;
        if wanted.is_empty() { Ok(None) } else { Ok(Some(self.logits(&hidden)?)) }
    }
}
