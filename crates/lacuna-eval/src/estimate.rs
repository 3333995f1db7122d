//! Estimates pass@k, the chance that one of k samples passes, and how far another set of tasks might move it.

use lacuna_random::{Purpose, below, stream};

/// Draws of tasks for an interval.
const DRAWS: usize = 2000;

/// An estimate with the interval that 95 % of draws of as many tasks fall into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean over the tasks.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The chance that at least one of `k` samples passes, of which `n` were drawn and `c` passed, without bias:
///
/// pass@k = 1 − ∏ (1 − k / i),  i from n − c + 1 to n;  1 if n − c < k        (Chen et al. 2021, equation 1)
///
/// ```
/// assert!((lacuna_eval::pass_at_k(5, 2, 1) - 0.4).abs() < 1e-12);
/// assert!((lacuna_eval::pass_at_k(5, 2, 2) - 0.7).abs() < 1e-12); // 1 − 3/5 · 2/4
/// assert_eq!(lacuna_eval::pass_at_k(5, 2, 4), 1.0);
/// ```
///
/// # Panics
/// If more passed than were drawn, or fewer than `k` were drawn: there is no estimate without bias then.
#[must_use]
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    assert!(c <= n && k <= n, "{c} of {n} samples, at {k}");
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// pass@k over tasks, each with its samples drawn and passed. Nothing if a task has fewer than `k` samples, or there is
/// no task.
#[must_use]
pub fn estimate(tasks: &[(usize, usize)], k: usize, seed: u64) -> Option<Estimate> {
    if k == 0 || tasks.is_empty() || tasks.iter().any(|(n, _)| *n < k) {
        return None;
    }
    let each: Vec<f64> = tasks.iter().map(|(n, c)| pass_at_k(*n, *c, k)).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / each.len() as f64;
    let mut rng = stream(seed, Purpose::Resampling, k as u64, 0);
    let mut draw = || {
        let drawn: Vec<f64> =
            each.iter().map(|_| each[below(&mut rng, each.len() as u64) as usize]).collect();
        mean(&mut drawn.into_iter())
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let at = |part: f64| means[(part * (DRAWS - 1) as f64).round() as usize];
    Some(Estimate { mean: mean(&mut each.iter().copied()), low: at(0.025), high: at(0.975) })
}

/// The numbers of samples that pass@k is told for: 1, 10 and 100 as everywhere, as far as there are samples.
#[must_use]
pub fn usual_ks(samples: usize) -> Vec<usize> {
    let mut ks: Vec<usize> = [1, 10, 100].into_iter().filter(|k| *k <= samples).collect();
    if samples > 1 && !ks.contains(&samples) {
        ks.push(samples);
        ks.sort_unstable();
    }
    ks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of ways to choose k of n.
    fn choose(n: usize, k: usize) -> f64 {
        (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
    }

    #[test]
    fn it_is_the_share_of_choices_with_one_that_passes() {
        for n in 1..=30 {
            for c in 0..=n {
                for k in 1..=n {
                    let without = if k > n - c { 0.0 } else { choose(n - c, k) };
                    let exact = 1.0 - without / choose(n, k);
                    assert!((pass_at_k(n, c, k) - exact).abs() < 1e-9, "{n} {c} {k}");
                }
            }
        }
    }

    #[test]
    fn an_interval_holds_its_mean_and_shrinks_with_more_tasks() {
        let tasks = |times: usize| [(4, 1), (4, 3), (4, 0), (4, 4)].repeat(times);
        let few = estimate(&tasks(5), 1, 0).unwrap();
        let many = estimate(&tasks(50), 1, 0).unwrap();
        assert_eq!(few.mean, 0.5);
        assert!(few.low < 0.5 && 0.5 < few.high);
        assert!(many.high - many.low < few.high - few.low);
        assert_eq!(estimate(&tasks(5), 1, 0), Some(few), "the same each time");
        assert_eq!(estimate(&tasks(1), 5, 0), None, "no estimate from fewer samples");
        assert_eq!(estimate(&[], 1, 0), None);
        let sure = estimate(&[(1, 1); 9], 1, 0).unwrap();
        assert_eq!((sure.low, sure.high), (1.0, 1.0));
    }

    #[test]
    fn the_usual_numbers_are_told() {
        assert_eq!(usual_ks(1), [1]);
        assert_eq!(usual_ks(5), [1, 5]);
        assert_eq!(usual_ks(10), [1, 10]);
        assert_eq!(usual_ks(200), [1, 10, 100, 200]);
    }
}
