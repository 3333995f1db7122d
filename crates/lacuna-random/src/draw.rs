//! Draws numbers, bounded numbers and orders from any source of random words.

use rand_chacha::rand_core::RngCore;

/// One number, uniform in [0, 1), of 53 random bits.
pub fn uniform(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// One number, uniform in [0, 1), of 24 random bits; it takes half as much of the stream as [`uniform`].
pub fn uniform_f32(rng: &mut impl RngCore) -> f32 {
    (rng.next_u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// One number, uniform in `0..bound`, by rejection: each of them exactly as likely as another.
///
/// # Panics
/// If `bound` is 0, since no number is below it.
pub fn below(rng: &mut impl RngCore, bound: u64) -> u64 {
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
pub fn permutation(rng: &mut impl RngCore, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, below(rng, last as u64 + 1) as usize);
    }
    order
}
