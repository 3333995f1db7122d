//! Joins a model and a sampler: sequences with caches, and passes that carry queued commits along.

use candle_core::{DType, Device, Error, Result, Tensor, bail};
use lacuna_model::{KvCache, Lane as ModelLane, Transformer, View};
use lacuna_samplers::{Denoiser, Lane};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

/// Decoding state of any number of sequences on one model: what a sampler decodes on.
///
/// A committed block waits and rides in its sequence's next pass (2B query tokens, exact under block-causal
/// attention up to rounding), unless the session was made with [`unfused`](Self::unfused).
#[derive(Debug)]
pub struct Session {
    model: Arc<Transformer>,
    block_size: NonZeroUsize,
    fused: bool,
    sequences: HashMap<usize, Sequence>,
    remembers: bool,
    passes: usize,
    prefill_seconds: f64,
}

#[derive(Debug)]
struct Sequence {
    cache: KvCache,
    /// The tokens whose keys and values the cache holds.
    cached: Vec<u32>,
    view: Option<View>,
    block_size: NonZeroUsize,
    /// Finished tokens whose keys and values are not in the cache yet.
    queued: Vec<u32>,
    pending: Option<Pending>,
    /// Under a shifted head: the logits [1, vocab] at the last finished token, which predict the first one
    /// of the open block.
    boundary: Option<Tensor>,
}

/// The last `speculate`: behind `draft` masks, its pass held finished tokens and then the draft.
#[derive(Debug)]
struct Pending {
    draft: usize,
    finished: Vec<u32>,
}

impl Session {
    /// A session without sequences; a sampler's numbers bring them into being.
    pub fn new(model: Arc<Transformer>, block_size: NonZeroUsize) -> Self {
        Self {
            model,
            block_size,
            fused: true,
            sequences: HashMap::new(),
            remembers: false,
            passes: 0,
            prefill_seconds: 0.0,
        }
    }

    /// Commits at once, in a pass of their own, as the released decoder does.
    pub fn unfused(mut self) -> Self {
        self.fused = false;
        self
    }

    /// Keeps the caches of sequences that a sampler has done with: the next text under the same number is read
    /// from where it differs from the last one on. What is written does not depend on it, up to rounding.
    pub fn remembering(mut self) -> Self {
        self.remembers = true;
        self
    }

    /// Gets ready to continue `prompt` as sequence 0; how many of its tokens are read already.
    pub(crate) fn begin(&mut self, prompt: &[u32], view: View, fused: bool) -> Result<usize> {
        if let View::BlockCausal { block_size } = view {
            self.block_size = block_size;
        }
        self.fused = fused;
        self.prefill_seconds = 0.0;
        if self.remembers { self.rewind(0, prompt, view) } else { Ok(0) }
    }

    /// Makes the cache of a sequence a beginning of `tokens`, as long as it can be, and says how long it is.
    ///
    /// Under block-causal attention that are whole blocks: the keys of a token depend on all of its block.
    ///
    /// # Errors
    /// Errors if there is no room for a cache.
    pub fn rewind(&mut self, sequence: usize, tokens: &[u32], view: View) -> Result<usize> {
        let mut state = self.take(sequence)?;
        state.forget_unfinished();
        let shared = state.cached.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let kept = match view {
            _ if state.view.is_some_and(|old| old != view) => 0,
            View::BlockCausal { block_size } => {
                // A shifted head reads the first token to write off the last finished one.
                let reread = usize::from(self.model.logit_shift() && shared == tokens.len());
                shared.saturating_sub(reread) / block_size * block_size.get()
            }
            View::Causal => shared,
            View::Speculative { .. } => 0,
        };
        state.cached.truncate(kept);
        state.cache.truncate(kept);
        state.view = Some(view);
        self.sequences.insert(sequence, state);
        Ok(kept)
    }

    /// Forward passes so far, prefill included.
    pub fn passes(&self) -> usize {
        self.passes
    }

    /// Wall time spent on prefills.
    pub fn prefill_seconds(&self) -> f64 {
        self.prefill_seconds
    }

    /// The model.
    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// The next token's logits [1, vocab] after appending `tokens` to a sequence under causal attention: one
    /// pass of autoregressive decoding.
    ///
    /// # Errors
    /// Errors if there are no tokens or the sequence outgrows the model's positions.
    pub fn append_causal(&mut self, sequence: usize, tokens: &[u32]) -> Result<Tensor> {
        if tokens.is_empty() {
            bail!("an autoregressive pass needs at least one token; start with the model's bos")
        }
        let rows = [tokens.len() - 1];
        let state = self.take(sequence)?;
        let lane = [(sequence, state, tokens.to_vec(), rows.to_vec(), View::Causal)];
        let (logits, mut lanes) = self.pass(lane.into())?;
        let (_, mut state, ..) = lanes.remove(0);
        state.keep(tokens)?;
        self.sequences.insert(sequence, state);
        on_cpu(&logits.expect("one row was asked for"))
    }

    /// Takes a sequence out of the map, or makes an empty one.
    fn take(&mut self, sequence: usize) -> Result<Sequence> {
        const FIRST_CAPACITY: usize = 256;
        if let Some(found) = self.sequences.remove(&sequence) {
            return Ok(found);
        }
        let model = &self.model;
        let cache = KvCache::new(model.config(), FIRST_CAPACITY, model.dtype(), model.device());
        Ok(Sequence {
            cache: cache.map_err(Error::wrap)?,
            cached: Vec::new(),
            view: None,
            block_size: self.block_size,
            queued: Vec::new(),
            pending: None,
            boundary: None,
        })
    }

    fn pass(&mut self, mut lanes: Vec<Pass>) -> Result<(Option<Tensor>, Vec<Pass>)> {
        let mut joined: Vec<ModelLane<'_>> = lanes
            .iter_mut()
            .map(|(_, state, tokens, rows, view)| ModelLane {
                cache: &mut state.cache,
                tokens,
                view: *view,
                rows,
            })
            .collect();
        self.passes += 1;
        let logits = self.model.pass(&mut joined).map_err(Error::wrap)?;
        Ok((logits, lanes))
    }

    /// Puts queued blocks into the cache with a pass of their own.
    fn flush(&mut self, sequence: usize) -> Result<()> {
        let mut state = self.take(sequence)?;
        if !state.queued.is_empty() {
            let tokens = std::mem::take(&mut state.queued);
            let view = View::BlockCausal { block_size: state.block_size };
            let n = tokens.len();
            let rows = if self.model.logit_shift() { vec![n - 1] } else { Vec::new() };
            let (logits, mut lanes) = self.pass(vec![(sequence, state, tokens, rows, view)])?;
            let tokens;
            (_, state, tokens, ..) = lanes.remove(0);
            state.keep(&tokens)?;
            state.boundary = logits.map(|logits| on_cpu(&logits)).transpose()?;
        }
        self.sequences.insert(sequence, state);
        Ok(())
    }
}

impl Sequence {
    /// Commits the first rows of the last pass, which were these tokens.
    fn keep(&mut self, tokens: &[u32]) -> Result<()> {
        self.cache.keep(0..tokens.len()).map_err(Error::wrap)?;
        self.cached.extend_from_slice(tokens);
        Ok(())
    }

    /// Leaves what the cache holds and nothing else.
    fn forget_unfinished(&mut self) {
        self.queued.clear();
        self.pending = None;
        self.boundary = None;
    }
}

/// Number, state, new tokens, wanted rows, visibility.
type Pass = (usize, Sequence, Vec<u32>, Vec<usize>, View);

fn on_cpu(logits: &Tensor) -> Result<Tensor> {
    logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)
}

impl Denoiser for Session {
    fn prefill(&mut self, sequence: usize, tokens: &[u32], block_size: usize) -> Result<()> {
        let began = Instant::now();
        let size = NonZeroUsize::new(block_size)
            .ok_or_else(|| Error::msg("a block of 0 tokens can't be prefilled"))?;
        let held = match self.remembers {
            true => self.rewind(sequence, tokens, View::BlockCausal { block_size: size })?,
            false => 0,
        };
        let mut state = self.take(sequence)?;
        state.block_size = size;
        state.queued.extend_from_slice(&tokens[held..]);
        self.sequences.insert(sequence, state);
        self.flush(sequence)?;
        self.prefill_seconds += began.elapsed().as_secs_f64();
        Ok(())
    }

    fn denoise(&mut self, lanes: &[Lane<'_>]) -> Result<Tensor> {
        let shift = usize::from(self.model.logit_shift());
        let mut passes = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let state = self.take(lane.sequence)?;
            let queued = state.queued.len();
            let tokens = state.queued.iter().chain(lane.block).copied().collect();
            // Under a shifted head each token is read off the row before it, if this pass has that row.
            let rows = lane.rows.iter().map(|r| r + queued).filter(|r| *r >= shift);
            let rows = rows.map(|r| r - shift).collect();
            let view = View::BlockCausal { block_size: state.block_size };
            passes.push((lane.sequence, state, tokens, rows, view));
        }
        let (logits, passes) = self.pass(passes)?;
        let logits = logits.map(|logits| on_cpu(&logits)).transpose()?;
        let (mut parts, mut row) = (Vec::new(), 0);
        for ((number, mut state, _, rows, _), lane) in passes.into_iter().zip(lanes) {
            let queued = std::mem::take(&mut state.queued);
            state.keep(&queued)?;
            if shift == 1 && lane.rows.first() == Some(&0) {
                match (&logits, queued.is_empty()) {
                    (Some(logits), false) => state.boundary = Some(logits.narrow(0, row, 1)?),
                    _ => parts.push(state.boundary.clone().ok_or_else(|| {
                        Error::msg(
                            "a shifted head can't write the first token of a text; give a prompt",
                        )
                    })?),
                }
            }
            if let (Some(logits), true) = (&logits, !rows.is_empty()) {
                parts.push(logits.narrow(0, row, rows.len())?);
            }
            row += rows.len();
            self.sequences.insert(number, state);
        }
        match parts.len() {
            0 => bail!("a pass without a wanted row"),
            1 => Ok(parts.remove(0)),
            _ if shift == 0 => logits.ok_or_else(|| Error::msg("a pass without a wanted row")),
            _ => Tensor::cat(&parts, 0),
        }
    }

    fn commit(&mut self, sequence: usize, block: &[u32]) -> Result<()> {
        let mut state = self.take(sequence)?;
        state.queued.extend_from_slice(block);
        self.sequences.insert(sequence, state);
        if self.fused { Ok(()) } else { self.flush(sequence) }
    }

    fn speculate(
        &mut self,
        sequence: usize,
        draft: &[u32],
        block_size: usize,
        mask_id: u32,
    ) -> Result<Tensor> {
        let Some(size) =
            NonZeroUsize::new(block_size).filter(|b| draft.len().is_multiple_of(b.get()))
        else {
            bail!("a draft of {} tokens is no whole number of blocks of {block_size}", draft.len())
        };
        if self.model.logit_shift() {
            bail!("drafts are not verified under a shifted head; decode without a draft")
        }
        let mut state = self.take(sequence)?;
        let queued = std::mem::take(&mut state.queued);
        let masks = std::iter::repeat_n(mask_id, draft.len());
        let tokens = masks.chain(queued.iter().copied()).chain(draft.iter().copied()).collect();
        let view = View::Speculative { block_size: size, queued: queued.len(), draft: draft.len() };
        let rows = (0..draft.len()).collect();
        let (logits, mut lanes) = self.pass(vec![(sequence, state, tokens, rows, view)])?;
        let (_, mut state, ..) = lanes.remove(0);
        state.pending =
            Some(Pending { draft: draft.len(), finished: [&queued[..], draft].concat() });
        self.sequences.insert(sequence, state);
        match logits {
            Some(logits) => on_cpu(&logits),
            None => bail!("a draft without tokens"),
        }
    }

    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<()> {
        let mut state = self.take(sequence)?;
        match state.pending.take() {
            Some(Pending { draft, finished }) if tokens <= draft => {
                let kept = finished.len() - draft + tokens;
                state.cache.keep(draft..draft + kept).map_err(Error::wrap)?;
                state.cached.extend_from_slice(&finished[..kept]);
                self.sequences.insert(sequence, state);
                Ok(())
            }
            Some(Pending { draft, .. }) => {
                bail!("{tokens} tokens of a draft of {draft} can't be accepted")
            }
            None => bail!("nothing was speculated, so nothing can be accepted"),
        }
    }

    fn release(&mut self, sequence: usize) {
        if !self.remembers {
            self.sequences.remove(&sequence);
        } else if let Some(state) = self.sequences.get_mut(&sequence) {
            state.forget_unfinished();
        }
    }
}
