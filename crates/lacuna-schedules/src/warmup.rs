//! Bounds the first steps of training, in which the mask rate grows from almost nothing.

use crate::{Error, NoiseSchedule};

/// Lets the highest mask rate grow linearly over the first steps, and drops the loss weight meanwhile.
///
/// u_max(s) = u_init + (1 − u_init)·s/S for s < S,  t ~ U(0, u_max(s)),  w = 1        (SDC §3.2, Eq. 10)
///
/// An autoregressive model knows nothing of masks: asked to fill a fully masked block at once, its
/// gradients explode. With the weight dropped, the loss falls, rises with the mask rate, and falls
/// again; at step S the weight returns and the loss jumps.
///
/// # Example: half way, half the rates
/// ```
/// use lacuna_schedules::{Linear, NoiseSchedule, Warmup};
///
/// let warmup = Warmup::new(1000);
/// assert_eq!(warmup.rate_max(0), 0.001);
/// let half_way = warmup.capped(Linear, 500).expect("still warming up");
/// assert_eq!(half_way.mask_rate(1.0), 0.5005);
/// assert_eq!(half_way.loss_weight(0.3), 1.0);
/// assert!(warmup.capped(Linear, 1000).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    steps: u64,
    rate_init: f64,
}

impl Warmup {
    /// u_init in the paper.
    pub const RATE_INIT: f64 = 1e-3;

    /// A warmup over the steps 0 to `steps` − 1, from the paper's first rate. 0 steps: no warmup.
    pub const fn new(steps: u64) -> Self {
        Self { steps, rate_init: Self::RATE_INIT }
    }

    /// The same with another u_init.
    ///
    /// # Errors
    /// The rate is not in (0, 1].
    pub fn with_rate_init(self, rate_init: f64) -> Result<Self, Error> {
        if rate_init > 0.0 && rate_init <= 1.0 {
            Ok(Self { rate_init, ..self })
        } else {
            Err(Error::RateInit(rate_init))
        }
    }

    /// S: the first step after the warmup.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// u_max(s), and 1 from step S on.
    pub fn rate_max(&self, step: u64) -> f64 {
        if step >= self.steps {
            return 1.0;
        }
        self.rate_init + (1.0 - self.rate_init) * (step as f64 / self.steps as f64)
    }

    /// `inner` as it is used at `step`, or `None` when the warmup is over and `inner` is used as it is.
    pub fn capped<S: NoiseSchedule>(&self, inner: S, step: u64) -> Option<Capped<S>> {
        (step < self.steps).then(|| Capped { inner, time_max: self.rate_max(step) })
    }
}

/// A schedule during warmup: u(t) = u_inner(u_max·t),  w = 1. Made by [`Warmup::capped`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capped<S> {
    inner: S,
    time_max: f64,
}

impl<S: NoiseSchedule> NoiseSchedule for Capped<S> {
    fn mask_rate(&self, t: f64) -> f64 {
        self.inner.mask_rate(self.time_max * t)
    }

    fn loss_weight(&self, _t: f64) -> f64 {
        1.0
    }
}
