//! Defines the parts of a corruption rule, one recipe key each, and which of them go together.

use std::fmt;
use std::str::FromStr;

use lacuna_schedules::{Band, NoiseSchedule, Schedule, Warmup};

use crate::{Error, Result, StepRule};

/// A change to the schedule's mask rate. Below, n is the number of eligible tokens of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RateTransform {
    /// `identity`: u(t) as the schedule has it. One block in B + 1 comes out empty and teaches nothing.
    Identity,
    /// `block-clip`: min(1, max(u(t), 1/n))        (SDC §3.3).
    ///
    /// The clip is that of the tokens which *can* be masked, 1/n and not 1/B: for the model, a block
    /// with n unknown tokens is a block of n tokens. Every closed form then holds with n for B, no
    /// weight exceeds n, and a lone eligible token is always masked, with weight 1. (At 1/B it would
    /// be forced in most draws and count 1 + ln B times.) In a full block n = B.
    #[default]
    BlockClip,
    /// `band-MIN-MAX`: only the schedule's times from MIN to MAX        (BD3-LM's clip).
    Band {
        /// β, the first of these times.
        time_min: f64,
        /// ω, the last of these times.
        time_max: f64,
    },
}

/// A way to draw the masks of a block, given its rate u.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MaskSampler {
    /// `bernoulli`: each eligible token independently with probability u.
    Bernoulli,
    /// `bernoulli-forced`: the same; in a block that came out empty, one uniformly chosen token is masked (SDC §3.3).
    #[default]
    BernoulliForced,
    /// `exact-count`: m = ⌈u·n⌉ tokens, all sets of that size alike. With u ~ U(0, 1] that is m ~ U{1, …, n}.
    ExactCount,
    /// `complementary-pairs`: rows 2k and 2k + 1 hold the same text; the second masks what the first
    /// shows. Together they mask each eligible token exactly once. See [`StepRule::noise_of`].
    ///
    /// Under `block-clip` the rate is kept within [1/n, 1 − 1/n] (½ for n = 1), so that the bound
    /// on the weight holds for both rows. An empty half stays empty.
    ComplementaryPairs,
}

/// The weight of a masked token's loss. Bias and variance are those of a block's mean loss with every c = 1, at B = 4
/// (`cargo run -p lacuna-schedules --example table` has the other sizes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weighting {
    /// `paper`: the schedule's own w(t); 1/u_blk under `block-clip`.
    ///
    /// With `bernoulli`: unbiased, variance 0.347. With `bernoulli-forced`, the paper's rule: the
    /// forced token makes it count 1.113 times, variance 0.213; sparse patterns weigh too much.
    #[default]
    Paper,
    /// `unbiased`: one over the probability that the token is masked, as the masks are really drawn.
    ///
    /// `bernoulli`: 1/u. `bernoulli-forced`: 1/(u + (1 − u)^n/n), variance 0.144. `exact-count`: n/m.
    /// `complementary-pairs`: 1/u in the first row, 1/(1 − u) in the second.
    Unbiased,
    /// `exact-count`: n/m, with the sampler of that name only. Unbiased, variance 0: every block counts alike.
    ExactCount,
    /// `none`: 1. The sum then counts each block by the part of it that is masked, which is half of the tokens on
    /// average.
    None,
}

/// A rule by which blocks are corrupted and their losses weighed: plain data, as a recipe has it.
///
/// # Example: the paper's rule, and its likeliest better
/// ```
/// use lacuna_objective::{CorruptionRule, MaskSampler, Weighting};
///
/// let paper = CorruptionRule::paper(5);
/// let exact_count = CorruptionRule {
///     mask_sampler: MaskSampler::ExactCount,
///     weighting: Weighting::ExactCount,
///     ..paper
/// };
/// assert!(exact_count.at_step(0).is_ok());
/// // A weight follows from how the masks are drawn; one that doesn't is refused.
/// let wrong = CorruptionRule { weighting: Weighting::ExactCount, ..paper };
/// assert!(wrong.at_step(0).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorruptionRule {
    /// The schedule of u(t) and w(t).
    pub schedule: Schedule,
    /// The change to the schedule's mask rate.
    pub transform: RateTransform,
    /// The way in which masks are drawn.
    pub mask_sampler: MaskSampler,
    /// The weight of a masked token's loss.
    pub weighting: Weighting,
    /// The first steps, in which t ~ U(0, u_max(s)) and no weights count (SDC Eq. 10).
    pub warmup: Warmup,
    /// True to keep `transform` and `mask_sampler` during warmup. It is false in the paper's own curves: there each
    /// token is then masked independently at the capped rate, and blocks may stay empty. A clip would hold the rate
    /// at 1/n from the first step.
    pub transform_during_warmup: bool,
    /// The id that hides a token.
    pub mask_id: u32,
}

impl CorruptionRule {
    /// The paper's rule: linear, clipped per block, one mask forced, weight 1/u_blk, no warmup.
    pub fn paper(mask_id: u32) -> Self {
        Self {
            schedule: Schedule::default(),
            transform: RateTransform::BlockClip,
            mask_sampler: MaskSampler::BernoulliForced,
            weighting: Weighting::Paper,
            warmup: Warmup::new(0),
            transform_during_warmup: false,
            mask_id,
        }
    }

    /// The rule as it is at an optimizer step.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn at_step(&self, step: u64) -> Result<StepRule> {
        self.validate()?;
        Ok(StepRule::new(self, step))
    }

    /// Checks that the parts go together.
    ///
    /// # Errors
    /// The weighting doesn't follow from the mask sampler; forced masks would carry a weight without
    /// a finite mean; the band is not one.
    pub fn validate(&self) -> Result<()> {
        let (weighting, mask_sampler) = (self.weighting, self.mask_sampler);
        let (fits, expected) = match mask_sampler {
            MaskSampler::Bernoulli | MaskSampler::BernoulliForced => {
                (weighting != Weighting::ExactCount, "paper, unbiased or none")
            }
            MaskSampler::ExactCount => {
                (weighting != Weighting::Paper, "exact-count, unbiased or none")
            }
            MaskSampler::ComplementaryPairs => {
                (matches!(weighting, Weighting::Unbiased | Weighting::None), "unbiased or none")
            }
        };
        if !fits {
            return Err(Error::Weighting { weighting, mask_sampler, expected });
        }
        let lowest_rate = match self.transform {
            RateTransform::Identity => self.schedule.mask_rate(0.0),
            RateTransform::BlockClip => f64::INFINITY,
            RateTransform::Band { time_min, time_max } => {
                Band::new(self.schedule, time_min, time_max)?.mask_rate(0.0)
            }
        };
        let forced_by_weight =
            mask_sampler == MaskSampler::BernoulliForced && weighting == Weighting::Paper;
        if forced_by_weight && lowest_rate == 0.0 {
            return Err(Error::UnboundedWeight);
        }
        Ok(())
    }
}

impl MaskSampler {
    /// Every variant.
    pub const ALL: [Self; 4] =
        [Self::Bernoulli, Self::BernoulliForced, Self::ExactCount, Self::ComplementaryPairs];

    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bernoulli => "bernoulli",
            Self::BernoulliForced => "bernoulli-forced",
            Self::ExactCount => "exact-count",
            Self::ComplementaryPairs => "complementary-pairs",
        }
    }
}

impl Weighting {
    /// Every variant.
    pub const ALL: [Self; 4] = [Self::Paper, Self::Unbiased, Self::ExactCount, Self::None];

    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Unbiased => "unbiased",
            Self::ExactCount => "exact-count",
            Self::None => "none",
        }
    }
}

impl fmt::Display for RateTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::BlockClip => f.write_str("block-clip"),
            Self::Band { time_min, time_max } => write!(f, "band-{time_min}-{time_max}"),
        }
    }
}

impl fmt::Display for MaskSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Weighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RateTransform {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::UnknownName {
            kind: "rate transform",
            name: name.to_owned(),
            expected: "identity, block-clip, band-MIN-MAX",
        };
        match name {
            "identity" => return Ok(Self::Identity),
            "block-clip" => return Ok(Self::BlockClip),
            _ => {}
        }
        let ends = name.strip_prefix("band-").and_then(|ends| ends.split_once('-'));
        let (min, max) = ends.ok_or_else(unknown)?;
        let number = |text: &str| text.parse::<f64>().map_err(|_| unknown());
        let (time_min, time_max) = (number(min)?, number(max)?);
        Band::new(Schedule::default(), time_min, time_max)?;
        Ok(Self::Band { time_min, time_max })
    }
}

impl FromStr for MaskSampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| Error::UnknownName {
            kind: "mask sampler",
            name: name.to_owned(),
            expected: "bernoulli, bernoulli-forced, exact-count, complementary-pairs",
        })
    }
}

impl FromStr for Weighting {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| Error::UnknownName {
            kind: "weighting",
            name: name.to_owned(),
            expected: "paper, unbiased, exact-count, none",
        })
    }
}
