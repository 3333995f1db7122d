//! Runs the block loop: many requests, one pass at a time.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::candidates::{CandidateSampler, Seen, count};
use crate::constraint::{Constraint, Mask};
use crate::denoiser::{Draft, Plain, Row};
use crate::drafts::Drafter;
use crate::error::{Error, Result, denoiser as failed};
use crate::fill::Candidate;
use crate::request::{Event, Generation, Request};
use crate::rows;
use crate::sequence::{Observer, Progress, Sequence};
use crate::{Denoiser, Segment, Speculative, View};

/// Decodes any number of requests together: their blocks share each pass.
///
/// Requests may join between passes and leave when they end; views, lengths, block sizes, rules and
/// temperatures may differ, so that block diffusion and autoregressive decoding go on side by side.
/// The tokens of a request depend on it alone, never on what else is in the batch (given a denoiser
/// whose logits do not).
///
/// Per block: refine until no position is masked, then [`Denoiser::commit`], which may ride along
/// with the next block's first pass; the last block is not committed. An eos with no masked position
/// before it ends the request at once, since all that follows it in the block becomes eos whatever
/// is filled in. Under the causal view a block is one token, so that each pass yields one.
///
/// A request that fails ends alone, with its reason; the others go on as if it had never been there.
#[derive(Debug, Default)]
pub struct Decoder {
    active: Vec<Turn>,
    joining: Vec<Turn>,
    next_id: usize,
    sampler: CandidateSampler,
}

/// The things that a request may bring along besides its settings.
#[derive(Clone, Debug, Default)]
pub struct Guidance {
    /// The source of drafts, which change no token and save passes.
    pub drafter: Option<Drafter>,
    /// The rule that the new text keeps to. It may end only where the rule says so; one that ends for its length, or
    /// because it was stopped, is the beginning of a text that keeps to it.
    pub constraint: Option<Arc<Constraint>>,
}

/// A request's part in a step: a pass over its open block, or over a draft if there is one.
#[derive(Debug)]
struct Turn {
    sequence: Sequence,
    draft: Vec<u32>,
    /// It takes no part until it is let go on.
    is_held: bool,
}

/// The requests that a [`Decoder::step`] ended.
#[derive(Debug, Default)]
#[must_use = "a request that has ended is not reported twice"]
pub struct Step {
    /// Those that came to their end, in the order in which they joined.
    pub finished: Vec<Generation>,
    /// Those that can't go on.
    pub failed: Vec<Failure>,
}

/// A request that can't go on.
#[derive(Debug)]
pub struct Failure {
    /// The request, by its number.
    pub request: usize,
    /// The reason: its prefill or commit failed, a pass over it alone failed, its logits are no
    /// numbers, or no token is possible.
    pub error: Error,
}

impl Turn {
    fn new(sequence: Sequence) -> Self {
        Self { sequence, draft: Vec::new(), is_held: false }
    }
}

impl Decoder {
    /// A decoder without requests; the first gets number 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request, which joins at the next [`step`](Self::step), and returns its number. That
    /// is also the number of its sequence in the denoiser. Numbers rise by one from call to call,
    /// refused requests included, and are never used twice.
    ///
    /// # Errors
    /// A request that does not [`validate`](Request::validate).
    pub fn push(&mut self, request: Request) -> Result<usize> {
        let id = self.next_id;
        self.next_id += 1;
        self.joining.push(Turn::new(Sequence::new(id, request)?));
        Ok(id)
    }

    /// [`push`](Self::push) with what a request may bring along: a rule that its text keeps to, and a source of
    /// drafts, which [`step_drafting`](Self::step_drafting) asks for some whenever a block is opened.
    ///
    /// # Errors
    /// As [`push`](Self::push); a rule whose ends are not those of the request, or that is to hold for a least
    /// number of tokens.
    pub fn push_with(&mut self, request: Request, guidance: Guidance) -> Result<usize> {
        let id = self.push(request)?;
        let Some(Turn { sequence, .. }) = self.joining.last_mut() else { return Ok(id) };
        sequence.drafter = guidance.drafter;
        let constrained = guidance.constraint.map(|constraint| sequence.constrain(constraint));
        if let Some(Err(error)) = constrained {
            self.joining.pop();
            return Err(error);
        }
        Ok(id)
    }

    /// Tells whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.joining.is_empty()
    }

    /// The number of requests that are under way or about to join.
    pub fn len(&self) -> usize {
        self.active.len() + self.joining.len()
    }

    /// One pass over the open block of every request; returns the requests that ended with it. Nothing
    /// is drafted.
    ///
    /// If a shared pass fails, each request gets a pass of its own, and those that fail alone end.
    /// So nothing fails as a whole, not even here.
    pub fn step(
        &mut self,
        denoiser: &mut impl Denoiser,
        observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
    ) -> Step {
        self.advance(&mut Plain(denoiser), false, observer)
    }

    /// As [`step`](Self::step), with the drafts of those requests that were
    /// [pushed](Self::push_with) with a source of them: one pass for all, drafts and others.
    pub fn step_drafting(
        &mut self,
        denoiser: &mut impl Speculative,
        observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
    ) -> Step {
        self.advance(denoiser, true, observer)
    }

    fn advance(
        &mut self,
        denoiser: &mut impl Speculative,
        drafting: bool,
        mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
    ) -> Step {
        let mut step = Step::default();
        for turn in self.joining.drain(..) {
            match prefill(denoiser, &turn.sequence) {
                Ok(()) => self.active.push(turn),
                // There is nothing to release, and the number may be another decoder's sequence.
                Err(error) => step.failed.push(Failure { request: turn.sequence.id, error }),
            }
        }
        // Those that are held keep their places among the others.
        let (mut held, taking_part) = std::mem::take(&mut self.active)
            .into_iter()
            .partition::<Vec<Turn>, _>(|one| one.is_held);
        self.active = taking_part;
        if drafting {
            self.active.iter_mut().for_each(|turn| turn.draft = turn.sequence.draft());
        }
        let proposals = propose(denoiser, &mut self.active, &mut self.sampler);
        for (turn, proposal) in std::mem::take(&mut self.active).into_iter().zip(proposals) {
            let Turn { mut sequence, draft, .. } = turn;
            let progress = proposal
                .and_then(|blocks| take(denoiser, &mut sequence, &draft, blocks, &mut observer));
            match progress {
                Ok(Progress::Finished) => {
                    denoiser.release(sequence.id);
                    step.finished.push(sequence.into_generation());
                }
                Ok(Progress::Open | Progress::BlockDone) => {
                    self.active.push(Turn::new(sequence));
                }
                Err(error) => {
                    denoiser.release(sequence.id);
                    step.failed.push(Failure { request: sequence.id, error });
                }
            }
        }
        self.active.append(&mut held);
        self.active.sort_by_key(|turn| turn.sequence.id);
        step
    }

    /// Leaves requests out of the passes that follow, until another call lets them go on: those for which `is_held` says
    /// so by their numbers. One that is about to join does so, its prompt is read, and it is held as the others are. What
    /// they write does not depend on it.
    pub fn hold(&mut self, is_held: impl Fn(usize) -> bool) {
        for turn in self.active.iter_mut().chain(&mut self.joining) {
            turn.is_held = is_held(turn.sequence.id);
        }
    }

    /// Ends a request between two passes, and its sequence in the denoiser. What its finished
    /// blocks hold is returned, as if an observer had stopped it.
    ///
    /// # Errors
    /// [`Error::NotUnderWay`] for a number that no request under way has.
    pub fn cancel(&mut self, denoiser: &mut impl Denoiser, request: usize) -> Result<Generation> {
        let active = self.active.iter().position(|turn| turn.sequence.id == request);
        let joining = self.joining.iter().position(|turn| turn.sequence.id == request);
        let mut sequence = if let Some(at) = active {
            denoiser.release(request);
            self.active.remove(at).sequence
        } else if let Some(at) = joining {
            self.joining.remove(at).sequence
        } else {
            return Err(Error::NotUnderWay { request });
        };
        sequence.stop(usize::MAX);
        Ok(sequence.into_generation())
    }

    /// Drops every request, and its sequence in the denoiser.
    pub fn clear(&mut self, denoiser: &mut impl Denoiser) {
        for turn in self.active.drain(..) {
            denoiser.release(turn.sequence.id);
        }
        self.joining.clear();
    }
}

/// Decodes requests together until all have ended. One result for each, in their order; what one
/// fails with is no concern of the others.
pub fn generate_batch(
    denoiser: &mut impl Denoiser,
    requests: impl IntoIterator<Item = Request>,
    mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Vec<Result<Generation>> {
    let mut decoder = Decoder::new();
    let mut results: Vec<Option<Result<Generation>>> =
        requests.into_iter().map(|request| decoder.push(request).err().map(Err)).collect();
    while !decoder.is_empty() {
        let step = decoder.step(denoiser, &mut observer);
        for generation in step.finished {
            let request = generation.request;
            results[request] = Some(Ok(generation));
        }
        for Failure { request, error } in step.failed {
            results[request] = Some(Err(error));
        }
    }
    results.into_iter().map(|result| result.expect("an empty decoder has ended them all")).collect()
}

/// Decodes one request.
///
/// # Errors
/// A request that does not [`validate`](Request::validate), and whatever it may fail with
/// ([`Failure::error`]).
pub fn generate(
    denoiser: &mut impl Denoiser,
    request: Request,
    observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Generation> {
    let mut results = generate_batch(denoiser, [request], observer);
    results.pop().expect("one request leaves one result")
}

/// The result of a decoder's only request, if a step ended it.
pub(crate) fn one(mut step: Step) -> Option<Result<Generation>> {
    let failed = step.failed.pop().map(|failure| Err(failure.error));
    failed.or_else(|| step.finished.pop().map(Ok))
}

/// Begins the sequence with the prompt's whole blocks.
fn prefill(denoiser: &mut impl Denoiser, sequence: &Sequence) -> Result<()> {
    denoiser.prefill(sequence.id, &sequence.canvas, sequence.request.view).map_err(failed)
}

/// The outcome of a pass for a request: candidates for its open block and, behind a draft, for the first refinement of
/// each block that follows, as if those before it had come true. It ends where a block can't have.
type Proposal = Vec<Result<Vec<Candidate>>>;

/// Refines the open block, and each one behind it whose first refinement is known because all before it came true.
fn take(
    denoiser: &mut impl Speculative,
    sequence: &mut Sequence,
    draft: &[u32],
    proposal: Proposal,
    observer: &mut Observer<'_>,
) -> Result<Progress> {
    let (id, size) = (sequence.id, sequence.request.block_size().get());
    sequence.forwards += 1;
    let mut proposal = proposal.into_iter();
    let first = proposal.next().expect("a pass proposes something for the open block");
    if !draft.is_empty() {
        sequence.expect(draft, proposal);
    }
    let mut start = sequence.block_start();
    let mut progress = sequence.refine(first?, observer);
    // Blocks whose keys and values the draft's pass has made, and finished tokens that are to be read.
    let (mut are_there, mut accepted, mut unread) = (!draft.is_empty(), 0, Vec::new());
    while progress != Progress::Open {
        let written = sequence.canvas.get(start..start + size).map(<[u32]>::to_vec);
        let next = sequence.came_true(written.as_deref());
        are_there &= next.is_some();
        match written {
            Some(_) if are_there => accepted += 1,
            written => unread.extend(written.unwrap_or_default()),
        }
        if progress == Progress::Finished {
            return Ok(progress);
        }
        let Some(Some(candidates)) = next else { break };
        start = sequence.block_start();
        progress = sequence.refine(candidates?, observer);
        // Its first pass was the draft's.
        sequence.drafts.passes_saved += 1;
    }
    if !draft.is_empty() {
        denoiser.accept(id, accepted * size).map_err(failed)?;
    }
    for block in unread.chunks(size) {
        denoiser.commit(id, block).map_err(failed)?;
    }
    Ok(progress)
}

/// Asks the model for the logits of the masked positions of each request, in one pass if it can
/// be. A draft with which a request alone fails is dropped.
fn propose(
    denoiser: &mut impl Speculative,
    turns: &mut [Turn],
    sampler: &mut CandidateSampler,
) -> Vec<Result<Proposal>> {
    match pass(denoiser, turns, sampler) {
        Ok(proposals) => proposals.into_iter().map(Ok).collect(),
        Err(error) => match turns {
            [turn] if turn.draft.is_empty() => vec![Err(error)],
            [turn] => {
                turn.draft.clear();
                propose(denoiser, turns, sampler)
            }
            many => {
                let alone = many.chunks_mut(1);
                alone.flat_map(|one| propose(denoiser, one, sampler)).collect()
            }
        },
    }
}

/// One pass over all of them, of which nothing is kept if it fails. A proposal fails alone where
/// its own logits are no good.
fn pass(
    denoiser: &mut impl Speculative,
    turns: &[Turn],
    sampler: &mut CandidateSampler,
) -> Result<Vec<Proposal>> {
    if turns.is_empty() {
        return Ok(Vec::new());
    }
    let open = |turn: &&Turn| turn.draft.is_empty();
    let segments: Vec<Segment<'_>> = turns.iter().filter(open).map(segment).collect();
    let drafts: Vec<Draft<'_>> = turns.iter().filter(|turn| !open(turn)).map(draft).collect();
    let mut readers: Vec<Reader<'_>> = turns.iter().map(Reader::new).collect();
    // Rows come in this order: the open blocks, then the drafts.
    let (opened, drafted): (Vec<usize>, Vec<usize>) =
        (0..turns.len()).partition(|at| turns[*at].draft.is_empty());
    let order: Vec<usize> = [opened, drafted].concat();
    let places = order.iter().flat_map(|at| std::iter::repeat_n(*at, readers[*at].rows));
    let places: Vec<usize> = places.collect();
    let seen: Vec<Vec<u32>> = match denoiser.draws() {
        true => {
            order.iter().map(|at| turns[*at].sequence.seen().keys().copied().collect()).collect()
        }
        false => Vec::new(),
    };
    let draws = order.iter().zip(&seen);
    let draws = draws.flat_map(|(at, seen)| turns[*at].sequence.draws(&turns[*at].draft, seen));
    let draws: Vec<_> = draws.collect();
    rows::read(
        places.len(),
        |read| denoiser.speculate_drawing(&segments, &drafts, &draws, read),
        |row, left| readers[places[row]].read(&left, sampler),
    )?;
    Ok(readers.into_iter().map(|reader| reader.proposal).collect())
}

/// Makes candidates of the rows of one request.
struct Reader<'a> {
    turn: &'a Turn,
    /// The rows that it gets.
    rows: usize,
    taken: usize,
    /// The tokens that have been seen before the block that is read, under penalties.
    seen: Seen,
    /// The state of the request's rule in front of that block, and what may stand in it.
    state: Option<u32>,
    masks: Vec<Option<Mask>>,
    /// Cleared once no further block can be reached.
    holds: bool,
    proposal: Proposal,
}

impl<'a> Reader<'a> {
    fn new(turn: &'a Turn) -> Self {
        let Turn { sequence, draft, .. } = turn;
        let (rows, seen) = match draft.len() {
            0 => (sequence.holes.len(), Seen::new()),
            rows => (rows, sequence.seen().clone()),
        };
        let state = sequence.guide.as_ref().map(|guide| guide.state);
        let (masks, proposal) = (Vec::new(), Vec::new());
        Self { turn, rows, taken: 0, seen, state, masks, holds: true, proposal }
    }

    /// The next row.
    fn read(&mut self, left: &Row<'_>, sampler: &mut CandidateSampler) {
        let (at, Turn { sequence, draft, .. }) = (self.taken, self.turn);
        self.taken += 1;
        let size = if draft.is_empty() { self.rows } else { sequence.request.block_size().get() };
        if at.is_multiple_of(size) {
            self.next_block(at, size);
        }
        // An error of this block ends it.
        let Some(Ok(candidates)) = self.proposal.last_mut() else { return };
        if !self.holds && candidates.len() == size {
            return;
        }
        let allowed = self.masks.get(at % size).and_then(Option::as_ref);
        let (site, seen) = match draft.get(at) {
            None => (sequence.site(at), sequence.seen()),
            Some(_) => (sequence.site_behind(at), &self.seen),
        };
        let candidate = sequence.candidate(site, (seen, allowed), left, sampler);
        match candidate {
            Ok(candidate) => {
                // A block of one token is what its first refinement says; of others some position may be filled later.
                self.holds &=
                    size > 1 || draft.get(at).is_none_or(|token| *token == candidate.token);
                candidates.push(candidate);
            }
            Err(error) => {
                self.holds = false;
                self.proposal.pop();
                self.proposal.push(Err(error));
            }
        }
    }

    /// Begins the candidates of a block, if it can be reached.
    fn next_block(&mut self, at: usize, size: usize) {
        if !self.holds {
            return;
        }
        let Turn { sequence, draft, .. } = self.turn;
        if at == 0 {
            self.masks = sequence.masks();
        } else {
            let before = &draft[at - size..at];
            if sequence.request.sampling.penalises() {
                before.iter().for_each(|token| count(&mut self.seen, *token));
            }
            if let (Some(guide), Some(state)) = (&sequence.guide, self.state) {
                let state = guide.constraint.behind(state, before);
                let state = state.expect("a draft is cut where it leaves the rule");
                self.state = Some(state);
                self.masks = guide.constraint.masks(state, &vec![None; size]);
            }
        }
        self.proposal.push(Ok(Vec::with_capacity(size)));
    }
}

/// The request's share of a pass over open blocks.
fn segment(turn: &Turn) -> Segment<'_> {
    let sequence = &turn.sequence;
    let view = sequence.request.view;
    let block: &[u32] = match view {
        View::Blocks { .. } | View::CausalBlocks { .. } => &sequence.block,
        View::Causal => &[],
    };
    Segment { sequence: sequence.id, view, block, rows: &sequence.holes }
}

/// The request's draft.
fn draft(turn: &Turn) -> Draft<'_> {
    let Turn { sequence, draft, .. } = turn;
    let Request { view, mask_id, .. } = sequence.request;
    Draft { sequence: sequence.id, view, tokens: draft, mask_id }
}
