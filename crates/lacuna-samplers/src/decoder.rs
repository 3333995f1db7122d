//! The block loop: many requests, one pass at a time.

use std::ops::ControlFlow;

use crate::candidates::Picker;
use crate::error::Result;
use crate::request::{Event, Generation, Request};
use crate::rows;
use crate::sequence::{Observer, Progress, Sequence};
use crate::{Denoiser, Lane};

/// Decodes any number of requests together: their blocks share each pass.
///
/// Requests may join between passes and leave when they end; lengths, block sizes, rules and
/// temperatures may differ. The tokens of a request depend on it alone, never on what else is in
/// the batch (given a denoiser whose logits do not).
///
/// Per block: refine until no hole is left, then [`Denoiser::commit`], which may ride along with
/// the next block's first pass; the last block is not committed. An eos with no hole before it ends
/// the request at once, since all that follows it in the block becomes eos whatever is filled in.
#[derive(Debug, Default)]
pub struct Decoder {
    active: Vec<Sequence>,
    joining: Vec<Sequence>,
    next_id: usize,
    picker: Picker,
}

impl Decoder {
    /// A decoder without requests; the first gets number 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request, which joins at the next [`step`](Self::step), and returns its number. That
    /// is also the number of its sequence in the denoiser; numbers are never used twice.
    ///
    /// # Errors
    /// A request that does not [`validate`](Request::validate).
    pub fn push(&mut self, request: Request) -> Result<usize> {
        let id = self.next_id;
        self.joining.push(Sequence::new(id, request)?);
        self.next_id += 1;
        Ok(id)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.joining.is_empty()
    }

    /// How many requests are under way or about to join.
    pub fn len(&self) -> usize {
        self.active.len() + self.joining.len()
    }

    /// One pass over the open block of every request; returns the requests that it finished.
    ///
    /// # Errors
    /// The denoiser's errors, and logits that are no numbers. The requests can't go on then:
    /// [`clear`](Self::clear) them.
    pub fn step(
        &mut self,
        denoiser: &mut impl Denoiser,
        mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
    ) -> Result<Vec<Generation>> {
        for sequence in self.joining.drain(..) {
            self.active.push(sequence);
            prefill(denoiser, &self.active[self.active.len() - 1])?;
        }
        if self.active.is_empty() {
            return Ok(Vec::new());
        }
        let lanes: Vec<Lane<'_>> = self.active.iter().map(lane).collect();
        let logits = denoiser.denoise(&lanes)?;
        let count = self.active.iter().map(|sequence| sequence.holes.len()).sum();
        let (active, picker) = (&mut self.active, &mut self.picker);
        let progress = rows::with_rows(&logits, count, |mut rest, vocab| {
            let mut progress = Vec::with_capacity(active.len());
            for sequence in active.iter_mut() {
                let rows;
                (rows, rest) = rest.split_at(sequence.holes.len() * vocab);
                sequence.forwards += 1;
                progress.push(sequence.refine(rows, vocab, picker, &mut observer)?);
            }
            Ok(progress)
        })?;

        let mut finished = Vec::new();
        for (sequence, progress) in std::mem::take(&mut self.active).into_iter().zip(&progress) {
            if *progress == Progress::Finished {
                denoiser.release(sequence.id);
                finished.push(sequence.into_generation());
            } else {
                self.active.push(sequence);
            }
        }
        let going_on = progress.iter().filter(|progress| **progress != Progress::Finished);
        for (sequence, progress) in self.active.iter().zip(going_on) {
            if *progress == Progress::BlockDone {
                commit(denoiser, sequence)?;
            }
        }
        Ok(finished)
    }

    /// Drops every request, and its sequence in the denoiser.
    pub fn clear(&mut self, denoiser: &mut impl Denoiser) {
        for sequence in self.active.drain(..) {
            denoiser.release(sequence.id);
        }
        self.joining.clear();
    }
}

/// Decodes requests together until all have ended; results in the requests' order.
///
/// # Errors
/// As [`Decoder::push`] and [`Decoder::step`].
pub fn generate_batch(
    denoiser: &mut impl Denoiser,
    requests: impl IntoIterator<Item = Request>,
    mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Vec<Generation>> {
    let mut decoder = Decoder::new();
    for request in requests {
        decoder.push(request)?;
    }
    let mut finished = Vec::with_capacity(decoder.len());
    while !decoder.is_empty() {
        match decoder.step(denoiser, &mut observer) {
            Ok(generations) => finished.extend(generations),
            Err(error) => {
                decoder.clear(denoiser);
                return Err(error);
            }
        }
    }
    finished.sort_by_key(|generation| generation.request);
    Ok(finished)
}

/// Decodes one request.
///
/// # Errors
/// As [`Decoder::push`] and [`Decoder::step`].
pub fn generate(
    denoiser: &mut impl Denoiser,
    request: Request,
    observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Generation> {
    let mut finished = generate_batch(denoiser, [request], observer)?;
    Ok(finished.pop().expect("one request leaves one generation"))
}

/// Commits the prompt's whole blocks.
pub(crate) fn prefill(denoiser: &mut impl Denoiser, sequence: &Sequence) -> Result<()> {
    if sequence.canvas.is_empty() {
        return Ok(());
    }
    Ok(denoiser.prefill(sequence.id, &sequence.canvas, sequence.request.block_size.get())?)
}

/// Commits the block that was just finished.
pub(crate) fn commit(denoiser: &mut impl Denoiser, sequence: &Sequence) -> Result<()> {
    let start = sequence.canvas.len() - sequence.request.block_size.get();
    Ok(denoiser.commit(sequence.id, &sequence.canvas[start..])?)
}

/// The open block as a lane of a pass.
pub(crate) fn lane(sequence: &Sequence) -> Lane<'_> {
    Lane { sequence: sequence.id, block: &sequence.block, rows: &sequence.holes }
}

/// A pass over one sequence's open block.
pub(crate) fn refine(
    denoiser: &mut impl Denoiser,
    sequence: &mut Sequence,
    picker: &mut Picker,
    observer: &mut Observer<'_>,
) -> Result<Progress> {
    let logits = denoiser.denoise(&[lane(sequence)])?;
    sequence.forwards += 1;
    rows::with_rows(&logits, sequence.holes.len(), |rows, vocab| {
        sequence.refine(rows, vocab, picker, observer)
    })
}
