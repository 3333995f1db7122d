//! Joins a model and a sampler: sequences with caches, and passes that carry queued commits along.

use candle_core::{DType, Device, Storage, Tensor};
use lacuna_kernels::AttentionMask;
use lacuna_model::{Activations, Batch, Predicts, Sequence as Rows, Transformer};
use lacuna_samplers::{Denoiser, Draw, Row, Segment, Speculative, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::open::Model;
use passes::Cache;
pub(crate) use passes::{Passes, SharedDecoding};

mod drafts;
mod passes;
mod prefix;

pub use prefix::Prefix;

/// Decoding state of any number of sequences on one model: what a sampler decodes on. Sequences in blocks and causal
/// ones share their passes.
///
/// A committed block waits and rides in its sequence's next pass (2B query tokens, exact under block-causal
/// attention up to rounding), unless the session was made with [`unfused`](Self::unfused). A pass that fails leaves
/// every sequence as it was.
#[derive(Debug)]
pub struct Session {
    model: Arc<Transformer>,
    on: Passes,
    fused: bool,
    /// In rising order of their numbers.
    sequences: Vec<Sequence>,
    remembers: bool,
    /// The precisions that [`Session::read_prompt_in`] has named for sequences that are still to be begun.
    prompt_precisions: BTreeMap<usize, Activations>,
    passes: usize,
    prompt_rows: usize,
    prefill_seconds: f64,
}

#[derive(Debug)]
struct Sequence {
    number: usize,
    view: View,
    /// Begun and not released. One that is not is only a memory, to be read on from.
    in_use: bool,
    /// The precision in which its prompt was read.
    precision: Activations,
    cache: Cache,
    /// The tokens whose keys and values the cache holds.
    cached: Vec<u32>,
    /// Finished tokens whose keys and values are not in the cache yet.
    queued: Vec<u32>,
    /// True if a pass has been through the prompt.
    begun: bool,
    pending: Option<Pending>,
    /// The logits [1, vocab] at the last finished token, where they predict the token that follows: under the causal
    /// view, and under a shifted head the first token of the open block.
    boundary: Option<Tensor>,
}

/// A draft that was read and is neither accepted nor dropped.
#[derive(Debug)]
struct Pending {
    /// Rows of masks that come first in the pass.
    masks: usize,
    /// Finished tokens, `queued` of them, and then the draft.
    tokens: Vec<u32>,
    queued: usize,
    /// The number of `tokens` that the pass read: all, but under the causal view, where nothing is wanted behind the
    /// last one.
    read: usize,
    /// The logits behind the last finished token and behind each of the draft, under the causal view.
    logits: Option<Tensor>,
}

/// A sequence's part in a pass.
struct Share {
    /// Its place among the session's sequences.
    at: usize,
    tokens: Vec<u32>,
    /// The tokens whose logits are wanted.
    rows: Vec<u32>,
    view: View,
    /// Tokens of a draft that the pass verifies: as many masks come first, and the draft last.
    draft: usize,
}

impl Share {
    /// Lays its tokens down behind those of the others, given how many the sequence's cache holds.
    fn push(&self, batch: &mut Batch, past: usize) -> Result<()> {
        let Self { tokens, rows, view, draft, .. } = self;
        let rows = Rows { tokens, past, wanted: Some(rows), ..Rows::default() };
        match *view {
            View::Blocks { block_size } if *draft > 0 => {
                batch.push_draft(rows, block_size, *draft)?
            }
            View::Blocks { block_size } => {
                batch.push(rows, AttentionMask::BlockCausal { block_size })?;
            }
            View::CausalBlocks { block_size } if *draft > 0 => {
                batch.push_causal_draft(rows, block_size, *draft)?;
            }
            View::CausalBlocks { .. } | View::Causal => batch.push(rows, AttentionMask::Causal)?,
        }
        Ok(())
    }
}

impl Session {
    /// A session without sequences on a model's tensors; a sampler begins and releases them.
    pub fn new(model: Arc<Transformer>) -> Self {
        let on = Passes::Tensors(Arc::clone(&model));
        Self::with(model, on)
    }

    /// A session without sequences whose passes are computed where the model was opened: by tensors, or on a card by planned
    /// launches ([`Model::open_on`]), where keys and values stay and draws are made.
    pub fn of(model: &Model) -> Self {
        Self::with(Arc::clone(&model.transformer), model.passes())
    }

    fn with(model: Arc<Transformer>, on: Passes) -> Self {
        Self {
            model,
            on,
            fused: true,
            sequences: Vec::new(),
            remembers: false,
            prompt_precisions: BTreeMap::new(),
            passes: 0,
            prompt_rows: 0,
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

    /// Has the prompt of a sequence that a sampler is about to begin read with activations of this precision. Unless
    /// that is f32, it is read in a pass of its own, and everything that is decoded is computed exactly behind it: the
    /// last token of a prompt under the causal view, and what a prompt has beyond its whole blocks, are in the first of
    /// those passes.
    ///
    /// So what is written still depends on the sequence alone, but for [`remembering`](Self::remembering): the tokens of
    /// an earlier answer are remembered as they were written, exactly, and a new session would read them rounded.
    pub fn read_prompt_in(&mut self, sequence: usize, precision: Activations) {
        self.prompt_precisions.insert(sequence, precision);
    }

    /// Gets ready for a continuation of one prompt: fused or not, with its own clock.
    pub(crate) fn begin(&mut self, fused: bool, prompt_precision: Activations) {
        self.fused = fused;
        self.prefill_seconds = 0.0;
        self.read_prompt_in(ONLY_SEQUENCE, prompt_precision);
    }

    /// Makes the cache of a sequence a beginning of `tokens`, as long as it can be, and says how long it is.
    ///
    /// Under block-causal attention that are whole blocks: the keys of a token depend on all of its block. Of a canvas that
    /// is one block nothing is kept.
    ///
    /// # Errors
    /// Errors if the session has no sequence of that number.
    pub fn rewind(&mut self, sequence: usize, tokens: &[u32], view: View) -> Result<usize> {
        let predicts = self.model.config().predicts;
        match self.find(sequence) {
            Ok(at) => Ok(self.sequences[at].rewind(tokens, view, predicts)),
            Err(_) => Err(unknown(sequence)),
        }
    }

    /// Forward passes so far, prefill included.
    pub fn passes(&self) -> usize {
        self.passes
    }

    /// Tokens of prompts that were read so far, those that a cache held left out.
    pub fn prompt_rows(&self) -> usize {
        self.prompt_rows
    }

    /// Wall time of the passes that did nothing but read prompts.
    pub fn prefill_seconds(&self) -> f64 {
        self.prefill_seconds
    }

    /// The model.
    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// The place of a sequence, or the one it would have.
    fn find(&self, number: usize) -> Result<usize, usize> {
        self.sequences.binary_search_by_key(&number, |sequence| sequence.number)
    }

    /// The place of a sequence that was begun.
    fn place(&self, number: usize) -> Result<usize> {
        let found = self.find(number).ok().filter(|at| self.sequences[*at].in_use);
        found.ok_or_else(|| unknown(number))
    }

    /// One pass over all that have new tokens. Nothing is kept of it yet. By tensors it leaves logits on the CPU; on a machine
    /// `read` gets what it leaves, drawn there where a draw is given.
    fn pass(
        &mut self,
        shares: &[Share],
        precision: Activations,
        draws: &[Option<Draw<'_>>],
        read: &mut dyn FnMut(Row<'_>),
    ) -> Result<Option<Tensor>> {
        let mut caches: Vec<Option<&mut Cache>> =
            self.sequences.iter_mut().map(|sequence| Some(&mut sequence.cache)).collect();
        let (mut batch, mut held) = (Batch::default(), Vec::with_capacity(shares.len()));
        for share in shares.iter().filter(|one| !one.tokens.is_empty()) {
            let Some(cache) = caches[share.at].take() else {
                return Err(Error::Request("a pass lists a sequence twice".into()));
            };
            share.push(&mut batch, cache.len())?;
            held.push(cache);
        }
        if held.is_empty() {
            return Ok(None);
        }
        self.passes += 1;
        match &self.on {
            Passes::Tensors(model) => {
                passes::logits(model, &batch.in_precision(precision), &mut held)
            }
            Passes::Machine(decoding) => {
                passes::on_machine(decoding, &batch, &mut held, draws, read)?;
                Ok(None)
            }
        }
    }

    /// Puts queued tokens into the cache with a pass of their own.
    fn flush(&mut self, at: usize, precision: Activations) -> Result<()> {
        let Sequence { queued: tokens, view, .. } = &self.sequences[at];
        if tokens.is_empty() {
            return Ok(());
        }
        let rows = match (view, self.model.config().predicts) {
            // There the last tokens are read again where logits behind them are wanted.
            _ if matches!(self.on, Passes::Machine(_)) => Vec::new(),
            // Under the causal view more of the prompt follows.
            (View::Causal, _) | (_, Predicts::Same) => Vec::new(),
            (_, Predicts::Next) => vec![tokens.len() as u32 - 1],
        };
        let share = Share { at, tokens: tokens.clone(), rows, view: *view, draft: 0 };
        let boundary = self.pass(&[share], precision, &[], &mut |_| {})?;
        self.sequences[at].keep_queued(boundary)
    }
}

/// The number that a sampler of one request gives to its sequence.
const ONLY_SEQUENCE: usize = 0;

/// Tokens that a new cache has room for.
pub(crate) const FIRST_CAPACITY: usize = 256;

impl Sequence {
    fn new(number: usize, on: &Passes, view: View) -> Result<Self> {
        Ok(Self::with(number, on.new_cache(FIRST_CAPACITY)?, view))
    }

    /// A sequence that is not begun, with a cache of its own.
    fn with(number: usize, cache: Cache, view: View) -> Self {
        Self {
            number,
            view,
            in_use: false,
            precision: Activations::F32,
            cache,
            cached: Vec::new(),
            queued: Vec::new(),
            begun: false,
            pending: None,
            boundary: None,
        }
    }

    /// Forgets what was read of a prompt in another precision.
    fn read_in(&mut self, precision: Activations) {
        if self.precision != precision {
            self.cached.clear();
            self.cache.truncate(0);
            self.precision = precision;
        }
    }

    /// See [`Session::rewind`].
    fn rewind(&mut self, tokens: &[u32], view: View, head: Predicts) -> usize {
        self.forget_unfinished();
        let shared = self.cached.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // A shifted head reads the first token to write off the last finished one.
        let is_read = head == Predicts::Next && view != View::Causal && shared == tokens.len();
        let kept = match self.view == view {
            true => view.settled(shared.saturating_sub(usize::from(is_read))),
            false => 0,
        };
        self.cached.truncate(kept);
        self.cache.truncate(kept);
        self.view = view;
        kept
    }

    /// Takes the queue into the cache: the first rows of the last pass.
    fn keep_queued(&mut self, boundary: Option<Tensor>) -> Result<()> {
        self.cache.keep(0..self.queued.len())?;
        if !self.queued.is_empty() {
            self.boundary = boundary;
        }
        self.cached.append(&mut self.queued);
        self.begun = true;
        Ok(())
    }

    /// Takes what was read last back into the queue, a block or a token, where the logits behind it are wanted once more and
    /// are not kept. Its keys and values come out as they were.
    fn read_again(&mut self, first: Option<usize>, head: Predicts) {
        let is_wanted = first == Some(0) && self.predicts(head) == Predicts::Next;
        if !is_wanted || !self.queued.is_empty() {
            return;
        }
        let size = match self.view {
            View::Blocks { block_size } => block_size.get(),
            View::CausalBlocks { .. } | View::Causal => 1,
        };
        self.queued = self.cached.split_off(self.cached.len().saturating_sub(size));
        self.cache.truncate(self.cached.len());
    }

    /// Leaves what the cache holds and nothing else.
    fn forget_unfinished(&mut self) {
        self.queued.clear();
        self.pending = None;
        self.boundary = None;
    }

    /// Gives the token that its logits are of, from what the head predicts at a masked position.
    fn predicts(&self, head: Predicts) -> Predicts {
        if self.view == View::Causal { Predicts::Next } else { head }
    }

    /// Its request to a pass over its queue and an open block. A row that stands before the queue is the boundary.
    fn share(&self, at: usize, segment: &Segment<'_>, head: Predicts) -> Result<Share> {
        if self.view != segment.view {
            let reason = format!("sequence {} was begun under another view", self.number);
            return Err(Error::Request(reason));
        }
        let predicts = self.predicts(head);
        let positions = segment.rows.iter().map(|row| row + self.queued.len());
        let rows = positions.filter_map(|at| predicts.row_of(at));
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        if rows.len() < segment.rows.len() && self.boundary.is_none() {
            return Err(Error::Request(match segment.view {
                View::Causal => {
                    "an autoregressive pass needs at least one token; start with the model's bos"
                        .into()
                }
                View::Blocks { .. } | View::CausalBlocks { .. } => {
                    "a shifted head can't write the first token of a text; give a prompt".into()
                }
            }));
        }
        let tokens = self.queued.iter().chain(segment.block).copied().collect();
        Ok(Share { at, tokens, rows, view: self.view, draft: 0 })
    }
}

fn unknown(sequence: usize) -> Error {
    Error::Request(format!("sequence {sequence} was not begun, or has been released"))
}

/// Logits as they can be read in place: those of a model on the CPU are as they are.
fn on_cpu(logits: &Tensor) -> Result<Tensor> {
    Ok(logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?)
}

/// Reads logits that are [`on_cpu`] row by row, where they are. logits: [rows, vocab].
fn each_row(logits: &Tensor, read: &mut dyn FnMut(&[f32])) -> Result<()> {
    let (_, vocab) = logits.dims2()?;
    let (storage, layout) = logits.storage_and_layout();
    let (Storage::Cpu(cpu), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(Error::Request("logits that are not on the cpu can't be read".into()));
    };
    cpu.as_slice::<f32>()?[start..end].chunks_exact(vocab.max(1)).for_each(read);
    Ok(())
}

impl Denoiser for Session {
    type Error = Error;

    fn prefill(&mut self, sequence: usize, tokens: &[u32], view: View) -> Result<()> {
        let began = Instant::now();
        let precision = self.prompt_precisions.remove(&sequence).unwrap_or_default();
        let at = match self.find(sequence) {
            Ok(at) if self.sequences[at].in_use => {
                return Err(Error::Request(format!("sequence {sequence} was begun already")));
            }
            Ok(at) => at,
            Err(at) => {
                self.sequences.insert(at, Sequence::new(sequence, &self.on, view)?);
                at
            }
        };
        // The last token is read again for the logits behind it.
        let causal = view == View::Causal;
        let read = tokens.len().saturating_sub(usize::from(causal));
        let head = self.model.config().predicts;
        let state = &mut self.sequences[at];
        state.read_in(precision);
        let held = state.rewind(&tokens[..read], view, head);
        self.prompt_rows += tokens.len() - held;
        (state.in_use, state.begun) = (true, !causal);
        state.queued.extend_from_slice(&tokens[held..read]);
        let apart = !causal || precision != Activations::F32;
        if apart && let Err(error) = self.flush(at, precision) {
            self.release(sequence);
            return Err(error);
        }
        self.sequences[at].queued.extend_from_slice(&tokens[read..]);
        self.prefill_seconds += began.elapsed().as_secs_f64();
        Ok(())
    }

    fn denoise(&mut self, segments: &[Segment<'_>], read: &mut dyn FnMut(&[f32])) -> Result<()> {
        self.speculate(segments, &[], read)
    }

    fn commit(&mut self, sequence: usize, tokens: &[u32]) -> Result<()> {
        let at = self.place(sequence)?;
        let state = &mut self.sequences[at];
        state.queued.extend_from_slice(tokens);
        if self.fused || state.view == View::Causal {
            Ok(())
        } else {
            self.flush(at, Activations::F32)
        }
    }

    fn release(&mut self, sequence: usize) {
        let Ok(at) = self.find(sequence) else { return };
        if self.remembers {
            self.sequences[at].forget_unfinished();
            self.sequences[at].in_use = false;
        } else {
            self.sequences.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_of_any_float_type_and_layout_are_read() {
        let columns: Vec<f32> = (0..36).map(|i| ((i * 7) % 36) as f32).collect();
        let transposed = Tensor::from_vec(columns, (9, 4), &Device::Cpu).unwrap().t().unwrap();
        let read = |logits: &Tensor| {
            let mut rows = Vec::new();
            each_row(&on_cpu(logits).unwrap(), &mut |row| rows.push(row.to_vec())).unwrap();
            rows
        };
        let expected = transposed.to_vec2::<f32>().unwrap();
        assert_eq!(read(&transposed), expected);
        assert_eq!(read(&transposed.to_dtype(DType::F64).unwrap()), expected);
        let taller = Tensor::cat(&[&transposed, &transposed], 0).unwrap();
        assert_eq!(read(&taller.narrow(0, 4, 4).unwrap()), expected);
        assert!(each_row(&transposed, &mut |_| {}).is_err(), "not in rows");
    }
}
