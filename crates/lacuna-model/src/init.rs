//! Draws seeded normal numbers for fresh weights, because candle's CPU generator can't be seeded.

use lacuna_random::{Purpose, stream, uniform};
use rayon::prelude::*;

/// Values that one thread draws at a time.
const VALUES_OF_A_TASK: usize = 1 << 16;
const _: () = assert!(VALUES_OF_A_TASK.is_multiple_of(2), "values are drawn in pairs");
/// Words of the stream that a pair of values takes: two numbers of 64 bits.
const WORDS_OF_A_PAIR: u128 = 4;

/// `n` draws from N(0, std²), by Box-Muller, from the stream at (seed, [`Purpose::Weights`], tensor). Threads share them:
/// each chunk begins at its own place of the stream.
pub(crate) fn normal(seed: u64, tensor: u64, n: usize, std: f64) -> Vec<f32> {
    let mut values = vec![0.0; n];
    values.par_chunks_mut(VALUES_OF_A_TASK).enumerate().for_each(|(i, chunk)| {
        let mut rng = stream(seed, Purpose::Weights, tensor, 0);
        rng.set_word_pos((i * VALUES_OF_A_TASK / 2) as u128 * WORDS_OF_A_PAIR);
        for pair in chunk.chunks_mut(2) {
            // 1 − u lies in (0, 1], so the logarithm is finite.
            let radius = (-2.0 * (1.0 - uniform(&mut rng)).ln()).sqrt() * std;
            let angle = std::f64::consts::TAU * uniform(&mut rng);
            for (value, part) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
                *value = (radius * part) as f32;
            }
        }
    });
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
        // The second chunk goes on in the stream where the first one ends.
        let mut rng = stream(7, Purpose::Weights, 3, 0);
        for pair in a.chunks(2) {
            let radius = (-2.0 * (1.0 - uniform(&mut rng)).ln()).sqrt() * 0.02;
            let angle = std::f64::consts::TAU * uniform(&mut rng);
            assert_eq!(pair[0], (radius * angle.cos()) as f32);
        }
        assert_ne!(a[0], normal(7, 4, 1, 0.02)[0]);
        assert_ne!(a[0], normal(8, 3, 1, 0.02)[0]);
    }
}
