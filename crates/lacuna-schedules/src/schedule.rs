//! Defines the trait of a schedule, and holds every family in use.
//!
//! Each weight is **derived from** its rate: w = −alpha'/(1 − alpha) = u'/u, with u = 1 − alpha.

use core::f64::consts::{FRAC_PI_2, LN_2};
use core::fmt;
use core::str::FromStr;

use crate::Error;
use crate::math::{cos_half_pi, exp_m1, ln, ln_1p, pow, sin_half_pi};

/// The law of training's noise: the share that is masked at a time, and the loss weight that
/// belongs to it.
///
/// `t` lies in [0, 1]: 0 is clean, 1 is fully masked. Both functions are pure; implement the trait
/// for a schedule of your own and everything here works with it.
///
/// # Example: a square root
/// ```
/// use lacuna_schedules::NoiseSchedule;
///
/// struct SquareRoot;
/// impl NoiseSchedule for SquareRoot {
///     fn mask_rate(&self, t: f64) -> f64 { t.sqrt() }
///     fn loss_weight(&self, t: f64) -> f64 { 0.5 / t } // u'/u
/// }
/// assert_eq!(SquareRoot.mask_rate(0.25), 0.5);
/// ```
pub trait NoiseSchedule {
    /// u(t) = 1 − alpha(t): the probability with which a token is masked at time `t`. In [0, 1], never falling.
    fn mask_rate(&self, t: f64) -> f64;

    /// w(t): what the loss of a token masked at time `t` is multiplied with. Infinite where nothing is ever masked.
    fn loss_weight(&self, t: f64) -> f64;
}

impl<S: NoiseSchedule + ?Sized> NoiseSchedule for &S {
    fn mask_rate(&self, t: f64) -> f64 {
        (**self).mask_rate(t)
    }

    fn loss_weight(&self, t: f64) -> f64 {
        (**self).loss_weight(t)
    }
}

/// u(t) = t,  w(t) = 1/t        (SDC Eq. 4). The default everywhere.
///
/// Log-linear in the noise level, hence also known as "log-linear".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Linear;

impl NoiseSchedule for Linear {
    fn mask_rate(&self, t: f64) -> f64 {
        t
    }

    fn loss_weight(&self, t: f64) -> f64 {
        1.0 / t
    }
}

/// u(t) = sin(πt/2),  w(t) = (π/2)·cot(πt/2): most of the time more than half is masked.
///
/// Others call this and [`CosineMaskLight`] both "cosine"; they are different functions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CosineMaskHeavy;

impl NoiseSchedule for CosineMaskHeavy {
    fn mask_rate(&self, t: f64) -> f64 {
        sin_half_pi(t)
    }

    fn loss_weight(&self, t: f64) -> f64 {
        FRAC_PI_2 * cos_half_pi(t) / sin_half_pi(t)
    }
}

/// u(t) = 1 − cos(πt/2),  w(t) = (π/2)·cot(πt/4): most of the time less than half is masked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CosineMaskLight;

impl NoiseSchedule for CosineMaskLight {
    fn mask_rate(&self, t: f64) -> f64 {
        if t >= 0.5 {
            return 1.0 - cos_half_pi(t);
        }
        // 1 − cos x = 2·sin²(x/2) keeps the digits that the difference loses near 0.
        let sin = sin_half_pi(t / 2.0);
        2.0 * sin * sin
    }

    fn loss_weight(&self, t: f64) -> f64 {
        FRAC_PI_2 * cos_half_pi(t / 2.0) / sin_half_pi(t / 2.0)
    }
}

/// u(t) = t^p,  w(t) = p/t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Polynomial {
    exponent: f64,
}

impl Polynomial {
    /// A polynomial schedule with this exponent; 1 is [`Linear`].
    ///
    /// # Errors
    /// The exponent is not a finite number above 0.
    pub fn new(exponent: f64) -> Result<Self, Error> {
        if exponent.is_finite() && exponent > 0.0 {
            Ok(Self { exponent })
        } else {
            Err(Error::Exponent(exponent))
        }
    }

    /// p.
    pub fn exponent(&self) -> f64 {
        self.exponent
    }
}

impl NoiseSchedule for Polynomial {
    fn mask_rate(&self, t: f64) -> f64 {
        pow(t, self.exponent)
    }

    fn loss_weight(&self, t: f64) -> f64 {
        self.exponent / t
    }
}

/// u(t) = log(1 + t)/log 2,  w(t) = 1/((1 + t)·log(1 + t)).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Log;

impl NoiseSchedule for Log {
    fn mask_rate(&self, t: f64) -> f64 {
        ln_1p(t) / LN_2
    }

    fn loss_weight(&self, t: f64) -> f64 {
        1.0 / ((1.0 + t) * ln_1p(t))
    }
}

/// u(t) = 1 − exp(−σ),  σ(t) = σ_min^(1−t)·σ_max^t,  w(t) = σ'/(e^σ − 1).
///
/// The rate runs from 1 − exp(−σ_min) to 1 − exp(−σ_max): close to, but not at, 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometric {
    sigma_min: f64,
    sigma_max: f64,
}

impl Geometric {
    /// A geometric schedule between two noise levels; [`Geometric::default`] has 1e-4 and 20.
    ///
    /// # Errors
    /// The levels are not finite, or not 0 < `sigma_min` < `sigma_max`.
    pub fn new(sigma_min: f64, sigma_max: f64) -> Result<Self, Error> {
        if sigma_max.is_finite() && 0.0 < sigma_min && sigma_min < sigma_max {
            Ok(Self { sigma_min, sigma_max })
        } else {
            Err(Error::Sigma { sigma_min, sigma_max })
        }
    }

    /// σ(t).
    fn sigma(&self, t: f64) -> f64 {
        self.sigma_min * pow(self.sigma_max / self.sigma_min, t)
    }
}

impl Default for Geometric {
    fn default() -> Self {
        Self { sigma_min: 1e-4, sigma_max: 20.0 }
    }
}

impl NoiseSchedule for Geometric {
    fn mask_rate(&self, t: f64) -> f64 {
        -exp_m1(-self.sigma(t))
    }

    fn loss_weight(&self, t: f64) -> f64 {
        let sigma = self.sigma(t);
        sigma * ln(self.sigma_max / self.sigma_min) / exp_m1(sigma)
    }
}

/// Any of the families, by a stable name: what a recipe or a command line holds.
///
/// # Example: names go both ways
/// ```
/// use lacuna_schedules::{NoiseSchedule, Schedule};
///
/// let schedule: Schedule = "polynomial-2".parse()?;
/// assert_eq!(schedule.mask_rate(0.5), 0.25);
/// assert_eq!(schedule.to_string(), "polynomial-2");
/// # Ok::<(), lacuna_schedules::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// `linear`
    Linear(Linear),
    /// `cosine-mask-heavy`
    CosineMaskHeavy(CosineMaskHeavy),
    /// `cosine-mask-light`
    CosineMaskLight(CosineMaskLight),
    /// `polynomial-P`, as in `polynomial-2`
    Polynomial(Polynomial),
    /// `log`
    Log(Log),
    /// `geometric-MIN-MAX`, as in `geometric-0.0001-20`; `geometric` alone means just that one
    Geometric(Geometric),
}

impl Schedule {
    /// The names that [`Schedule::from_str`] takes, for messages and help texts.
    pub const NAMES: [&str; 6] = [
        "linear",
        "cosine-mask-heavy",
        "cosine-mask-light",
        "polynomial-P",
        "log",
        "geometric-MIN-MAX",
    ];
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Linear(Linear)
    }
}

impl NoiseSchedule for Schedule {
    fn mask_rate(&self, t: f64) -> f64 {
        match self {
            Self::Linear(schedule) => schedule.mask_rate(t),
            Self::CosineMaskHeavy(schedule) => schedule.mask_rate(t),
            Self::CosineMaskLight(schedule) => schedule.mask_rate(t),
            Self::Polynomial(schedule) => schedule.mask_rate(t),
            Self::Log(schedule) => schedule.mask_rate(t),
            Self::Geometric(schedule) => schedule.mask_rate(t),
        }
    }

    fn loss_weight(&self, t: f64) -> f64 {
        match self {
            Self::Linear(schedule) => schedule.loss_weight(t),
            Self::CosineMaskHeavy(schedule) => schedule.loss_weight(t),
            Self::CosineMaskLight(schedule) => schedule.loss_weight(t),
            Self::Polynomial(schedule) => schedule.loss_weight(t),
            Self::Log(schedule) => schedule.loss_weight(t),
            Self::Geometric(schedule) => schedule.loss_weight(t),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(_) => f.write_str("linear"),
            Self::CosineMaskHeavy(_) => f.write_str("cosine-mask-heavy"),
            Self::CosineMaskLight(_) => f.write_str("cosine-mask-light"),
            Self::Polynomial(Polynomial { exponent }) => write!(f, "polynomial-{exponent}"),
            Self::Log(_) => f.write_str("log"),
            Self::Geometric(Geometric { sigma_min, sigma_max }) => {
                write!(f, "geometric-{sigma_min}-{sigma_max}")
            }
        }
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let number = |text: &str| text.parse::<f64>().map_err(|_| Error::UnknownName);
        match name {
            "linear" => return Ok(Self::Linear(Linear)),
            "cosine-mask-heavy" => return Ok(Self::CosineMaskHeavy(CosineMaskHeavy)),
            "cosine-mask-light" => return Ok(Self::CosineMaskLight(CosineMaskLight)),
            "log" => return Ok(Self::Log(Log)),
            "geometric" => return Ok(Self::Geometric(Geometric::default())),
            _ => {}
        }
        if let Some(exponent) = name.strip_prefix("polynomial-") {
            return Polynomial::new(number(exponent)?).map(Self::Polynomial);
        }
        let sigmas = name.strip_prefix("geometric-").and_then(|rest| rest.split_once('-'));
        let (sigma_min, sigma_max) = sigmas.ok_or(Error::UnknownName)?;
        Geometric::new(number(sigma_min)?, number(sigma_max)?).map(Self::Geometric)
    }
}
