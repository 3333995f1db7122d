//! Says why a schedule was refused.

use core::fmt;

/// A schedule, band or warmup that makes no sense, or a name that no schedule has.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// No schedule or way of drawing times has this name.
    UnknownName,
    /// The exponent of a polynomial schedule.
    Exponent(f64),
    /// The noise levels of a geometric schedule.
    Sigma {
        /// σ at t = 0.
        sigma_min: f64,
        /// σ at t = 1.
        sigma_max: f64,
    },
    /// The ends of a band.
    Band {
        /// β.
        time_min: f64,
        /// ω.
        time_max: f64,
    },
    /// The first mask rate of a warmup.
    RateInit(f64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName => f.write_str(
                "unknown name: schedules are linear, cosine-mask-heavy, cosine-mask-light, polynomial-P, log and \
                 geometric-MIN-MAX; times are independent, stratified and permuted-stratified",
            ),
            Self::Exponent(p) => {
                write!(f, "polynomial schedule: exponent is {p}, expected a finite number above 0")
            }
            Self::Sigma { sigma_min, sigma_max } => write!(
                f,
                "geometric schedule: sigma runs from {sigma_min} to {sigma_max}, expected 0 < min < max"
            ),
            Self::Band { time_min, time_max } => {
                write!(f, "band: [{time_min}, {time_max}], expected 0 <= min < max <= 1")
            }
            Self::RateInit(rate) => {
                write!(f, "warmup: first mask rate is {rate}, expected a number in (0, 1]")
            }
        }
    }
}

impl core::error::Error for Error {}
