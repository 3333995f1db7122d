//! Computes what the ways of masking a block do, exactly: no simulation, no sampling error.
//!
//! All for the linear schedule, t ~ U(0, 1), and a block of B tokens of which m come out masked.
//! Put the number of *eligible* tokens for B where a block holds tokens that are never masked.

use core::num::NonZeroUsize;

use crate::math::{ln, pow};

/// A way to draw the masks of a block, with the law of their number m.
///
/// # Example: one block in eight would come out empty at B = 4
/// ```
/// use core::num::NonZeroUsize;
/// use lacuna_schedules::BlockMasking;
///
/// let four = NonZeroUsize::new(4).unwrap();
/// assert!((BlockMasking::Clipped.empty_probability(four) - 0.1266).abs() < 1e-4);
/// assert_eq!(BlockMasking::ClippedForced.empty_probability(four), 0.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockMasking {
    /// Each token independently with probability u = t.
    Unclipped,
    /// Each token independently with probability u_blk = max(t, 1/B).
    Clipped,
    /// As `Clipped`; where no token came out masked, one uniformly chosen token is (SDC §3.3).
    ClippedForced,
    /// m ~ U{1, …, B}, then a uniformly chosen set of m tokens.
    ExactCount,
}

impl BlockMasking {
    /// P(m = `masked`); 0 for more than B.
    ///
    /// Unclipped: 1/(B + 1). Exact count: 1/B for m ≥ 1. Clipped: with probability 1/B the rate is
    /// the clip's, and beyond it the binomial integrates to a binomial tail,
    ///
    /// P(m) = Bin(m; B, 1/B)/B + P(Bin(B + 1, 1/B) ≤ m)/(B + 1).
    pub fn masked_count_pmf(self, block_size: NonZeroUsize, masked: usize) -> f64 {
        let b = block_size.get();
        if masked > b {
            return 0.0;
        }
        match self {
            Self::Unclipped => 1.0 / (b + 1) as f64,
            Self::Clipped => {
                let at_the_clip = binomial_pmf_of_clip(b, b, masked) / b as f64;
                let tail: f64 = (0..=masked).map(|m| binomial_pmf_of_clip(b, b + 1, m)).sum();
                at_the_clip + tail / (b + 1) as f64
            }
            Self::ClippedForced => match masked {
                0 => 0.0,
                1 => {
                    Self::Clipped.masked_count_pmf(block_size, 0)
                        + Self::Clipped.masked_count_pmf(block_size, 1)
                }
                _ => Self::Clipped.masked_count_pmf(block_size, masked),
            },
            Self::ExactCount if masked == 0 => 0.0,
            Self::ExactCount => 1.0 / b as f64,
        }
    }

    /// P(m = 0): 1/(B + 1) unclipped; q^B/B + q^(B+1)/(B + 1) clipped, with q = 1 − 1/B; else 0.
    pub fn empty_probability(self, block_size: NonZeroUsize) -> f64 {
        self.masked_count_pmf(block_size, 0)
    }
}

/// `E[u_blk]` = ½·(1 + 1/B²).
pub fn mean_clipped_rate(block_size: NonZeroUsize) -> f64 {
    let b = block_size.get() as f64;
    0.5 * (1.0 + 1.0 / (b * b))
}

/// `E[1/u_blk]` = 1 + ln B: the mean weight of the paper's rule.
pub fn mean_inverse_clipped_rate(block_size: NonZeroUsize) -> f64 {
    1.0 + ln(block_size.get() as f64)
}

/// The probability that a given token of the block is masked, when masks are drawn at `rate` and one
/// is forced into an empty block: u + (1 − u)^B / B.
///
/// # Example: at B = 1 the only token is always masked
/// ```
/// use core::num::NonZeroUsize;
/// assert_eq!(lacuna_schedules::forced_mask_probability(0.3, NonZeroUsize::MIN), 1.0);
/// ```
pub fn forced_mask_probability(rate: f64, block_size: NonZeroUsize) -> f64 {
    let b = block_size.get() as f64;
    rate + pow(1.0 - rate, b) / b
}

/// An estimator of a block's mean loss, Σ w·c_i / B over its masked tokens, seen through c ≡ 1.
///
/// With every c_i equal to 1 the true value is 1: [`mean`](Self::mean) − 1 is the bias, and
/// [`variance`](Self::variance) is the noise that comes from *how many* tokens were masked alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Estimator {
    /// Rate u = max(t, `rate_min`), weight 1/u. Without the `rate_min` that everyone puts there the variance is infinite.
    Linear {
        /// ε, the lowest rate; commonly 1e-3.
        rate_min: f64,
    },
    /// Rate u_blk, weight 1/u_blk, empty blocks stay empty.
    Clipped,
    /// Rate u_blk, weight 1/u_blk, a mask forced into empty blocks: the paper's rule, biased upwards.
    ClippedForced,
    /// The same masks with weight 1/(u + (1 − u)^B/B), the inverse of [`forced_mask_probability`] at u = u_blk.
    ClippedForcedUnbiased,
    /// m ~ U{1, …, B} masks with weight B/m.
    ExactCount,
}

impl Estimator {
    /// E[Σ w·m/B]; 1 is unbiased.
    ///
    /// For the paper's rule, the forced token adds E[(1 − u)^B / u] / B with u = u_blk.
    pub fn mean(self, block_size: NonZeroUsize) -> f64 {
        let b = block_size.get() as f64;
        match self {
            Self::ClippedForced => 1.0 + empty_over_rate(block_size) / b,
            _ => 1.0,
        }
    }

    /// Var[Σ w·m/B].
    ///
    /// Masks drawn independently at rate u with weight 1/u have conditional mean 1 and variance
    /// (1/u − 1)/B. The paper's rule adds E[(1 − u)^B/u²]/B² to the second moment. The unbiased weight
    /// leaves an integral without a closed form; it is summed by Simpson's rule to 1e-9.
    pub fn variance(self, block_size: NonZeroUsize) -> f64 {
        let b = block_size.get() as f64;
        match self {
            Self::Linear { rate_min } => -ln(rate_min) / b,
            Self::Clipped => ln(b) / b,
            Self::ClippedForced => {
                let second = 1.0 + ln(b) / b + empty_over_rate_squared(block_size) / (b * b);
                let mean = self.mean(block_size);
                (second - mean * mean).max(0.0)
            }
            Self::ClippedForcedUnbiased => {
                let second = |u: f64| {
                    let moment = b * u * (1.0 - u) + b * b * u * u + pow(1.0 - u, b);
                    let weight = 1.0 / (b * forced_mask_probability(u, block_size));
                    moment * weight * weight
                };
                let clip = 1.0 / b;
                (clip * second(clip) + simpson(second, clip, 1.0) - 1.0).max(0.0)
            }
            Self::ExactCount => 0.0,
        }
    }
}

/// E[(1 − u)^B / u], u = u_blk: q^B at the clip, and beyond it ∫ (1 − u)^B/u du = ln B − Σ_{k ≤ B} q^k/k.
fn empty_over_rate(block_size: NonZeroUsize) -> f64 {
    let b = block_size.get();
    let q = 1.0 - 1.0 / b as f64;
    pow(q, b as f64) + log_remainder(b, b)
}

/// E[(1 − u)^B / u²], u = u_blk: B·q^B at the clip, and beyond it, by parts, B·(q^B − ln B + Σ_{k < B} q^k/k).
fn empty_over_rate_squared(block_size: NonZeroUsize) -> f64 {
    let b = block_size.get();
    let q = 1.0 - 1.0 / b as f64;
    let clipped = b as f64 * pow(q, b as f64);
    clipped + b as f64 * (pow(q, b as f64) - log_remainder(b, b - 1))
}

/// ln B − Σ_{k=1}^{terms} q^k/k with q = 1 − 1/B: what is left of the series of −ln(1 − q).
fn log_remainder(block_size: usize, terms: usize) -> f64 {
    let q = 1.0 - 1.0 / block_size as f64;
    let mut power = 1.0;
    let series: f64 = (1..=terms)
        .map(|k| {
            power *= q;
            power / k as f64
        })
        .sum();
    ln(block_size as f64) - series
}

/// P(Bin(trials, 1/B) = successes).
fn binomial_pmf_of_clip(block_size: usize, trials: usize, successes: usize) -> f64 {
    let b = block_size as f64;
    let chosen: f64 = (0..successes).map(|i| (trials - i) as f64 / ((i + 1) as f64 * b)).product();
    chosen * pow(1.0 - 1.0 / b, (trials - successes) as f64)
}

/// ∫ f over [min, max] by Simpson's rule on 4096 panels.
fn simpson(f: impl Fn(f64) -> f64, min: f64, max: f64) -> f64 {
    const PANELS: u32 = 4096;
    let width = (max - min) / f64::from(PANELS);
    let inner: f64 = (1..PANELS)
        .map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * f(min + width * f64::from(i)))
        .sum();
    (f(min) + inner + f(max)) * width / 3.0
}
