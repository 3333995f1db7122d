//! Makes drafts of the text that a request is about to write, so that many of its blocks are checked in one pass.
//!
//! [`Speculative::speculate`] denoises several fully masked blocks at once, each seeing the draft's
//! blocks before it. As long as every earlier block came out equal to its draft, that *is* the
//! first refinement of the next one, logit for logit. So each block is refined as usual, with these
//! logits for its first pass. A block that this fills, and fills with its draft, is accepted, its
//! keys and values being there already; one that takes more refinements goes on by plain passes, and
//! where it ends up as its draft all the same, the next block's first refinement is still known.
//! Nothing is ever decided differently: tokens, refinements and draws are those of
//! [`generate`](crate::generate), for every view, rule and temperature. Only passes are saved: one for
//! each block whose predecessors came true.
//!
//! A draft comes from an old version of the text, or from wherever the newest tokens stood before.

use std::ops::ControlFlow;

use crate::decoder::{Decoder, Guidance, one};
use crate::error::{Result, setting};
use crate::request::{Event, Generation, Request};
use crate::sequence::Sequence;
use crate::{Speculative, View};
use index::{CAPACITY, Found, Index, LENGTHS};

mod index;

/// Limits within which drafts are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drafting {
    /// Blocks that one pass checks at most, for a request. With an old text a request starts with one
    /// block a pass, doubles whenever all were accepted, and goes back to one when none was; with lookup
    /// as many are drafted as are expected to pay.
    pub blocks_max: usize,
    /// The number of newest tokens that must stand in the source for a draft to be taken from
    /// there.
    pub match_min: usize,
    /// The time that one row more takes, in proportion to a pass of one row. Lookup weighs the rows of
    /// a draft against the passes that it is expected to save.
    pub row_cost: f64,
}

impl Default for Drafting {
    fn default() -> Self {
        Self { blocks_max: 8, match_min: 2, row_cost: 0.04 }
    }
}

/// The use of drafts, for whoever wants to know whether they pay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Speculative passes among the forwards.
    pub speculative_passes: usize,
    /// Blocks that stood in a draft.
    pub drafted_blocks: usize,
    /// Drafted blocks that came out equal to their draft, in however many refinements.
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
/// As [`generate`](crate::generate); `blocks_max` of 0.
pub fn edit(
    denoiser: &mut impl Speculative,
    request: Request,
    old: &[u32],
    drafting: Drafting,
    observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Generation> {
    let drafter = Some(Drafter::old_text(old.to_vec(), drafting)?);
    generate_with(denoiser, request, Guidance { drafter, ..Guidance::default() }, observer)
}

/// Decodes one request with drafts, or under a rule: with drafts it is the generation of
/// [`generate`](crate::generate), in fewer forwards. It is sequence 0 of the denoiser, released at the end.
///
/// # Errors
/// As [`Decoder::push_with`], and whatever a request may fail with.
pub fn generate_with(
    denoiser: &mut impl Speculative,
    request: Request,
    guidance: Guidance,
    mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Generation> {
    let mut decoder = Decoder::new();
    decoder.push_with(request, guidance)?;
    loop {
        if let Some(result) = one(decoder.step_drafting(denoiser, &mut observer)) {
            return result;
        }
    }
}

/// The source of a request's drafts.
#[derive(Clone, Debug)]
pub struct Drafter {
    limits: Drafting,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Old {
        old: Vec<u32>,
        /// New tokens and their place in the old text where the two were last aligned.
        anchor: (usize, usize),
        /// Blocks of the next draft.
        blocks: usize,
    },
    Lookup {
        index: Box<Index>,
        /// Tokens of the request that the index has; None before the first draft.
        read: Option<usize>,
        odds: [Odds; LENGTHS.len()],
        /// The odds that the draft under way was cut by.
        level: usize,
    },
}

impl Drafter {
    /// Drafts from `old`, a text that the request is expected to repeat for the most part.
    ///
    /// # Errors
    /// `blocks_max` of 0.
    pub fn old_text(old: Vec<u32>, limits: Drafting) -> Result<Self> {
        check(&limits)?;
        Ok(Self { limits, source: Source::Old { old, anchor: (0, 0), blocks: 1 } })
    }

    /// Drafts from wherever the newest tokens stood before: in the request, prompt and all that is
    /// written, and before that in `texts`.
    ///
    /// # Errors
    /// `blocks_max` of 0, a `row_cost` that is no number above 0.
    pub fn lookup(texts: &[Vec<u32>], limits: Drafting) -> Result<Self> {
        check(&limits)?;
        let mut index = Index::new(CAPACITY);
        for text in texts {
            text.iter().chain([&NO_TOKEN]).for_each(|token| index.push(*token));
        }
        let (index, odds) = (Box::new(index), PRIORS.map(Odds::new));
        Ok(Self { limits, source: Source::Lookup { index, read: None, odds, level: 0 } })
    }

    /// The tokens that come next, as far as the source knows: whole blocks. The open block is one of
    /// masks.
    pub(crate) fn draft(&mut self, sequence: &Sequence) -> Vec<u32> {
        let Self { limits, source } = self;
        let request = &sequence.request;
        let size = request.block_size().get();
        let room = request.prompt.len() + request.max_new_tokens - sequence.block_start();
        let room = room / size;
        match source {
            Source::Old { old, anchor, blocks } => {
                let new = sequence.generated();
                let expected = anchor.1 + (new.len() - anchor.0);
                let Some(place) = align(new, old, expected, limits.match_min) else {
                    return Vec::new();
                };
                let draft = cut(&old[place..], room.min(*blocks) * size, size, request);
                if !draft.is_empty() {
                    *anchor = (new.len(), place);
                }
                draft
            }
            Source::Lookup { index, read, odds, level } => {
                let known = sequence.canvas.get(read.unwrap_or(0)..).unwrap_or_default();
                known.iter().for_each(|token| index.push(*token));
                *read = Some(sequence.canvas.len());
                odds.iter_mut().for_each(Odds::age);
                let Some(found) = index.find(limits.match_min) else { return Vec::new() };
                *level = LENGTHS.iter().rposition(|n| found.run >= *n).unwrap_or(0);
                let rows = if request.view == View::Causal { 1 } else { 2 * size };
                let blocks = odds[*level].blocks(rows as f64, limits.row_cost);
                let blocks = blocks.min(limits.blocks_max).min(room);
                // One block alone saves nothing: its first refinement is the pass itself.
                if blocks < 2 {
                    Vec::new()
                } else {
                    onward(index, found, blocks * size, size, request)
                }
            }
        }
    }

    /// Learns what became of a draft: so many blocks of it came true.
    pub(crate) fn learn(&mut self, drafted: usize, accepted: usize) {
        match &mut self.source {
            Source::Old { blocks, .. } => {
                *blocks = match accepted {
                    _ if accepted == drafted => {
                        blocks.saturating_mul(2).min(self.limits.blocks_max)
                    }
                    0 => 1,
                    _ => *blocks,
                };
            }
            Source::Lookup { odds, level, .. } => odds[*level].count(drafted, accepted),
        }
    }
}

fn check(limits: &Drafting) -> Result<()> {
    if limits.blocks_max == 0 {
        return setting("blocks_max", 0, "at least 1");
    }
    if !(limits.row_cost > 0.0 && limits.row_cost.is_finite()) {
        return setting("row_cost", limits.row_cost, "a finite number above 0");
    }
    Ok(())
}

/// Stands between two texts, where nothing is copied across.
const NO_TOKEN: u32 = u32::MAX;

/// The share of blocks that come true behind a run of each of [`LENGTHS`], before anything is known.
const PRIORS: [f64; LENGTHS.len()] = [0.4, 0.5, 0.7, 0.8];

/// The chance that a block of a draft comes true if those before it did, from what became of earlier ones.
#[derive(Clone, Copy, Debug)]
struct Odds {
    prior: f64,
    /// Blocks that came true, and drafts that failed; older ones count less.
    hits: f64,
    misses: f64,
}

impl Odds {
    /// The weight that a draft has left when the next one is judged, and after a pass without one.
    const KEPT: f64 = 0.8;
    const KEPT_UNUSED: f64 = 0.98;
    /// Drafts that the prior counts for.
    const WEIGHT: f64 = 2.0;

    fn new(prior: f64) -> Self {
        Self { prior, hits: 0.0, misses: 0.0 }
    }

    fn chance(&self) -> f64 {
        (self.hits + Self::WEIGHT * self.prior) / (self.hits + self.misses + Self::WEIGHT)
    }

    fn count(&mut self, drafted: usize, accepted: usize) {
        self.hits = self.hits * Self::KEPT + accepted as f64;
        self.misses = self.misses * Self::KEPT + f64::from(u8::from(accepted < drafted));
    }

    /// Lets earlier drafts count less, so that a source that was of no use is tried again.
    fn age(&mut self) {
        self.hits *= Self::KEPT_UNUSED;
        self.misses *= Self::KEPT_UNUSED;
    }

    /// Blocks of a draft that pays. Block i + 1 saves a pass if the i before it come true, aⁱ, and costs `rows` rows
    /// whether or not; a pass costs 1 − s and s for each row. So it pays while aⁱ·(1 − s + rows·s) > rows·s.
    fn blocks(&self, rows: f64, row_cost: f64) -> usize {
        let rows = rows * row_cost;
        let least = rows / (1.0 - row_cost.min(1.0) + rows);
        let more = least.ln() / self.chance().ln();
        1 + more.clamp(0.0, 1e6) as usize
    }
}

/// The text behind a place, at most `length` tokens in whole blocks. Where it reaches its own end it goes on with what
/// was drafted, as a text with a period does.
fn onward(index: &Index, found: Found, length: usize, size: usize, request: &Request) -> Vec<u32> {
    let mut draft: Vec<u32> = Vec::with_capacity(length);
    for at in 0..length {
        let place = found.place + at;
        let written = || draft.get(place.checked_sub(index.len())?).copied();
        let token = index.get(place).or_else(written);
        match token {
            Some(token) if token != NO_TOKEN && token != request.mask_id => draft.push(token),
            _ => break,
        }
    }
    draft.truncate(draft.len() / size * size);
    // See above: one block alone saves nothing.
    if draft.len() > size { draft } else { Vec::new() }
}

/// At most `length` tokens of `rest`, the old text from here on, in whole blocks. Where it ends, eos goes on to the
/// block's end.
fn cut(rest: &[u32], length: usize, size: usize, request: &Request) -> Vec<u32> {
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
