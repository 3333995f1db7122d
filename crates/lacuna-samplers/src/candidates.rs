//! Proposes a token for a masked position, and says how sure the model is of it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::constraint::Mask;
use crate::error::{Error, Result, setting};
use crate::fill::{Candidate, FillRule, Needs};
use crate::keyed::{Purpose, Words, ln_exponential, stream, uniform};
use crate::rows;

/// The law by which tokens are drawn from the logits. The default is greedy.
///
/// In this order: forbidden tokens go; penalties; temperature; top-k; top-p; min-p; then
/// argmax of exp(ℓ)/(−ln u)^T over what is left, u uniform per token (for T = 0 argmax of ℓ), which
/// is a draw from softmax(ℓ/T). A token's u depends on (seed, position, refinement, token) alone:
/// not on the other requests of a batch, not on which tokens were left out.
///
/// None of this touches the confidence, which is the model's own: softmax of its logits, whole, at
/// temperature 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0: the most probable token. 1: the model's distribution.
    pub temperature: f64,
    /// Only the k largest logits.
    pub top_k: Option<NonZeroUsize>,
    /// Only the fewest most probable tokens that hold this much probability (after top-k).
    pub top_p: Option<f64>,
    /// Only tokens at least this probable in proportion to the most probable.
    pub min_p: Option<f64>,
    /// Logits of tokens that stand in the prompt or were generated are divided by this if positive,
    /// multiplied if negative. 1: off.
    pub repetition_penalty: f64,
    /// Taken from the logit of a token for each time that it was generated. 0: off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frequency_penalty: f64,
    /// Taken from the logit of a token that was generated, however often. 0: off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub presence_penalty: f64,
    /// Names the random stream.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks every setting.
    ///
    /// # Errors
    /// A setting outside its range, or not a number.
    pub fn validate(&self) -> Result<()> {
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return setting("temperature", temperature, "a finite number of at least 0");
        }
        if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return setting("top_p", p, "a number above 0, at most 1");
        }
        if let Some(p) = min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return setting("min_p", p, "a number between 0 and 1");
        }
        if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return setting("repetition_penalty", repetition_penalty, "a finite number above 0");
        }
        let others = [
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
        ];
        match others.into_iter().find(|(_, penalty)| !penalty.is_finite()) {
            Some((name, penalty)) => setting(name, penalty, "a finite number"),
            None => Ok(()),
        }
    }

    /// Tells whether tokens seen before count; the caller need not gather them otherwise.
    pub(crate) fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }

    /// The logit of a token that was seen, and generated so many times.
    fn penalised(&self, logit: f32, times: u32) -> f32 {
        let old = f64::from(logit);
        let penalty = self.repetition_penalty;
        let new = if old > 0.0 { old / penalty } else { old * penalty };
        let presence = if times > 0 { self.presence_penalty } else { 0.0 };
        (new - self.frequency_penalty * f64::from(times) - presence) as f32
    }
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// The tokens that stand in a prompt or were generated, each with the number of times that it was generated.
pub(crate) type Seen = BTreeMap<u32, u32>;

/// Counts a token that is generated.
pub(crate) fn count(seen: &mut Seen, token: u32) {
    *seen.entry(token).or_default() += 1;
}

/// The place of a draw, and the tokens that are ruled out there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    /// The request's number, for messages.
    pub(crate) request: usize,
    /// Absolute position.
    pub(crate) position: usize,
    /// Refinement within the block.
    pub(crate) refinement: usize,
    /// Tokens that may not come out, ascending.
    pub(crate) forbidden: &'a [u32],
    /// Tokens that penalties apply to.
    pub(crate) seen: &'a Seen,
    /// The only tokens that may come out; None: any.
    pub(crate) allowed: Option<&'a Mask>,
}

/// Proposes the tokens that greedy decoding proposes, for whoever measures a fill rule outside of a decoder: MASK is never
/// one of them.
///
/// ```
/// use lacuna_samplers::{FillRule, Proposer};
///
/// let mut proposer = Proposer::new(FillRule::LowConfidence, 1, 0);
/// let candidate = proposer.propose(&[0.0, 9.0, 2.0, 1.0], 5, 0)?;
/// assert_eq!((candidate.position, candidate.token), (5, 2), "token 1 is MASK");
/// assert!(candidate.confidence < 0.01, "the confidence is the model's own, over all tokens");
/// # Ok::<(), lacuna_samplers::Error>(())
/// ```
#[derive(Debug)]
pub struct Proposer {
    sampler: CandidateSampler,
    sampling: Sampling,
    needs: Needs,
    forbidden: [u32; 1],
    seen: Seen,
}

impl Proposer {
    /// A proposer of what `rule` ranks by; `seed` names the order of [`FillRule::Random`].
    pub fn new(rule: FillRule, mask_id: u32, seed: u64) -> Self {
        Self {
            sampler: CandidateSampler::default(),
            sampling: Sampling { seed, ..Sampling::default() },
            needs: rule.needs(),
            forbidden: [mask_id],
            seen: Seen::new(),
        }
    }

    /// The candidate for a position, from its logits, in the given refinement of its block.
    ///
    /// # Errors
    /// Errors if a logit is not finite, or no token is possible.
    pub fn propose(
        &mut self,
        logits: &[f32],
        position: usize,
        refinement: usize,
    ) -> Result<Candidate> {
        let site = Site {
            request: 0,
            position,
            refinement,
            forbidden: &self.forbidden,
            seen: &self.seen,
            allowed: None,
        };
        self.sampler.pick(logits, &self.sampling, self.needs, site)
    }
}

/// Draws candidates; keeps its buffers from row to row.
#[derive(Debug, Default)]
pub(crate) struct CandidateSampler {
    chunk_max: Vec<f32>,
    masked: Vec<f32>,
    penalised: Vec<f32>,
    pool: Vec<(f32, u32)>,
}

impl CandidateSampler {
    /// The candidate for one row of logits.
    pub(crate) fn pick(
        &mut self,
        row: &[f32],
        sampling: &Sampling,
        needs: Needs,
        site: Site<'_>,
    ) -> Result<Candidate> {
        let Site { request, position, refinement, forbidden, seen, allowed } = site;
        let max = rows::max(row, &mut self.chunk_max).map_err(|value| Error::NotFinite {
            request,
            position,
            value,
        })?;
        let nothing = Error::NothingAllowed { request, position };
        if max.value == f32::NEG_INFINITY {
            return Err(nothing);
        }
        let (sum, entropy) = if needs.entropy {
            let (sum, moment) = rows::exp_sums::<true>(row, max.value, 1.0);
            (sum, (sum.ln() - moment / sum).max(0.0)) // H = ln Z − E[d]
        } else {
            (rows::exp_sums::<false>(row, max.value, 1.0).0, 0.0)
        };

        let masked = std::mem::take(&mut self.masked);
        let masked = allowed.map(|allowed| mask(row, masked, allowed));
        let possible = masked.as_deref().unwrap_or(row);
        let plain = !sampling.penalises()
            && !is_member(forbidden, max.index)
            && allowed.is_none_or(|allowed| allowed.holds(max.index));
        let token = if sampling.temperature == 0.0 && plain {
            max.index
        } else {
            let mut penalised = std::mem::take(&mut self.penalised);
            let logits = if sampling.penalises() {
                penalise(possible, &mut penalised, sampling, seen);
                &penalised
            } else {
                possible
            };
            if sampling.penalises() || masked.is_some() {
                rows::max(logits, &mut self.chunk_max).map_err(|value| Error::NotFinite {
                    request,
                    position,
                    value,
                })?;
            }
            let token = self.draw(logits, sampling, site);
            self.penalised = penalised;
            token.ok_or(nothing)?
        };

        let probability = |logit: f32| (f64::from(logit) - f64::from(max.value)).exp() / sum;
        let confidence = probability(row[token]);
        let margin = if needs.margin {
            let mut excluded = forbidden.to_vec();
            excluded.push(token as u32);
            excluded.sort_unstable();
            let other = rows::max_excluding(possible, &excluded);
            confidence - other.map_or(0.0, |(_, logit)| probability(logit))
        } else {
            0.0
        };
        let uniform = if needs.uniform {
            uniform(&mut stream(sampling.seed, Purpose::Order, position, refinement))
        } else {
            0.0
        };
        self.masked = masked.unwrap_or_default();
        Ok(Candidate { position, token: token as u32, confidence, margin, entropy, uniform })
    }

    /// A token from the filtered, tempered logits. `self.chunk_max` belongs to `logits`.
    fn draw(&mut self, logits: &[f32], sampling: &Sampling, site: Site<'_>) -> Option<usize> {
        let (best, max) = rows::max_excluding(logits, site.forbidden)?;
        if sampling.temperature == 0.0 {
            return Some(best);
        }
        let draws = stream(sampling.seed, Purpose::Token, site.position, site.refinement);
        let gumbel = GumbelMax { temperature: sampling.temperature, max };
        if sampling.top_k.is_none() && sampling.top_p.is_none() && sampling.min_p.is_none() {
            return gumbel.over_all(logits, site.forbidden, Words::new(draws));
        }
        self.filter(logits, sampling, site.forbidden, max);
        gumbel.over_pool(&mut self.pool, Words::new(draws))
    }

    /// Fills `self.pool` with what top-k, top-p and min-p leave, in falling order of logits.
    fn filter(&mut self, logits: &[f32], sampling: &Sampling, forbidden: &[u32], max: f32) {
        let Self { chunk_max, pool, .. } = self;
        let weight =
            |logit: f32| ((f64::from(logit) - f64::from(max)) / sampling.temperature).exp();
        let total = match sampling.top_p {
            Some(_) if sampling.top_k.is_none() => {
                let scale = scale(sampling.temperature);
                rows::pieces(logits, forbidden)
                    .map(|(_, piece)| rows::exp_sums::<false>(piece, max, scale).0)
                    .sum()
            }
            _ => 0.0,
        };

        // Lower bounds that spare sorting the whole vocabulary. The k-th largest of the chunks'
        // maxima is at most the k-th largest logit (forbidden ones may be among them). Tokens of
        // weight below (1 − p)·W/V hold less than (1 − p)·W together: top-p keeps none of them.
        let mut floor = f64::NEG_INFINITY;
        if let Some(k) = sampling.top_k {
            let rank = k.get().saturating_add(forbidden.len());
            if rank <= chunk_max.len() {
                let order = |a: &f32, b: &f32| b.total_cmp(a);
                floor = f64::from(*chunk_max.select_nth_unstable_by(rank - 1, order).1);
            }
        } else if let Some(p) = sampling.top_p {
            // The 1e-3 covers the rounding of W.
            let least = (1.0 - p) * total / logits.len() as f64 * (1.0 - 1e-3);
            floor = f64::from(max) + sampling.temperature * least.ln();
        }
        if let Some(p) = sampling.min_p.filter(|_| sampling.top_k.is_none()) {
            // (After top-k the pool is small, and top-p must see all of it.)
            // Exact comparisons follow; the slack covers this line's rounding.
            floor = floor.max(f64::from(max) + sampling.temperature * (p.ln() - 1e-9));
        }

        pool.clear();
        for (start, piece) in rows::pieces(logits, forbidden) {
            let kept = piece.iter().zip(start as u32..);
            let kept = kept.filter(|&(&x, _)| x > f32::NEG_INFINITY && f64::from(x) >= floor);
            pool.extend(kept.map(|(&logit, id)| (logit, id)));
        }
        pool.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if let Some(k) = sampling.top_k {
            pool.truncate(k.get());
        }
        if let Some(p) = sampling.top_p {
            let total = match sampling.top_k {
                Some(_) => pool.iter().map(|&(logit, _)| weight(logit)).sum(),
                None => total,
            };
            let mut held = 0.0;
            let kept = pool.iter().take_while(|&&(logit, _)| {
                let wanted = held < p * total;
                held += weight(logit);
                wanted
            });
            let kept = kept.count();
            pool.truncate(kept.max(1));
        }
        if let Some(p) = sampling.min_p {
            let kept = pool.iter().take_while(|&&(logit, _)| weight(logit) >= p).count();
            pool.truncate(kept.max(1));
        }
    }
}

/// argmax of exp(ℓ)/E^T, E = −ln u: the token whose exponential clock E/e^(ℓ/T) rings first.
/// In logarithms (ℓ − max)/T − ln E, which neither overflows nor underflows.
struct GumbelMax {
    temperature: f64,
    max: f32,
}

impl GumbelMax {
    fn score(&self, logit: f32, word: u32) -> f64 {
        (f64::from(logit) - f64::from(self.max)) / self.temperature - ln_exponential(word)
    }

    /// The winner among all tokens but `forbidden`; ties go to the lowest id.
    ///
    /// Nearly every token is ruled out without a logarithm: to beat a score s a token needs
    /// E < e^((ℓ − max)/T)·e^−s, and E = −ln(1 − v) ≥ v.
    fn over_all(&self, logits: &[f32], forbidden: &[u32], mut words: Words) -> Option<usize> {
        let scale = scale(self.temperature);
        let mut winner = None;
        let mut best = f64::NEG_INFINITY;
        let mut bound = f32::INFINITY;
        for (index, chunk) in logits.chunks(Words::CHUNK).enumerate() {
            let words = words.chunk(index);
            let could_win = |logit: f32, word: u32, bound: f32| {
                // 24 bits convert exactly. A forbidden token may lie above max: cap its exponent.
                let v = (word >> 8) as i32 as f32 * (1.0 / 16_777_216.0);
                let d = rows::clamped((logit - self.max) * scale);
                v <= rows::exp_nonpositive(if d < 0.0 { d } else { 0.0 }) * bound
            };
            let mut any = false;
            for (&logit, &word) in chunk.iter().zip(words) {
                any |= could_win(logit, word, bound);
            }
            if !any {
                continue;
            }
            for (offset, (&logit, &word)) in chunk.iter().zip(words).enumerate() {
                if !could_win(logit, word, bound) {
                    continue;
                }
                let token = index * Words::CHUNK + offset;
                let score = self.score(logit, word);
                if score > best && !is_member(forbidden, token) {
                    (winner, best) = (Some(token), score);
                    // The slack covers the f32 exponential and its argument's rounding (1e-5).
                    bound = ((-best).exp() * (1.0 + 1e-4)) as f32;
                }
            }
        }
        winner
    }

    /// The winner among a pool of (logit, token).
    fn over_pool(&self, pool: &mut [(f32, u32)], mut words: Words) -> Option<usize> {
        pool.sort_unstable_by_key(|&(_, id)| id); // so that every chunk of words is read once
        let mut winner = None;
        let mut best = f64::NEG_INFINITY;
        for &(logit, id) in pool.iter() {
            let score = self.score(logit, words.word(id as usize));
            if score > best {
                (winner, best) = (Some(id as usize), score);
            }
        }
        winner
    }
}

/// 1/T as a finite f32.
fn scale(temperature: f64) -> f32 {
    (1.0 / temperature).min(f64::from(f32::MAX)) as f32
}

/// Tells whether `token` is among `ids` (ascending).
fn is_member(ids: &[u32], token: usize) -> bool {
    u32::try_from(token).is_ok_and(|token| ids.binary_search(&token).is_ok())
}

/// The row with -∞ for all tokens but those that are allowed.
fn mask(row: &[f32], mut out: Vec<f32>, allowed: &Mask) -> Vec<f32> {
    out.clear();
    let kept = |(token, logit): (usize, &f32)| match allowed.holds(token) {
        true => *logit,
        false => f32::NEG_INFINITY,
    };
    out.extend(row.iter().enumerate().map(kept));
    out
}

fn penalise(row: &[f32], out: &mut Vec<f32>, sampling: &Sampling, seen: &Seen) {
    out.clear();
    out.extend_from_slice(row);
    for (&token, &times) in seen {
        if let Some(logit) = out.get_mut(token as usize) {
            *logit = sampling.penalised(*logit, times);
        }
    }
}

#[cfg(test)]
mod tests;
