//! Mixes several sources in fixed shares, so that any sample of the mixture is found by its number alone.

use crate::error::{Error, Result};
use lacuna_random::{Places, Purpose, stream};

/// The longest cycle of shares. Weights that no shorter one says exactly are rounded to parts of [`ROUNDED`].
const LONGEST: u64 = 1 << 20;
const ROUNDED: u64 = 1 << 16;

/// The order in which samples are taken from sources, by weight.
///
/// It is a cycle. After any number n of samples, source k has given ⌊n·w⌋ or ⌈n·w⌉ of them, w its share of all
/// weights: never a sample more or less, not only at the end of a cycle (the quota method of Balinski and Young, by
/// which seats of a parliament are handed out). Which source sample n is of, and how many of that source stand before
/// it, follows from n.
///
/// ```
/// use lacuna_data::mixture::Shares;
/// let shares = Shares::new(&[0.7, 0.3])?;
/// let sources: Vec<usize> = (0..10).map(|sample| shares.at(sample).0).collect();
/// assert_eq!(sources.iter().filter(|source| **source == 1).count(), 3);
/// assert_eq!(shares.at(1_000_000_000_000).0, sources[0]);
/// # Ok::<(), lacuna_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// The source of each sample of a cycle.
    cycle: Vec<u16>,
    /// Of each source: its places in the cycle, ascending.
    places: Vec<Vec<u32>>,
}

impl Shares {
    /// Shares in proportion to weights. Weights of up to six decimals whose common cycle is not longer than 2²⁰ samples
    /// hold exactly; others are rounded to parts of 2¹⁶.
    ///
    /// # Errors
    /// When there is no weight, one is not above 0, or there are more than 2¹⁶ sources.
    pub fn new(weights: &[f64]) -> Result<Self> {
        let fault = |reason: String| Err(Error::Packing(reason));
        if weights.is_empty() || weights.len() > usize::from(u16::MAX) {
            return fault(format!("a mixture of {} sources, expected 1 to 65535", weights.len()));
        }
        if let Some(at) = weights.iter().position(|weight| !(weight.is_finite() && *weight > 0.0)) {
            return fault(format!(
                "the weight of source {at} is {}, expected a number above 0",
                weights[at]
            ));
        }
        let parts = exact(weights).unwrap_or_else(|| rounded(weights));
        let length: u64 = parts.iter().sum();
        let mut cycle = Vec::with_capacity(length as usize);
        let mut places: Vec<Vec<u32>> = parts.iter().map(|_| vec![]).collect();
        for sample in 0..length {
            let given = |source: usize| places[source].len() as u64;
            // Those whose share of the samples so far, this one included, is above what they gave; of them the one
            // that would be given the least beyond its weight.
            let due = |source: &usize| given(*source) * length < (sample + 1) * parts[*source];
            let ahead = |a: &usize, b: &usize| {
                let (left, right) = (parts[*a] * (given(*b) + 1), parts[*b] * (given(*a) + 1));
                left.cmp(&right).then(b.cmp(a))
            };
            let next = (0..parts.len()).filter(due).max_by(ahead);
            let next = next.expect("the shares sum to 1, so one source is due");
            places[next].push(sample as u32);
            cycle.push(next as u16);
        }
        Ok(Self { cycle, places })
    }

    /// The source of a sample, and the number of samples of that source before it.
    pub fn at(&self, sample: u64) -> (usize, u64) {
        let length = self.cycle.len() as u64;
        let source = usize::from(self.cycle[(sample % length) as usize]);
        (source, self.count(source, sample))
    }

    /// The number of samples that a source gives among the first `samples`.
    ///
    /// # Panics
    /// If there is no such source.
    pub fn count(&self, source: usize, samples: u64) -> u64 {
        let length = self.cycle.len() as u64;
        let places = &self.places[source];
        let begun = places.partition_point(|&place| u64::from(place) < samples % length);
        samples / length * places.len() as u64 + begun as u64
    }

    /// The part of all samples that a source gives.
    ///
    /// # Panics
    /// If there is no such source.
    pub fn share(&self, source: usize) -> f64 {
        self.places[source].len() as f64 / self.cycle.len() as f64
    }

    /// The number of sources.
    pub fn sources(&self) -> usize {
        self.places.len()
    }
}

/// Whole numbers in the proportion of the weights, if small ones say it exactly.
fn exact(weights: &[f64]) -> Option<Vec<u64>> {
    let scaled = |decimals: i32| -> Option<Vec<u64>> {
        let whole = |weight: &f64| {
            let scaled = weight * 10f64.powi(decimals);
            let round = scaled.round();
            let near = (scaled - round).abs() <= 1e-9 * scaled.max(1.0);
            (near && (1.0..1e15).contains(&round)).then_some(round as u64)
        };
        weights.iter().map(whole).collect()
    };
    let mut parts = (0..=6).find_map(scaled)?;
    let divisor = parts.iter().fold(0, |a, b| greatest_divisor(a, *b));
    parts.iter_mut().for_each(|part| *part /= divisor);
    (parts.iter().sum::<u64>() <= LONGEST).then_some(parts)
}

fn greatest_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// Parts of [`ROUNDED`], at least one each.
fn rounded(weights: &[f64]) -> Vec<u64> {
    let most = weights.iter().fold(0.0f64, |a, b| a.max(*b));
    // Divided first: a sum of the largest numbers has no end.
    let total: f64 = weights.iter().map(|weight| weight / most).sum();
    let part = |weight: &f64| ((weight / most / total * ROUNDED as f64).round() as u64).max(1);
    weights.iter().map(part).collect()
}

/// Sources of windows, dealt out in shares; each source in epochs of its own, every window once an epoch, each epoch in
/// a new order.
///
/// Where sample n comes from is a pure function of seed and n: nothing is counted on the way.
#[derive(Debug, Clone)]
pub struct Mixture {
    shares: Shares,
    /// The number of windows of each source.
    windows: Vec<u64>,
}

impl Mixture {
    /// A mixture of sources of so many windows, with their weights.
    ///
    /// # Errors
    /// When a source has no window, and as [`Shares::new`].
    pub fn new(sources: &[(u64, f64)]) -> Result<Self> {
        if let Some(empty) = sources.iter().position(|(windows, _)| *windows == 0) {
            return Err(Error::Packing(format!(
                "source {empty} of the mixture does not fill one window; add text to it or leave it out"
            )));
        }
        let weights: Vec<f64> = sources.iter().map(|(_, weight)| *weight).collect();
        let windows = sources.iter().map(|(windows, _)| *windows).collect();
        Ok(Self { shares: Shares::new(&weights)?, windows })
    }

    /// The source of a sample, and the window of that source.
    pub fn at(&self, seed: u64, sample: u64) -> (usize, u64) {
        let (source, position) = self.shares.at(sample);
        let windows = self.windows[source];
        let mut rng = stream(seed, Purpose::SourceShuffle, position / windows, source as u64);
        (source, Places::new(&mut rng, windows).at(position % windows))
    }

    /// The shares of the sources.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The number of times that a source's windows have been seen after so many samples.
    ///
    /// # Panics
    /// If there is no such source.
    pub fn epochs(&self, source: usize, samples: u64) -> f64 {
        self.shares.count(source, samples) as f64 / self.windows[source] as f64
    }
}
