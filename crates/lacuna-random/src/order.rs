//! Finds single places of a random order that is too long to be listed.

use rand_chacha::rand_core::RngCore;

/// A random order of the numbers `0..len`, asked place by place: any place costs the same few operations, and nothing is
/// kept but six keys.
///
/// It is a Feistel network over the smallest square of a power of two that holds `len`, walked until it comes to a
/// number below `len`: less than four rounds of it on the average.
///
/// ```
/// use lacuna_random::{IndexedOrder, Purpose, stream};
/// let order = IndexedOrder::new(&mut stream(7, Purpose::Shuffle, 0, 0), 5);
/// let mut all: Vec<u64> = (0..5).map(|place| order.at(place)).collect();
/// all.sort();
/// assert_eq!(all, [0, 1, 2, 3, 4]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct IndexedOrder {
    keys: [u64; 6],
    len: u64,
    /// Bits of one half.
    half: u32,
}

impl IndexedOrder {
    /// The order of `0..len` that the next six words of `rng` name.
    pub fn new(rng: &mut impl RngCore, len: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { keys: std::array::from_fn(|_| rng.next_u64()), len, half: bits.div_ceil(2).max(1) }
    }

    /// The number at a place.
    ///
    /// # Panics
    /// If the order has no such place.
    pub fn at(&self, place: u64) -> u64 {
        assert!(place < self.len, "place {place} of {}", self.len);
        let mut number = self.round_trip(place);
        // The network is a bijection, so the walk comes back to a number below `len` before it can repeat.
        while number >= self.len {
            number = self.round_trip(number);
        }
        number
    }

    fn round_trip(&self, number: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (number >> self.half, number & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mixed(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// The finalizer of SplitMix64.
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
