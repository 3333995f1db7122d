//! Takes one request on its way: the block that is being filled, and what lies behind it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::candidates::{CandidateSampler, Seen, Site, count};
use crate::constraint::{Constraint, Mask};
use crate::denoiser::{Draw, NoToken, Row};
use crate::drafts::{DraftCounts, Drafter};
use crate::error::{Error, Result, setting};
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
    /// The source of drafts, and their use so far.
    pub(crate) drafter: Option<Drafter>,
    pub(crate) drafts: DraftCounts,
    /// Blocks that were drafted and are still to come, the open one first.
    ahead: VecDeque<Ahead>,
    /// Blocks of the last draft, and those of them that came true.
    drafted: (usize, usize),
    /// The rule that its new text keeps to.
    pub(crate) guide: Option<Guide>,
    masked: usize,
    refinement: usize,
    blocks: usize,
    seen: Seen,
    forbidden: Vec<u32>,
    forbidden_early: Vec<u32>,
    finish: Option<(FinishReason, usize)>,
}

/// A block that was drafted.
#[derive(Debug)]
struct Ahead {
    tokens: Vec<u32>,
    /// The candidates of the first refinement of the block behind it, if this one comes true.
    next: Option<Result<Vec<Candidate>>>,
}

/// A rule, and how far its automaton has read the request's new text.
#[derive(Clone, Debug)]
pub(crate) struct Guide {
    pub(crate) constraint: Arc<Constraint>,
    /// The state at the first new position of the open block.
    pub(crate) state: u32,
}

impl Sequence {
    /// Holds the new text to a rule.
    pub(crate) fn constrain(&mut self, constraint: Arc<Constraint>) -> Result<()> {
        let Request { min_new_tokens, eos_ids, stop_ids, .. } = &self.request;
        if *min_new_tokens > 0 {
            let expected = "0 under a constraint, which says itself where a text may end";
            return setting("min_new_tokens", min_new_tokens, expected);
        }
        let ends: BTreeSet<u32> = eos_ids.iter().chain(stop_ids).copied().collect();
        if !ends.iter().eq(constraint.ends()) {
            let expected = format!("those of the constraint, {:?}", constraint.ends());
            return setting("eos_ids and stop_ids", format!("{ends:?}"), expected);
        }
        self.guide = Some(Guide { constraint, state: 0 });
        Ok(())
    }

    /// The tokens that may stand at each masked position of the open block; none without a rule.
    pub(crate) fn masks(&self) -> Vec<Option<Mask>> {
        let masks = |guide: &Guide| guide.constraint.masks(guide.state, &self.slots());
        self.guide.as_ref().map(masks).unwrap_or_default()
    }

    /// The new positions of the open block, None where they are masked.
    fn slots(&self) -> Vec<Option<u32>> {
        let known = |at: usize| self.holes.binary_search(&at).is_err().then(|| self.block[at]);
        (self.first_new()..self.block.len()).map(known).collect()
    }

    /// The offset in the open block behind what it holds of the prompt.
    fn first_new(&self) -> usize {
        self.request.prompt.len().saturating_sub(self.block_start())
    }

    pub(crate) fn new(id: usize, request: Request) -> Result<Self> {
        request.validate()?;
        let prompt = &request.prompt;
        let whole = prompt.len() - prompt.len() % request.block_size().get();
        let seen = match request.sampling.penalises() {
            true => prompt.iter().map(|token| (*token, 0)).collect(),
            false => Seen::new(),
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
            drafter: None,
            drafts: DraftCounts::default(),
            ahead: VecDeque::new(),
            drafted: (0, 0),
            guide: None,
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

    /// The tokens that the next passes are expected to give; none where the open block has begun.
    pub(crate) fn draft(&mut self) -> Vec<u32> {
        let is_whole = self.holes.len() == self.request.block_size().get();
        let asks = is_whole && self.ahead.is_empty();
        let Some(mut drafter) = self.drafter.take_if(|_| asks) else { return Vec::new() };
        let draft = drafter.draft(self);
        self.drafter = Some(drafter);
        self.within_rule(draft)
    }

    /// Takes down what a pass over a draft says of the blocks behind the open one.
    pub(crate) fn expect(
        &mut self,
        draft: &[u32],
        mut proposals: impl Iterator<Item = Result<Vec<Candidate>>>,
    ) {
        let blocks = draft.chunks(self.request.block_size().get());
        self.ahead =
            blocks.map(|block| Ahead { tokens: block.to_vec(), next: proposals.next() }).collect();
        self.drafted = (self.ahead.len(), 0);
        self.drafts.speculative_passes += 1;
        self.drafts.drafted_blocks += self.ahead.len();
    }

    /// Compares a finished block with its draft. If it came true, the candidates of the next block's first refinement,
    /// where they are known.
    pub(crate) fn came_true(
        &mut self,
        written: Option<&[u32]>,
    ) -> Option<Option<Result<Vec<Candidate>>>> {
        let Ahead { tokens, next } = self.ahead.pop_front()?;
        let is_true = written == Some(&tokens);
        self.drafted.1 += usize::from(is_true);
        self.drafts.accepted_blocks += usize::from(is_true);
        if !is_true || next.is_none() {
            self.ahead.clear();
            let (drafted, came_true) = self.drafted;
            if let Some(drafter) = &mut self.drafter {
                drafter.learn(drafted, came_true);
            }
        }
        is_true.then_some(next)
    }

    /// The blocks of a draft that keep to the request's rule.
    fn within_rule(&self, mut draft: Vec<u32>) -> Vec<u32> {
        if let Some(Guide { constraint, state }) = &self.guide {
            let (mut state, size) = (*state, self.request.block_size().get());
            let mut keeps = |block: &[u32]| match constraint.behind(state, block) {
                Some(next) => {
                    state = next;
                    true
                }
                None => false,
            };
            let kept = draft.chunks(size).take_while(|block| keeps(block)).count();
            draft.truncate(kept * size);
        }
        draft
    }

    /// Position and refinement of the hole `index`.
    pub(crate) fn site(&self, index: usize) -> (usize, usize) {
        (self.block_start() + self.holes[index], self.refinement)
    }

    /// Position and refinement of the token `at` of a draft: in the first refinement of its block.
    pub(crate) fn site_behind(&self, at: usize) -> (usize, usize) {
        (self.block_start() + at, 0)
    }

    /// The candidate for a site, from what a pass leaves of its row, where these tokens have been seen.
    pub(crate) fn candidate(
        &self,
        (position, refinement): (usize, usize),
        (seen, allowed): (&Seen, Option<&Mask>),
        row: &Row<'_>,
        sampler: &mut CandidateSampler,
    ) -> Result<Candidate> {
        let Request { sampling, fill, .. } = &self.request;
        let (request, forbidden) = (self.id, self.forbidden_at(position));
        match row {
            Row::Logits(logits) => {
                let site = Site { request, position, refinement, forbidden, seen, allowed };
                sampler.pick(logits, sampling, fill.needs(), site)
            }
            Row::Drawn(Ok(drawn)) => Ok(fill.needs().of(Candidate { position, ..drawn.clone() })),
            Row::Drawn(Err(NoToken::NotFinite)) => {
                Err(Error::NotFinite { request, position, value: f32::NAN })
            }
            Row::Drawn(Err(NoToken::NothingAllowed)) => {
                Err(Error::NothingAllowed { request, position })
            }
        }
    }

    /// The draw for each row of the request's part in a pass, where it can be told beforehand; `seen` are the tokens that
    /// have been seen.
    pub(crate) fn draws<'a>(&'a self, draft: &[u32], seen: &'a [u32]) -> Vec<Option<Draw<'a>>> {
        let sampling = &self.request.sampling;
        let rows = if draft.is_empty() { self.holes.len() } else { draft.len() };
        let is_known = self.guide.is_none()
            && sampling.frequency_penalty == 0.0
            && sampling.presence_penalty == 0.0
            // The blocks of a draft say which tokens are seen behind them.
            && (draft.is_empty() || !sampling.penalises());
        let draw = |at| {
            let site = if draft.is_empty() { self.site(at) } else { self.site_behind(at) };
            let (position, refinement) = site;
            let forbidden = self.forbidden_at(position);
            Draw { sampling, position, refinement, forbidden, seen }
        };
        (0..rows).map(|at| is_known.then(|| draw(at))).collect()
    }

    /// Tokens that may not come out at a position, ascending.
    fn forbidden_at(&self, position: usize) -> &[u32] {
        let Request { prompt, min_new_tokens, .. } = &self.request;
        let early = position < prompt.len() + min_new_tokens;
        if early { &self.forbidden_early } else { &self.forbidden }
    }

    /// The tokens that penalties apply to; empty without any.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
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
        let chosen = fill.ranked(&candidates, quota(self.masked, steps, self.refinement));
        let chosen = self.holding_together(chosen, &candidates);
        for &index in &chosen {
            self.block[self.holes[index]] = candidates[index].token;
            if sampling.penalises() {
                count(&mut self.seen, candidates[index].token);
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

    /// Of candidates in falling rank those that a rule allows beside the ones before them, ascending. The first is
    /// allowed, since nothing was filled since it was proposed; what is left out is proposed again.
    fn holding_together(&self, mut chosen: Vec<usize>, candidates: &[Candidate]) -> Vec<usize> {
        if let Some(Guide { constraint, state }) = &self.guide
            && chosen.len() > 1
        {
            let (mut slots, first_new) = (self.slots(), self.first_new());
            chosen.retain(|index| {
                let at = self.holes[*index] - first_new;
                slots[at] = Some(candidates[*index].token);
                let holds = constraint.can_hold(*state, &slots);
                if !holds {
                    slots[at] = None;
                }
                holds
            });
        }
        chosen.sort_unstable();
        chosen
    }

    /// Ends the block if it is full, or if an eos or stop id stands in it with no hole before it.
    fn settle(&mut self, observer: &mut Observer<'_>) -> Progress {
        let start = self.block_start();
        let first_new = self.first_new();
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

        if let (Some(guide), None) = (&mut self.guide, finish) {
            let behind = guide.constraint.behind(guide.state, &self.block[first_new..]);
            guide.state = behind.expect("every token was allowed where it was filled in");
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
            drafts: self.drafts,
        }
    }
}
