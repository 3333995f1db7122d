//! Takes one request on its way: the block that is being filled, and what lies behind it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::candidates::{CandidateSampler, Site};
use crate::error::Result;
use crate::fill::{Candidate, quota};
use crate::request::{BlockEvent, Event, FinishReason, Generation, Refinement, Request};

/// The way in which a caller watches: see [`Event`].
pub(crate) type Observer<'a> = dyn FnMut(Event<'_>) -> ControlFlow<usize> + 'a;

/// The state that a refinement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The block still has holes.
    Open,
    /// The block is complete and stands at the end of `canvas`; the next one is open.
    BlockDone,
    /// The request has ended.
    Finished,
}

/// The state of one request. Which positions are filled is tracked by position, never by token id.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: usize,
    pub(crate) request: Request,
    /// Everything before the open block: whole blocks of the prompt, then finished blocks.
    pub(crate) canvas: Vec<u32>,
    /// The open block, MASK in its holes.
    pub(crate) block: Vec<u32>,
    /// Offsets into `block` that are not filled, ascending.
    pub(crate) holes: Vec<usize>,
    /// Passes so far; counted by whoever runs them.
    pub(crate) forwards: usize,
    masked: usize,
    refinement: usize,
    blocks: usize,
    seen: BTreeSet<u32>,
    forbidden: Vec<u32>,
    forbidden_early: Vec<u32>,
    finish: Option<(FinishReason, usize)>,
}

impl Sequence {
    pub(crate) fn new(id: usize, request: Request) -> Result<Self> {
        request.validate()?;
        let prompt = &request.prompt;
        let whole = prompt.len() - prompt.len() % request.block_size().get();
        let seen = match request.sampling.penalises() {
            true => prompt.iter().copied().collect(),
            false => BTreeSet::new(),
        };
        let sorted = |ids: &[u32]| ids.iter().copied().collect::<BTreeSet<_>>();
        let forbidden = vec![request.mask_id];
        let early = [&forbidden[..], &request.eos_ids, &request.stop_ids].concat();
        let mut sequence = Self {
            id,
            canvas: prompt[..whole].to_vec(),
            block: prompt[whole..].to_vec(),
            holes: Vec::new(),
            forwards: 0,
            masked: 0,
            refinement: 0,
            blocks: 0,
            seen,
            forbidden,
            forbidden_early: sorted(&early).into_iter().collect(),
            finish: None,
            request,
        };
        sequence.open_block();
        Ok(sequence)
    }

    /// Absolute position of the open block.
    pub(crate) fn block_start(&self) -> usize {
        self.canvas.len()
    }

    /// All new tokens of finished blocks.
    pub(crate) fn generated(&self) -> &[u32] {
        self.canvas.get(self.request.prompt.len()..).unwrap_or_default()
    }

    /// Masks what the open block does not hold yet, up to its end or the request's.
    fn open_block(&mut self) {
        let end = self.request.prompt.len() + self.request.max_new_tokens;
        let size = self.request.block_size().get().min(end - self.block_start());
        self.holes = (self.block.len()..size).collect();
        self.block.resize(size, self.request.mask_id);
        self.masked = self.holes.len();
        self.refinement = 0;
    }

    /// The candidate for the hole `index`, from its logits, `[vocab]`.
    pub(crate) fn candidate(
        &self,
        index: usize,
        logits: &[f32],
        sampler: &mut CandidateSampler,
    ) -> Result<Candidate> {
        let Request { prompt, min_new_tokens, sampling, fill, .. } = &self.request;
        let position = self.block_start() + self.holes[index];
        let early = position < prompt.len() + min_new_tokens;
        let site = Site {
            request: self.id,
            position,
            refinement: self.refinement,
            forbidden: if early { &self.forbidden_early } else { &self.forbidden },
            seen: &self.seen,
        };
        sampler.pick(logits, sampling, fill.needs(), site)
    }

    /// One refinement, from a candidate for every hole: rule, fill. Counts no pass, since a
    /// speculative one serves several blocks.
    pub(crate) fn refine(
        &mut self,
        candidates: Vec<Candidate>,
        observer: &mut Observer<'_>,
    ) -> Progress {
        debug_assert_eq!(candidates.len(), self.holes.len());
        let Request { sampling, fill, .. } = &self.request;
        let start = self.block_start();
        let steps = self.request.steps_per_block();
        let chosen = fill.select(&candidates, quota(self.masked, steps, self.refinement));
        for &index in &chosen {
            self.block[self.holes[index]] = candidates[index].token;
            if sampling.penalises() {
                self.seen.insert(candidates[index].token);
            }
        }
        let filled: Vec<usize> = chosen.iter().map(|&i| candidates[i].position).collect();
        self.holes.retain(|offset| filled.binary_search(&(start + offset)).is_err());

        let refinement = self.refinement;
        self.refinement += 1;
        let (request, block_start) = (self.id, start);
        let event = Refinement { request, block_start, refinement, candidates, filled };
        if let ControlFlow::Break(keep) = observer(Event::Refinement(&event)) {
            return self.stop(keep);
        }
        self.settle(observer)
    }

    /// Ends the block if it is full, or if an eos or stop id stands in it with no hole before it.
    fn settle(&mut self, observer: &mut Observer<'_>) -> Progress {
        let start = self.block_start();
        let first_new = self.request.prompt.len().saturating_sub(start);
        let first_hole = self.holes.first().copied().unwrap_or(self.block.len());
        let known = &self.block[first_new.min(first_hole)..first_hole];
        let Request { eos_ids, stop_ids, .. } = &self.request;
        let end = known.iter().position(|id| eos_ids.contains(id) || stop_ids.contains(id));
        let mut finish = None;
        if let Some(end) = end {
            let offset = first_new + end;
            let text_len = start + offset - self.request.prompt.len();
            let token = self.block[offset];
            if eos_ids.contains(&token) {
                self.block[offset..].fill(token);
                finish = Some((FinishReason::Eos, text_len));
            } else {
                self.block.truncate(offset + 1);
                finish = Some((FinishReason::Stop, text_len));
            }
        } else if !self.holes.is_empty() {
            return Progress::Open;
        }

        self.blocks += 1;
        self.canvas.append(&mut self.block);
        let new = self.generated().len();
        if finish.is_none() && new == self.request.max_new_tokens {
            finish = Some((FinishReason::Length, new));
        }
        self.finish = finish;
        let event = BlockEvent {
            request: self.id,
            block_start: start,
            tokens: &self.canvas[start + first_new..],
            generated: self.generated(),
            text_len: finish.map_or(new, |(_, text_len)| text_len),
            forwards: self.forwards,
            finish: finish.map(|(reason, _)| reason),
        };
        if let ControlFlow::Break(keep) = observer(Event::Block(&event)) {
            return self.stop(keep);
        }
        if self.finish.is_some() {
            return Progress::Finished;
        }
        self.open_block();
        Progress::BlockDone
    }

    /// Someone's wish: only the first `keep` new tokens remain.
    pub(crate) fn stop(&mut self, keep: usize) -> Progress {
        let length = self.canvas.len().min(self.request.prompt.len().saturating_add(keep));
        self.canvas.truncate(length);
        let kept = self.generated().len();
        let text_len = self.finish.map_or(kept, |(_, text_len)| text_len.min(kept));
        self.finish = Some((FinishReason::Stop, text_len));
        Progress::Finished
    }

    /// The result of a finished sequence.
    pub(crate) fn into_generation(self) -> Generation {
        let (finish, text_len) = self.finish.expect("called once the sequence has finished");
        Generation {
            request: self.id,
            tokens: self.generated().to_vec(),
            text_len,
            finish,
            forwards: self.forwards,
            blocks: self.blocks,
        }
    }
}
