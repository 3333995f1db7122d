//! Draws the times of all blocks of a batch.
//!
//! Randomness is a closure that returns uniform numbers in [0, 1). Every time drawn lies in (0, 1]:
//! 0, where a weight may be infinite, never comes up.

use core::fmt;
use core::str::FromStr;

use crate::Error;

/// A way to draw the times of one step's blocks. Each time alone is uniform; they differ in how
/// they hang together.
///
/// # Example: eight blocks, one in each eighth of the unit interval
/// ```
/// use lacuna_schedules::TimeSampling;
///
/// let mut state = 1u64; // any source of uniform numbers will do
/// let mut uniform = || {
///     state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
///     (state >> 11) as f64 / (1u64 << 53) as f64
/// };
/// let mut times = [0.0; 8];
/// TimeSampling::PermutedStratified.fill(&mut times, &mut uniform);
/// times.sort_by(f64::total_cmp);
/// assert!(times.iter().enumerate().all(|(i, t)| (t * 8.0).ceil() as usize == i + 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimeSampling {
    /// `independent`: t_i ~ U(0, 1].
    Independent,
    /// `stratified`: t_i ~ U(i/n, (i+1)/n]. Covers all rates in every step, but the time grows with the index:
    /// the first blocks of a batch are always nearly clean. Kept as the baseline it is elsewhere.
    Stratified,
    /// `permuted-stratified`: the same strata in random order, so that time and position are independent.
    #[default]
    PermutedStratified,
}

impl TimeSampling {
    /// Every variant.
    pub const ALL: [Self; 3] = [Self::Independent, Self::Stratified, Self::PermutedStratified];

    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Stratified => "stratified",
            Self::PermutedStratified => "permuted-stratified",
        }
    }

    /// Fills `times` with numbers in (0, 1]. `uniform` returns numbers in [0, 1).
    ///
    /// Strata reach over the whole slice. Hand in the blocks of the *whole* batch, whatever part of
    /// it is computed here, and the times don't depend on how the batch is split.
    pub fn fill(self, times: &mut [f64], uniform: &mut impl FnMut() -> f64) {
        match self {
            Self::Independent => times.fill_with(|| 1.0 - uniform()),
            Self::Stratified => stratify(times, uniform),
            Self::PermutedStratified => {
                stratify(times, uniform);
                shuffle(times, uniform);
            }
        }
    }
}

impl fmt::Display for TimeSampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for TimeSampling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|it| it.name() == name).ok_or(Error::UnknownName)
    }
}

fn stratify(times: &mut [f64], uniform: &mut impl FnMut() -> f64) {
    let strata = times.len() as f64;
    for (i, time) in times.iter_mut().enumerate() {
        *time = ((i as f64 + (1.0 - uniform())) / strata).min(1.0);
    }
}

/// Fisher–Yates.
fn shuffle(times: &mut [f64], uniform: &mut impl FnMut() -> f64) {
    for i in (1..times.len()).rev() {
        let j = (uniform() * (i + 1) as f64) as usize;
        times.swap(i, j.min(i));
    }
}
