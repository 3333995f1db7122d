//! Decides which tokens of a row are hidden, and what each of them counts for in the loss.

use std::num::NonZeroUsize;

use lacuna_random::{RngCore, uniform};
use lacuna_schedules::{
    Band, BlockClipped, NoiseSchedule, Schedule, TimeSampling, forced_mask_probability,
};

use crate::{CorruptionRule, Error, MaskSampler, RateTransform, Result, Row, Weighting};

/// A row with some of its tokens hidden.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corruption {
    /// The row's tokens; the masked ones replaced by the mask id.
    pub noisy: Vec<u32>,
    /// The weight of each position's loss: above 0 exactly where a token is masked, 0 where nothing is supervised.
    /// The weights are not normalised: divide the sum by the number of *eligible* tokens.
    pub weights: Vec<f32>,
    /// The draw of each block, in order.
    pub blocks: Vec<BlockStats>,
}

/// The draw of one block. Telemetry shows it, and the complement of a pair is made from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockStats {
    /// The time t as drawn, from 0 to 1.
    pub time: f64,
    /// The rate the masks were drawn with; 0 for a block without eligible tokens.
    pub rate: f64,
    /// The loss weight of each masked token of the block.
    pub weight: f64,
    /// n, the number of tokens that could be masked.
    pub eligible: usize,
    /// m, the number of tokens that are masked, the forced one included.
    pub masked: usize,
    /// True if the block came out empty and one mask was forced.
    pub forced: bool,
}

impl BlockStats {
    /// m as it was drawn, before a mask was forced.
    pub fn masked_before_fallback(&self) -> usize {
        self.masked - usize::from(self.forced)
    }
}

/// The source of a row's noise. See [`StepRule::noise_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseOf {
    /// The row whose random stream and times are used.
    pub row: usize,
    /// True if the [complement](StepRule::complement) of that row's masks is taken.
    pub complement: bool,
}

/// Draws the times of `blocks` blocks. The strata of a stratified sampling reach over all of them, so draw the times
/// of a step's whole batch at once, from a stream of their own.
pub fn draw_times(sampling: TimeSampling, blocks: usize, rng: &mut impl RngCore) -> Vec<f64> {
    let mut times = vec![0.0; blocks];
    sampling.fill(&mut times, &mut || uniform(rng));
    times
}

/// A [`CorruptionRule`] at one step: warmup resolved, parts checked. Made by [`CorruptionRule::at_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRule {
    schedule: Schedule,
    transform: RateTransform,
    mask_sampler: MaskSampler,
    weighting: Weighting,
    time_max: f64,
    mask_id: u32,
}

impl StepRule {
    pub(crate) fn new(rule: &CorruptionRule, step: u64) -> Self {
        let after = Self {
            schedule: rule.schedule,
            transform: rule.transform,
            mask_sampler: rule.mask_sampler,
            weighting: rule.weighting,
            time_max: rule.warmup.rate_max(step),
            mask_id: rule.mask_id,
        };
        if step >= rule.warmup.steps() {
            return after;
        }
        let unweighted = Self { weighting: Weighting::None, ..after };
        if rule.transform_during_warmup {
            return unweighted;
        }
        Self {
            transform: RateTransform::Identity,
            mask_sampler: MaskSampler::Bernoulli,
            ..unweighted
        }
    }

    /// The row whose random stream and times the noise of `row` is drawn from, and whether its complement is taken.
    ///
    /// A row's noise depends on nothing but the seed, the step and this number, so it is the same for every split of
    /// a batch. Each row draws for itself, except in complementary pairs, where rows 2k and 2k + 1 both draw what row
    /// 2k draws, and the second takes the complement. Both must hold the same text. (While a warmup suspends the
    /// sampler, the two are noised independently.)
    ///
    /// ```
    /// use lacuna_objective::{CorruptionRule, MaskSampler, NoiseOf, Weighting};
    ///
    /// let rule = CorruptionRule {
    ///     mask_sampler: MaskSampler::ComplementaryPairs,
    ///     weighting: Weighting::None,
    ///     ..CorruptionRule::paper(5)
    /// };
    /// let at_step = rule.at_step(0)?;
    /// assert_eq!(at_step.noise_of(6), NoiseOf { row: 6, complement: false });
    /// assert_eq!(at_step.noise_of(7), NoiseOf { row: 6, complement: true });
    /// # Ok::<(), lacuna_objective::Error>(())
    /// ```
    pub fn noise_of(&self, row: usize) -> NoiseOf {
        if self.mask_sampler == MaskSampler::ComplementaryPairs {
            NoiseOf { row: row - row % 2, complement: row % 2 == 1 }
        } else {
            NoiseOf { row, complement: false }
        }
    }

    /// Corrupts every block of a row, each at its own time.
    ///
    /// # Errors
    /// `times` and the row's blocks differ in number.
    pub fn corrupt_row(
        &self,
        row: Row<'_>,
        times: &[f64],
        rng: &mut impl RngCore,
    ) -> Result<Corruption> {
        if times.len() != row.blocks().len() {
            let (found, expected) = (times.len(), row.blocks().len());
            return Err(Error::Length { what: "times, one per block", found, expected });
        }
        let mut corruption = untouched(row);
        for (positions, &time) in row.eligible_positions().zip(times) {
            let stats = match NonZeroUsize::new(positions.len()) {
                Some(eligible) => {
                    let rate = self.mask_rate(time, eligible);
                    let (chosen, forced) = self.choose(&positions, rate, rng);
                    self.hide(&mut corruption, eligible, &chosen, time, rate, forced)
                }
                None => BlockStats { time, ..BlockStats::default() },
            };
            corruption.blocks.push(stats);
        }
        Ok(corruption)
    }

    /// The other half of a complementary pair: masks exactly the eligible tokens of the row's blocks
    /// that `half` shows. It draws nothing.
    ///
    /// # Errors
    /// The mask sampler at this step is not [`MaskSampler::ComplementaryPairs`]; `half` is not of this row.
    pub fn complement(&self, row: Row<'_>, half: &Corruption) -> Result<Corruption> {
        let mask_sampler = self.mask_sampler;
        if mask_sampler != MaskSampler::ComplementaryPairs {
            return Err(Error::NotPaired { mask_sampler });
        }
        for (what, found, expected) in [
            ("weights of the other half", half.weights.len(), row.clean().len()),
            ("blocks of the other half", half.blocks.len(), row.blocks().len()),
        ] {
            if found != expected {
                return Err(Error::Length { what, found, expected });
            }
        }
        let mut corruption = untouched(row);
        for (positions, first) in row.eligible_positions().zip(&half.blocks) {
            let stats = match NonZeroUsize::new(positions.len()) {
                Some(eligible) => {
                    let shown = |&i: &usize| half.weights[i] == 0.0;
                    let chosen: Vec<usize> = positions.iter().copied().filter(shown).collect();
                    let rate = 1.0 - first.rate;
                    self.hide(&mut corruption, eligible, &chosen, first.time, rate, false)
                }
                None => *first,
            };
            corruption.blocks.push(stats);
        }
        Ok(corruption)
    }

    /// The mask rate u of a block of `eligible` tokens at time t, after warmup and transform.
    pub fn mask_rate(&self, time: f64, eligible: NonZeroUsize) -> f64 {
        let rate = self.scheduled(time, eligible).0;
        let paired = self.mask_sampler == MaskSampler::ComplementaryPairs;
        if paired && self.transform == RateTransform::BlockClip {
            let lowest = (1.0 / eligible.get() as f64).min(0.5);
            return rate.clamp(lowest, 1.0 - lowest);
        }
        rate
    }

    /// The mask rate u and the loss weight w of the transformed schedule at time t.
    fn scheduled(&self, time: f64, eligible: NonZeroUsize) -> (f64, f64) {
        fn at(schedule: impl NoiseSchedule, time: f64) -> (f64, f64) {
            (schedule.mask_rate(time), schedule.loss_weight(time))
        }
        let time = time * self.time_max;
        match self.transform {
            RateTransform::Identity => at(self.schedule, time),
            RateTransform::BlockClip => at(BlockClipped::new(self.schedule, eligible), time),
            RateTransform::Band { time_min, time_max } => {
                let band = Band::new(self.schedule, time_min, time_max);
                at(band.expect("the rule was validated"), time)
            }
        }
    }

    /// Draws which of `positions` are masked, and says whether the mask was forced.
    fn choose(&self, positions: &[usize], rate: f64, rng: &mut impl RngCore) -> (Vec<usize>, bool) {
        if self.mask_sampler == MaskSampler::ExactCount {
            let n = positions.len();
            let masked = ((rate * n as f64).ceil() as usize).clamp(1, n);
            return (choose_exactly(positions, masked, rng), false);
        }
        let mut chosen = positions.to_vec();
        chosen.retain(|_| uniform(rng) < rate);
        let forced = chosen.is_empty() && self.mask_sampler == MaskSampler::BernoulliForced;
        if forced {
            chosen.extend(choose_exactly(positions, 1, rng));
        }
        (chosen, forced)
    }

    /// Masks the chosen positions and weighs them.
    fn hide(
        &self,
        corruption: &mut Corruption,
        eligible: NonZeroUsize,
        chosen: &[usize],
        time: f64,
        rate: f64,
        forced: bool,
    ) -> BlockStats {
        let (n, masked) = (eligible.get(), chosen.len());
        let weight = match self.weighting {
            Weighting::None => 1.0,
            Weighting::Paper => self.scheduled(time, eligible).1,
            Weighting::ExactCount => n as f64 / masked as f64,
            Weighting::Unbiased => match self.mask_sampler {
                MaskSampler::Bernoulli | MaskSampler::ComplementaryPairs => 1.0 / rate,
                MaskSampler::BernoulliForced => 1.0 / forced_mask_probability(rate, eligible),
                MaskSampler::ExactCount => n as f64 / masked as f64,
            },
        };
        for &i in chosen {
            corruption.noisy[i] = self.mask_id;
            corruption.weights[i] = weight as f32;
        }
        BlockStats { time, rate, weight, eligible: n, masked, forced }
    }
}

fn untouched(row: Row<'_>) -> Corruption {
    Corruption {
        noisy: row.clean().to_vec(),
        weights: vec![0.0; row.clean().len()],
        blocks: Vec::with_capacity(row.blocks().len()),
    }
}

/// Chooses `count` of `positions`, in order, every set with the same probability: each position in turn is taken with
/// probability (still wanted)/(still left).
pub(crate) fn choose_exactly(
    positions: &[usize],
    count: usize,
    rng: &mut impl RngCore,
) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(count);
    for (seen, &position) in positions.iter().enumerate() {
        let (wanted, left) = (count - chosen.len(), positions.len() - seen);
        if uniform(rng) * (left as f64) < wanted as f64 {
            chosen.push(position);
        }
    }
    chosen
}
