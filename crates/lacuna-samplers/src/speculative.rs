//! Edits with the source as speculation: the old text is the draft, and many blocks are verified in
//! one pass.
//!
//! [`Speculative::speculate`] denoises several fully masked blocks at once, each seeing the draft's
//! blocks before it. As long as every earlier block came out equal to its draft, that *is* the
//! first refinement of the next one, logit for logit. So each block is refined as usual, with these
//! logits for its first pass: a block that this fills, and fills with its draft, is accepted, its
//! keys and values being there already; the first other block goes on by plain passes. Nothing is
//! ever decided differently: tokens, refinements and draws are those of
//! [`generate`](crate::generate), for every rule and temperature. Only passes are saved.

use std::ops::ControlFlow;

use crate::candidates::CandidateSampler;
use crate::decoder::{commit, prefill, refine};
use crate::error::{Result, denoiser as failed, setting};
use crate::request::{Event, Generation, Request};
use crate::sequence::{Observer, Progress, Sequence};
use crate::{Speculative, View, rows};

/// Limits within which drafts are cut from the old text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafting {
    /// Blocks per speculative pass at most; twice as many go through the model. A request starts
    /// with one block a pass, doubles whenever all were accepted, and goes back to one when none
    /// was.
    pub blocks_max: usize,
    /// The number of newest tokens that must stand in the old text for a draft to be taken from
    /// there.
    pub match_min: usize,
}

impl Default for Drafting {
    fn default() -> Self {
        Self { blocks_max: 8, match_min: 2 }
    }
}

/// The result of a request that was decoded with a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// As from plain decoding, but for `forwards`: a speculative pass counts once.
    pub generation: Generation,
    /// The use of the draft.
    pub drafts: DraftCounts,
}

/// The use of a draft, for whoever wants to know whether it pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Speculative passes among the forwards.
    pub speculative_passes: usize,
    /// Blocks that stood in a draft.
    pub drafted_blocks: usize,
    /// Drafted blocks that came out equal to their draft in one refinement.
    pub accepted_blocks: usize,
    /// Passes that plain decoding would have taken on top of the forwards.
    pub passes_saved: usize,
}

impl DraftCounts {
    /// Share of the drafted blocks that were accepted.
    pub fn acceptance(&self) -> f64 {
        self.accepted_blocks as f64 / self.drafted_blocks.max(1) as f64
    }
}

/// Decodes one request with the help of `old`, a text that it is expected to repeat for the most
/// part. It is sequence 0 of the denoiser, released at the end.
///
/// # Errors
/// As [`generate`](crate::generate); a causal view; `blocks_max` of 0.
pub fn edit(
    denoiser: &mut impl Speculative,
    request: Request,
    old: &[u32],
    drafting: Drafting,
    mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Edit> {
    if drafting.blocks_max == 0 {
        return setting("blocks_max", 0, "at least 1");
    }
    if request.view == View::Causal {
        return setting("view", "causal", "blocks: an autoregressive model takes no draft");
    }
    let sequence = Sequence::new(0, request)?;
    let result = run(denoiser, sequence, old, drafting, &mut observer);
    denoiser.release(0);
    result
}

fn run(
    denoiser: &mut impl Speculative,
    mut sequence: Sequence,
    old: &[u32],
    drafting: Drafting,
    observer: &mut Observer<'_>,
) -> Result<Edit> {
    prefill(denoiser, &sequence)?;
    let mut sampler = CandidateSampler::default();
    let mut drafts = DraftCounts::default();
    let mut blocks = 1;
    // New tokens and their place in the old text where the two were last aligned.
    let mut anchor = (0, 0);
    loop {
        // Here nothing is filled in the open block yet.
        let new = sequence.generated();
        let expected = anchor.1 + (new.len() - anchor.0);
        let place = align(new, old, expected, drafting.match_min);
        let draft = place.map_or(Vec::new(), |place| draft(&sequence, &old[place..], blocks));
        let mut progress;
        if draft.is_empty() {
            progress = refine(denoiser, &mut sequence, &mut sampler, observer)?;
        } else {
            anchor = (new.len(), place.expect("a draft has a place"));
            let verified = verify(denoiser, &mut sequence, &draft, &mut sampler, observer)?;
            drafts.speculative_passes += 1;
            drafts.drafted_blocks += verified.drafted;
            drafts.accepted_blocks += verified.accepted;
            // Each refinement beyond the first is a pass that was not run.
            drafts.passes_saved += verified.refined - 1;
            progress = verified.progress;
            let all = verified.accepted == verified.drafted;
            blocks = match verified.accepted {
                _ if all => blocks.saturating_mul(2).min(drafting.blocks_max),
                0 => 1,
                _ => blocks,
            };
            if all && progress == Progress::BlockDone {
                continue;
            }
        }
        while progress == Progress::Open {
            progress = refine(denoiser, &mut sequence, &mut sampler, observer)?;
        }
        if progress == Progress::BlockDone {
            commit(denoiser, &sequence)?;
            continue;
        }
        return Ok(Edit { generation: sequence.into_generation(), drafts });
    }
}

/// The outcome of a speculative pass.
struct Verified {
    drafted: usize,
    /// Blocks that got their first refinement from the pass: the accepted ones, and the next.
    refined: usize,
    accepted: usize,
    /// Of the last block refined.
    progress: Progress,
}

/// One speculative pass, and the first refinement of every block that it holds for.
fn verify(
    denoiser: &mut impl Speculative,
    sequence: &mut Sequence,
    draft: &[u32],
    sampler: &mut CandidateSampler,
    observer: &mut Observer<'_>,
) -> Result<Verified> {
    let size = sequence.request.block_size().get();
    let (id, mask_id) = (sequence.id, sequence.request.mask_id);
    sequence.forwards += 1;
    let drafted = draft.len() / size;
    let mut verified = Verified { drafted, refined: 0, accepted: 0, progress: Progress::BlockDone };
    let mut candidates = Vec::with_capacity(size);
    let mut outcome = Ok(());
    let mut holds = true;
    rows::read(
        draft.len(),
        |read| denoiser.speculate(id, draft, mask_id, read),
        |row, logits| {
            if !holds {
                return;
            }
            match sequence.candidate(row % size, logits, sampler) {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => (outcome, holds) = (Err(error), false),
            }
            if candidates.len() < size {
                return;
            }
            let start = sequence.block_start();
            verified.progress = sequence.refine(std::mem::take(&mut candidates), observer);
            verified.refined += 1;
            let block = &draft[row + 1 - size..=row];
            let equal = sequence.canvas.get(start..start + size) == Some(block);
            verified.accepted += usize::from(equal);
            holds = equal && verified.progress != Progress::Finished;
        },
    )?;
    outcome?;
    if verified.progress != Progress::Finished {
        denoiser.accept(id, verified.accepted * size).map_err(failed)?;
    }
    Ok(verified)
}

/// At most `blocks` whole blocks of `rest`, the old text from here on. Where it ends, eos goes on to
/// the block's end. Empty where the open block is not a whole block of masks.
fn draft(sequence: &Sequence, rest: &[u32], blocks: usize) -> Vec<u32> {
    let request = &sequence.request;
    let size = request.block_size().get();
    if sequence.holes.len() < size {
        return Vec::new();
    }
    let room = request.prompt.len() + request.max_new_tokens - sequence.block_start();
    let length = (room / size).min(blocks) * size;
    let mut draft = rest[..rest.len().min(length)].to_vec();
    if draft.len() < length {
        let end = match request.eos_ids.first() {
            Some(&eos) => {
                let end = (draft.len() / size + 1) * size;
                draft.resize(end, eos);
                end
            }
            None => draft.len() / size * size,
        };
        draft.truncate(end);
    }
    draft
}

/// Longest run of new tokens that is looked for in the old text.
const MATCH_MAX: usize = 32;

/// Finds where the old text goes on after the newest tokens: behind the longest run that both end
/// with, the nearest to `expected` among equals. None where that run is shorter than `match_min`.
fn align(new: &[u32], old: &[u32], expected: usize, match_min: usize) -> Option<usize> {
    if new.is_empty() {
        return Some(0);
    }
    let common = |place: usize| {
        let pairs = new.iter().rev().zip(old[..place].iter().rev());
        pairs.take(MATCH_MAX).take_while(|(new, old)| new == old).count()
    };
    let best = (1..=old.len())
        .map(|place| (common(place), std::cmp::Reverse(place.abs_diff(expected)), place))
        .max()?;
    (best.0 >= match_min.min(new.len()).max(1)).then_some(best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_text_is_found_again_after_a_change() {
        let old = [10, 11, 12, 13, 14, 15, 16, 12, 13, 20];
        assert_eq!(align(&[], &old, 0, 2), Some(0));
        assert_eq!(align(&[10, 11, 12], &old, 3, 2), Some(3), "unchanged");
        assert_eq!(align(&[10, 99, 12, 13], &old, 4, 2), Some(4), "one replaced");
        assert_eq!(align(&[10, 99, 98, 12, 13], &old, 5, 2), Some(4), "one put in");
        assert_eq!(align(&[10, 14, 15], &old, 3, 2), Some(6), "three taken out");
        assert_eq!(align(&[99, 12, 13], &old, 9, 2), Some(9), "the nearest of equals");
        assert_eq!(align(&[10, 11, 12, 99], &old, 4, 2), None, "nothing to go by");
        assert_eq!(align(&[10, 99, 20], &old, 4, 2), None, "one token is too few");
        assert_eq!(align(&[20], &old, 4, 2), Some(10), "unless it is all there is");
        assert_eq!(align(&[20], &[], 4, 2), None);
    }
}
