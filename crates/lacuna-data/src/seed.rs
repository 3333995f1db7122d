//! Counter-based randomness: a stream is named, never stored.

use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The order of windows within an epoch; counters: epoch, 0.
pub(crate) const SHUFFLE: u64 = u64::from_le_bytes(*b"shuffle\0");
/// How many end tokens follow a conversation; counters: sample, 0.
pub(crate) const SAMPLE_END: u64 = u64::from_le_bytes(*b"eoscount");

/// The stream of ChaCha8 whose key is the four numbers, little-endian.
pub(crate) fn stream(seed: u64, purpose: u64, major: u64, minor: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, number) in key.chunks_exact_mut(8).zip([seed, purpose, major, minor]) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in `0..bound`, by rejection: our own, so that no library update changes it.
pub(crate) fn below(rng: &mut impl RngCore, bound: u64) -> u64 {
    debug_assert!(bound > 0);
    // The largest multiple of `bound` that fits: numbers from there on would favour the low ones.
    let fair = u64::MAX - u64::MAX % bound;
    loop {
        let number = rng.next_u64();
        if number < fair {
            return number % bound;
        }
    }
}

/// The numbers `0..len` in a uniformly random order (Fisher and Yates).
pub(crate) fn permutation(rng: &mut impl RngCore, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, below(rng, last as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::{below, permutation, stream};

    #[test]
    fn every_order_of_three_comes_equally_often() {
        let mut counts = std::collections::BTreeMap::new();
        for trial in 0..6000 {
            *counts.entry(permutation(&mut stream(1, 2, trial, 0), 3)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Each count is binomial with mean 1000 and deviation 29; 5 deviations.
        assert!(counts.values().all(|count| count.abs_diff(1000) < 145), "{counts:?}");
    }

    #[test]
    fn the_stream_of_a_key_never_changes() {
        let mut rng = stream(7, super::SHUFFLE, 3, 0);
        assert_eq!([0; 4].map(|_| below(&mut rng, 1000)), [142, 96, 410, 648]);
    }
}
