//! Follows the algorithm released with Stable-DiffCoder step by step, its faults included.
//!
//! Every number here is computed in the plainest way, in f64. The faults, which
//! [`Decoder`](crate::Decoder) does not have: a commit pass after every block, even the last; a
//! threshold with too few steps leaves masks behind (an error here unless it is the last block,
//! whose masks are then part of the result); MASK can be filled in, and is masked again; so is a
//! MASK id in the prompt's tail; eos is seen only when its block is full.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, denoiser as failed, setting};
use crate::fill::{Candidate, FillRule, quota};
use crate::keyed::{Purpose, Words, ln_exponential, stream, uniform};
use crate::request::{BlockEvent, Event, FinishReason, Refinement};
use crate::{Denoiser, Row, Segment, View, rows};

/// The statistic that ranks the masked positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remasking {
    /// The candidate's probability.
    #[default]
    LowConfidence,
    /// A uniform draw.
    Random,
}

/// The arguments of the released `generate`, under its names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Refinements in all; a multiple of the number of blocks, `gen_length / block_length`.
    pub steps: usize,
    /// New tokens; a multiple of `block_length`.
    pub gen_length: usize,
    /// B.
    pub block_length: usize,
    /// 0: argmax. Else argmax of exp(ℓ)/(−ln u)^T.
    pub temperature: f64,
    /// The statistic that ranks the masked positions.
    pub remasking: Remasking,
    /// The MASK token.
    pub mask_id: u32,
    /// τ: fill every position at least this confident, the schedule then only caps the steps.
    pub threshold: Option<f64>,
    /// End of sequence.
    pub eos_id: Option<u32>,
    /// Not in the released code: never fill in MASK.
    pub forbid_mask: bool,
    /// Names the random stream, which replaces the released code's global generator.
    pub seed: u64,
}

impl Settings {
    /// Greedy, one token a refinement, no threshold, no eos.
    pub fn new(gen_length: usize, block_length: usize, mask_id: u32) -> Self {
        Self {
            steps: gen_length,
            gen_length,
            block_length,
            temperature: 0.0,
            remasking: Remasking::LowConfidence,
            mask_id,
            threshold: None,
            eos_id: None,
            forbid_mask: false,
            seed: 0,
        }
    }

    /// Refinements per block, and its size.
    fn steps_per_block(&self) -> Result<(usize, NonZeroUsize)> {
        let Self { steps, gen_length, block_length, .. } = *self;
        let Some(block_size) = NonZeroUsize::new(block_length) else {
            return setting("block_length", 0, "at least 1");
        };
        if gen_length == 0 || !gen_length.is_multiple_of(block_length) {
            let expected = format!("a multiple of block_length, {block_length}, of at least 1");
            return setting("gen_length", gen_length, expected);
        }
        let blocks = gen_length / block_length;
        if steps == 0 || !steps.is_multiple_of(blocks) {
            let expected = format!("a multiple of the number of blocks, {blocks}, of at least 1");
            return setting("steps", steps, expected);
        }
        if let Some(tau) = self.threshold {
            FillRule::Threshold { tau }.validate()?;
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return setting("temperature", self.temperature, "a finite number of at least 0");
        }
        Ok((steps / blocks, block_size))
    }
}

/// The result of the released `generate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The prompt and the new tokens.
    pub ids: Vec<u32>,
    /// Passes, prefill aside: refinements and commits.
    pub nfe: usize,
    /// Length of the prompt.
    pub prompt_len: usize,
    /// Masks that stand in the new tokens (only ever in the last block).
    pub masks_left: usize,
    /// Eos, length, or the observer's stop.
    pub finish: FinishReason,
}

impl Output {
    /// The new tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.ids[self.prompt_len..]
    }
}

/// The released algorithm for one prompt, as sequence 0 of the denoiser, which it releases at the
/// end.
///
/// # Errors
/// `gen_length` no multiple of `block_length`, `steps` no multiple of the number of blocks;
/// [`Error::MasksLeft`] where the released code stops with a shape mismatch; the denoiser's.
pub fn generate(
    denoiser: &mut impl Denoiser,
    prompt: &[u32],
    settings: &Settings,
    mut observer: impl FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Output> {
    let (steps, block_size) = settings.steps_per_block()?;
    let view = View::Blocks { block_size };
    let result = run(denoiser, prompt, settings, (steps, view), &mut observer);
    denoiser.release(SEQUENCE);
    result
}

const SEQUENCE: usize = 0;

fn run(
    denoiser: &mut impl Denoiser,
    prompt: &[u32],
    settings: &Settings,
    (steps, view): (usize, View),
    observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<usize>,
) -> Result<Output> {
    let Settings { gen_length, block_length, mask_id, .. } = *settings;
    let prompt_len = prompt.len();

    // 1. Canvas = prompt ++ masks; blocks are counted from position 0, so the last may be cut.
    let mut canvas = prompt.to_vec();
    canvas.resize(prompt_len + gen_length, mask_id);
    let mut nfe = 0;
    let output = |ids: Vec<u32>, nfe, finish| {
        let masks_left = ids[prompt_len..].iter().filter(|&&id| id == mask_id).count();
        Output { ids, nfe, prompt_len, masks_left, finish }
    };

    // 2. Prefill of the prompt's whole blocks; not counted.
    let mut block_start = prompt_len / block_length * block_length;
    denoiser.prefill(SEQUENCE, &canvas[..block_start], view).map_err(failed)?;

    while block_start < canvas.len() {
        let block_end = (block_start + block_length).min(canvas.len());
        // 3. m masks at its start.
        let masked = holes(&canvas[block_start..block_end], mask_id).len();
        let mut refinements = 0;
        for step in 0..steps {
            let masked_now = holes(&canvas[block_start..block_end], mask_id);
            let count = quota(masked, steps, step);
            if masked_now.is_empty() || count == 0 {
                break; // quotas never rise: no later step has anything to do
            }
            // 4. and 5. A pass, candidates, confidences.
            let block = &canvas[block_start..block_end];
            let segment = Segment { sequence: SEQUENCE, view, block, rows: &masked_now };
            let mut candidates = Vec::with_capacity(masked_now.len());
            rows::read(
                masked_now.len(),
                |read| denoiser.denoise(&[segment], &mut |logits| read(Row::Logits(logits))),
                |row, left| {
                    let Row::Logits(logits) = left else { return };
                    let position = block_start + masked_now[row];
                    candidates.push(candidate(logits, settings, position, step));
                },
            )?;
            nfe += 1;
            refinements += 1;
            let candidates = candidates.into_iter().collect::<Result<Vec<_>>>()?;
            // 6. Fill.
            let rule = match settings.threshold {
                None => FillRule::LowConfidence,
                Some(tau) => FillRule::Threshold { tau },
            };
            let mut filled = Vec::new();
            for index in rule.select(&candidates, count) {
                let Candidate { position, token, .. } = candidates[index];
                canvas[position] = token;
                filled.push(position);
            }
            let event =
                Refinement { request: SEQUENCE, block_start, refinement: step, candidates, filled };
            if let ControlFlow::Break(keep) = observer(Event::Refinement(&event)) {
                let finished = block_start.max(prompt_len);
                canvas.truncate(finished.min(prompt_len.saturating_add(keep)));
                return Ok(output(canvas, nfe, FinishReason::Stop));
            }
        }

        // 7. The block is full: eos ends it all, else a commit pass. Where it is not, no keys and
        // values are written, and the released code fails at the next block's pass.
        let left = holes(&canvas[block_start..block_end], mask_id).len();
        let last = block_end == canvas.len();
        let first_new = block_start.max(prompt_len);
        let mut finish = last.then_some(FinishReason::Length);
        if left > 0 {
            if !last {
                return Err(Error::MasksLeft { block_start, left, refinements });
            }
        } else if let Some((eos, at)) = find_eos(&canvas, first_new..block_end, settings.eos_id) {
            canvas.truncate(block_end);
            canvas[at..].fill(eos);
            finish = Some(FinishReason::Eos);
        } else {
            denoiser.commit(SEQUENCE, &canvas[block_start..block_end]).map_err(failed)?;
            nfe += 1;
        }

        let generated = &canvas[prompt_len..block_end];
        let text_len = match (finish, settings.eos_id) {
            (Some(FinishReason::Eos), Some(eos)) => {
                generated.iter().position(|&id| id == eos).unwrap_or(generated.len())
            }
            _ => generated.len(),
        };
        let event = BlockEvent {
            request: SEQUENCE,
            block_start,
            tokens: &canvas[first_new..block_end],
            generated,
            text_len,
            forwards: nfe,
            finish,
        };
        if let ControlFlow::Break(keep) = observer(Event::Block(&event)) {
            canvas.truncate(block_end.min(prompt_len.saturating_add(keep)));
            return Ok(output(canvas, nfe, FinishReason::Stop));
        }
        if finish == Some(FinishReason::Eos) {
            return Ok(output(canvas, nfe, FinishReason::Eos));
        }
        block_start = block_end;
    }
    Ok(output(canvas, nfe, FinishReason::Length))
}

/// Offsets whose token *is* MASK: the released code knows no other sign of a hole.
fn holes(block: &[u32], mask_id: u32) -> Vec<usize> {
    (0..block.len()).filter(|&offset| block[offset] == mask_id).collect()
}

fn find_eos(
    canvas: &[u32],
    range: std::ops::Range<usize>,
    eos: Option<u32>,
) -> Option<(u32, usize)> {
    let eos = eos?;
    range.into_iter().find(|&at| canvas[at] == eos).map(|at| (eos, at))
}

/// Candidate and confidence of one row, in plain f64.
fn candidate(
    row: &[f32],
    settings: &Settings,
    position: usize,
    refinement: usize,
) -> Result<Candidate> {
    let request = SEQUENCE;
    if let Some(&value) = row.iter().find(|x| x.is_nan() || **x == f32::INFINITY) {
        return Err(Error::NotFinite { request, position, value });
    }
    let Settings { temperature, seed, .. } = *settings;
    let max = row.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();

    let mut words = Words::new(stream(seed, Purpose::Token, position, refinement));
    let mut best = None;
    let mut best_score = f64::NEG_INFINITY;
    for (token, &logit) in (0u32..).zip(row) {
        if settings.forbid_mask && token == settings.mask_id {
            continue;
        }
        // exp(ℓ)/E^T in logarithms, over T so that both modes round alike.
        let score = match temperature {
            0.0 => f64::from(logit),
            _ => {
                (f64::from(logit) - max) / temperature - ln_exponential(words.word(token as usize))
            }
        };
        if score > best_score {
            (best, best_score) = (Some(token), score);
        }
    }
    let token = best.ok_or(Error::NothingAllowed { request, position })?;
    let confidence = match settings.remasking {
        Remasking::LowConfidence => (f64::from(row[token as usize]) - max).exp() / sum,
        Remasking::Random => uniform(&mut stream(seed, Purpose::Order, position, refinement)),
    };
    Ok(Candidate { position, token, confidence, margin: 0.0, entropy: 0.0, uniform: 0.0 })
}
