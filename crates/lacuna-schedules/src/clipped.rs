//! Keeps the mask rate away from its ends, in two ways.

use core::num::NonZeroUsize;

use crate::{Error, NoiseSchedule};

/// Clips a schedule's mask rate so that a block of `block_size` tokens expects at least one mask.
///
/// u_blk(t) = min(1, max(u(t), 1/B)),  w(t) = 1 / u_blk(t) ≤ B        (SDC §3.3)
///
/// Clipping bounds the *expected* count; a block can still come out empty (12.7 % at B = 4, see
/// [`BlockMasking`](crate::BlockMasking)). Whoever draws the masks then forces one.
///
/// 1/u_blk is the inverse of the probability that a token is masked, so every time counts alike
/// whatever the inner schedule: the inner schedule decides *which rates are seen how often*. Over
/// [`Linear`](crate::Linear), the paper's case, the weight is the inner one wherever the clip is
/// idle; over another schedule it is not, because that one's w = u'/u weighs its rates back to
/// being uniform.
///
/// # Example: no weight exceeds the block size
/// ```
/// use core::num::NonZeroUsize;
/// use lacuna_schedules::{BlockClipped, Linear, NoiseSchedule};
///
/// let schedule = BlockClipped::new(Linear, NonZeroUsize::new(4).unwrap());
/// assert_eq!(schedule.mask_rate(0.01), 0.25);
/// assert_eq!(schedule.loss_weight(0.01), 4.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockClipped<S> {
    inner: S,
    block_size: NonZeroUsize,
}

impl<S: NoiseSchedule> BlockClipped<S> {
    /// `inner`, for blocks of `block_size` tokens.
    pub fn new(inner: S, block_size: NonZeroUsize) -> Self {
        Self { inner, block_size }
    }
}

impl<S: NoiseSchedule> NoiseSchedule for BlockClipped<S> {
    fn mask_rate(&self, t: f64) -> f64 {
        self.inner.mask_rate(t).max(1.0 / self.block_size.get() as f64).min(1.0)
    }

    fn loss_weight(&self, t: f64) -> f64 {
        1.0 / self.mask_rate(t)
    }
}

/// Uses only the times from β to ω of a schedule: t ~ U(β, ω) in place of U(0, 1).
///
/// u(t) = u_inner(β + (ω − β)·t),  w(t) = w_inner(β + (ω − β)·t)        (BD3-LM's clip)
///
/// # Example: the middle of the linear schedule
/// ```
/// use lacuna_schedules::{Band, Linear, NoiseSchedule};
///
/// let schedule = Band::new(Linear, 0.25, 0.75)?;
/// assert_eq!(schedule.mask_rate(0.0), 0.25);
/// assert_eq!(schedule.loss_weight(0.5), 2.0);
/// # Ok::<(), lacuna_schedules::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band<S> {
    inner: S,
    time_min: f64,
    time_max: f64,
}

impl<S: NoiseSchedule> Band<S> {
    /// The times from `time_min` (β) to `time_max` (ω) of `inner`.
    ///
    /// # Errors
    /// Not 0 ≤ β < ω ≤ 1.
    pub fn new(inner: S, time_min: f64, time_max: f64) -> Result<Self, Error> {
        if 0.0 <= time_min && time_min < time_max && time_max <= 1.0 {
            Ok(Self { inner, time_min, time_max })
        } else {
            Err(Error::Band { time_min, time_max })
        }
    }

    fn time(&self, t: f64) -> f64 {
        (self.time_min + (self.time_max - self.time_min) * t).min(self.time_max)
    }
}

impl<S: NoiseSchedule> NoiseSchedule for Band<S> {
    fn mask_rate(&self, t: f64) -> f64 {
        self.inner.mask_rate(self.time(t))
    }

    fn loss_weight(&self, t: f64) -> f64 {
        self.inner.loss_weight(self.time(t))
    }
}
