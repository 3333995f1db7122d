//! Times two versions of one thing in turn.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::machine::{kib, proc_value};

const FEWEST: usize = 3;

/// The time to measure for.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) per_benchmark: Duration,
}

/// Seconds of each run, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Timing(Vec<f64>);

impl Timing {
    pub(crate) fn new(mut seconds: Vec<f64>) -> Self {
        assert!(!seconds.is_empty(), "a timing has at least one run");
        seconds.sort_by(f64::total_cmp);
        Self(seconds)
    }

    pub(crate) fn runs(&self) -> usize {
        self.0.len()
    }

    /// The cost of the thing when nothing disturbs it.
    pub(crate) fn best(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            (self.0[middle - 1] + self.0[middle]) / 2.0
        }
    }
}

/// Runs once unmeasured, then until the time is up: three times at least.
pub(crate) fn timing<T>(effort: Effort, mut run: impl FnMut() -> Result<T>) -> Result<Timing> {
    run()?;
    let start = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < FEWEST || start.elapsed() < effort.per_benchmark {
        seconds.push(time(&mut run)?);
    }
    Ok(Timing::new(seconds))
}

/// Two versions, timed in turn.
pub(crate) struct Pair {
    pub(crate) fast: Timing,
    pub(crate) reference: Timing,
    /// Median over the pairs of reference ÷ fast.
    pub(crate) speedup: f64,
}

/// Runs both once unmeasured, then in turn until the time is up: three pairs at least.
pub(crate) fn pairs<T>(
    effort: Effort,
    mut fast: impl FnMut() -> Result<T>,
    mut reference: impl FnMut() -> Result<T>,
) -> Result<Pair> {
    fast()?;
    reference()?;
    let start = Instant::now();
    let (mut fast_seconds, mut reference_seconds) = (Vec::new(), Vec::new());
    while fast_seconds.len() < FEWEST || start.elapsed() < effort.per_benchmark {
        fast_seconds.push(time(&mut fast)?);
        reference_seconds.push(time(&mut reference)?);
    }
    let ratios = reference_seconds.iter().zip(&fast_seconds).map(|(slow, fast)| slow / fast);
    Ok(Pair {
        speedup: Timing::new(ratios.collect()).median(),
        fast: Timing::new(fast_seconds),
        reference: Timing::new(reference_seconds),
    })
}

/// Seconds that one call takes; its result is dropped inside, as a caller would.
pub(crate) fn time<T>(run: &mut impl FnMut() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    std::hint::black_box(run()?);
    Ok(start.elapsed().as_secs_f64())
}

/// The most memory this process has held since [`forget_peak`], where the system tells.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    kib(&proc_value("/proc/self/status", "VmHWM")?)
}

/// Starts the peak anew at what is held now.
pub(crate) fn forget_peak() {
    lacuna_kernels::give_back_freed_memory();
    // If it can't be done, the peak of the whole process stands: a bound from above.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        let timing = Timing::new(vec![4.0, 1.0, 2.0, 10.0]);
        assert_eq!((timing.best(), timing.median(), timing.runs()), (1.0, 3.0, 4));
    }

    #[test]
    fn both_versions_run_in_turn_and_equally_often() {
        let order = std::cell::RefCell::new(String::new());
        let note = |name| {
            order.borrow_mut().push(name);
            Ok(())
        };
        let effort = Effort { per_benchmark: Duration::ZERO };
        let pair = pairs(effort, || note('f'), || note('r')).unwrap();
        assert_eq!(*order.borrow(), "frfrfrfr", "one unmeasured, three measured");
        assert_eq!(pair.fast.runs(), pair.reference.runs());
    }
}
