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

/// The numbers `0..len` in a pseudo-random order that is never written down: [`at`](Self::at) computes any place of it
/// by itself, in the same time and memory for ten numbers and for 10¹².
///
/// A Feistel network of six rounds permutes the smallest square of a power of two that holds `len`; numbers that come
/// out above `len` are put in again until one comes out below it, which takes fewer than four rounds in the mean.
///
/// ```
/// use lacuna_random::{Places, Purpose, stream};
/// let places = Places::new(&mut stream(7, Purpose::SourceShuffle, /* epoch */ 0, /* source */ 2), 10);
/// let mut all: Vec<u64> = (0..10).map(|index| places.at(index)).collect();
/// all.sort_unstable();
/// assert_eq!(all, (0..10).collect::<Vec<_>>());
/// ```
#[derive(Clone, Debug)]
pub struct Places {
    len: u64,
    half_bits: u32,
    keys: [u64; 6],
}

impl Places {
    /// The order of `0..len` that the next six words of `rng` say.
    pub fn new(rng: &mut impl RngCore, len: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), keys: [(); 6].map(|()| rng.next_u64()) }
    }

    /// The number that stands at place `index`.
    ///
    /// # Panics
    /// If there are not that many places.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "place {index} of {}", self.len);
        let mut number = self.permuted(index);
        // The orbit of `index` leads back to it, which is below `len`: so this ends.
        while number >= self.len {
            number = self.permuted(number);
        }
        number
    }

    fn permuted(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mixed(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of the word.
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
