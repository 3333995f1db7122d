//! Draws seeded normal numbers for fresh weights, because candle's CPU generator can't be seeded.

use lacuna_random::{Purpose, stream, uniform};

/// `n` draws from N(0, std²), by Box-Muller, from the stream at (seed, [`Purpose::Weights`], tensor).
pub(crate) fn normal(seed: u64, tensor: u64, n: usize, std: f64) -> Vec<f32> {
    let mut rng = stream(seed, Purpose::Weights, tensor, 0);
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        // 1 − u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - uniform(&mut rng)).ln()).sqrt() * std;
        let angle = std::f64::consts::TAU * uniform(&mut rng);
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(n);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_stated_spread_and_depend_on_seed_and_tensor_alone() {
        let a = normal(7, 3, 100_001, 0.02);
        let mean = a.iter().map(|v| f64::from(*v)).sum::<f64>() / a.len() as f64;
        let var = a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / a.len() as f64;
        // Four standard errors of a mean and of a variance over 1e5 draws.
        assert!(mean.abs() < 4.0 * 0.02 / 316.0, "mean {mean}");
        assert!((var / 4e-4 - 1.0).abs() < 4.0 * (2.0f64 / 1e5).sqrt(), "variance {var}");
        assert_eq!(a, normal(7, 3, 100_001, 0.02));
        assert_ne!(a[0], normal(7, 4, 1, 0.02)[0]);
        assert_ne!(a[0], normal(8, 3, 1, 0.02)[0]);
    }
}
