//! Runs the block loop: many requests, one pass at a time.

use std::ops::ControlFlow;

use crate::candidates::CandidateSampler;
use crate::error::{Error, Result, denoiser as failed};
use crate::fill::Candidate;
use crate::request::{Event, Generation, Request};
use crate::rows;
use crate::sequence::{Observer, Progress, Sequence};
use crate::{Denoiser, Segment, View};

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
    active: Vec<Sequence>,
    joining: Vec<Sequence>,
    next_id: usize,
    sampler: CandidateSampler,
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
        self.joining.push(Sequence::new(id, request)?);
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

    /// One pass over the open block of every request; returns the requests that ended with it.
    ///
    /// If a shared pass fails, each request gets a pass of its own, and those that fail alone end.
    /// So nothing fails as a whole, not even here.
    pub fn step(
        &mut self,
        denoiser: &mut impl Denoiser,
        mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
    ) -> Step {
        let mut step = Step::default();
        for sequence in self.joining.drain(..) {
            match prefill(denoiser, &sequence) {
                Ok(()) => self.active.push(sequence),
                // There is nothing to release, and the number may be another decoder's sequence.
                Err(error) => step.failed.push(Failure { request: sequence.id, error }),
            }
        }
        let proposals = propose(denoiser, &self.active, &mut self.sampler);
        for (mut sequence, proposal) in std::mem::take(&mut self.active).into_iter().zip(proposals)
        {
            let progress = proposal.and_then(|candidates| {
                sequence.forwards += 1;
                let progress = sequence.refine(candidates, &mut observer);
                if progress == Progress::BlockDone {
                    commit(denoiser, &sequence)?;
                }
                Ok(progress)
            });
            match progress {
                Ok(Progress::Finished) => {
                    denoiser.release(sequence.id);
                    step.finished.push(sequence.into_generation());
                }
                Ok(Progress::Open | Progress::BlockDone) => self.active.push(sequence),
                Err(error) => {
                    denoiser.release(sequence.id);
                    step.failed.push(Failure { request: sequence.id, error });
                }
            }
        }
        step
    }

    /// Ends a request between two passes, and its sequence in the denoiser. What its finished
    /// blocks hold is returned, as if an observer had stopped it.
    ///
    /// # Errors
    /// [`Error::NotUnderWay`] for a number that no request under way has.
    pub fn cancel(&mut self, denoiser: &mut impl Denoiser, request: usize) -> Result<Generation> {
        let at = |list: &[Sequence]| list.iter().position(|sequence| sequence.id == request);
        let mut sequence = if let Some(at) = at(&self.active) {
            denoiser.release(request);
            self.active.remove(at)
        } else if let Some(at) = at(&self.joining) {
            self.joining.remove(at)
        } else {
            return Err(Error::NotUnderWay { request });
        };
        sequence.stop(usize::MAX);
        Ok(sequence.into_generation())
    }

    /// Drops every request, and its sequence in the denoiser.
    pub fn clear(&mut self, denoiser: &mut impl Denoiser) {
        for sequence in self.active.drain(..) {
            denoiser.release(sequence.id);
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

/// Begins the sequence with the prompt's whole blocks.
pub(crate) fn prefill(denoiser: &mut impl Denoiser, sequence: &Sequence) -> Result<()> {
    denoiser.prefill(sequence.id, &sequence.canvas, sequence.request.view).map_err(failed)
}

/// Commits the block that was just finished.
pub(crate) fn commit(denoiser: &mut impl Denoiser, sequence: &Sequence) -> Result<()> {
    let start = sequence.canvas.len() - sequence.request.block_size().get();
    denoiser.commit(sequence.id, &sequence.canvas[start..]).map_err(failed)
}

/// A pass over one sequence's open block.
pub(crate) fn refine(
    denoiser: &mut impl Denoiser,
    sequence: &mut Sequence,
    sampler: &mut CandidateSampler,
    observer: &mut Observer<'_>,
) -> Result<Progress> {
    let mut proposals = propose(denoiser, std::slice::from_ref(sequence), sampler);
    let candidates = proposals.pop().expect("one sequence, one proposal")?;
    sequence.forwards += 1;
    Ok(sequence.refine(candidates, observer))
}

/// Asks the model for the logits of the masked positions of each sequence, in one pass if it can
/// be.
fn propose(
    denoiser: &mut impl Denoiser,
    sequences: &[Sequence],
    sampler: &mut CandidateSampler,
) -> Vec<Result<Vec<Candidate>>> {
    match pass(denoiser, sequences, sampler) {
        Ok(proposals) => proposals,
        Err(error) if sequences.len() == 1 => vec![Err(error)],
        Err(_) => {
            let alone = sequences.iter().map(std::slice::from_ref);
            alone.flat_map(|one| propose(denoiser, one, sampler)).collect()
        }
    }
}

/// One pass over all of them, of which nothing is kept if it fails. A proposal fails alone where
/// its own logits are no good.
fn pass(
    denoiser: &mut impl Denoiser,
    sequences: &[Sequence],
    sampler: &mut CandidateSampler,
) -> Result<Vec<Result<Vec<Candidate>>>> {
    if sequences.is_empty() {
        return Ok(Vec::new());
    }
    let segments: Vec<Segment<'_>> = sequences.iter().map(segment).collect();
    let mut proposals: Vec<_> =
        sequences.iter().map(|one| Ok(Vec::with_capacity(one.holes.len()))).collect();
    let places = sequences.iter().enumerate();
    let places = places.flat_map(|(at, one)| (0..one.holes.len()).map(move |index| (at, index)));
    let places: Vec<(usize, usize)> = places.collect();
    rows::read(
        places.len(),
        |read| denoiser.denoise(&segments, read),
        |row, logits| {
            let (at, index) = places[row];
            let proposal: &mut Result<Vec<Candidate>> = &mut proposals[at];
            let Ok(candidates) = proposal else { return };
            match sequences[at].candidate(index, logits, sampler) {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => *proposal = Err(error),
            }
        },
    )?;
    Ok(proposals)
}

/// The sequence's share of a pass.
fn segment(sequence: &Sequence) -> Segment<'_> {
    let view = sequence.request.view;
    let block: &[u32] = match view {
        View::Blocks { .. } => &sequence.block,
        View::Causal => &[],
    };
    Segment { sequence: sequence.id, view, block, rows: &sequence.holes }
}
