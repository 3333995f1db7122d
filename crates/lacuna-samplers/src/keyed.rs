//! Counter-based randomness: every draw has an address, no draw has a history.

use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What a draw is for; the second word of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// Which token stands at a position.
    Token = 0x746f_6b65_6e00_0001,
    /// Which position is filled next.
    Order = 0x6f72_6465_7200_0002,
}

/// The stream at (seed, purpose, position, refinement): ChaCha8 under these four little-endian words.
pub(crate) fn stream(
    seed: u64,
    purpose: Purpose,
    position: usize,
    refinement: usize,
) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in
        key.chunks_exact_mut(8).zip([seed, purpose as u64, position as u64, refinement as u64])
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// One uniform number in [0, 1), 53 bits.
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Words of a stream addressed by token id, read in chunks of [`Words::CHUNK`].
///
/// A token's word depends on its id alone, so leaving tokens out changes no other token's draw.
pub(crate) struct Words {
    rng: ChaCha8Rng,
    chunk: Option<usize>,
    words: [u32; Self::CHUNK],
}

impl Words {
    /// Tokens per chunk: sixteen ChaCha blocks, which fit in the first-level cache with their logits.
    pub(crate) const CHUNK: usize = 256;

    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Self { rng, chunk: None, words: [0; Self::CHUNK] }
    }

    /// The words of tokens `index · CHUNK ..`; cheapest in ascending order.
    pub(crate) fn chunk(&mut self, index: usize) -> &[u32; Self::CHUNK] {
        if self.chunk != Some(index) {
            let expected = (index * Self::CHUNK) as u128;
            if self.rng.get_word_pos() != expected {
                self.rng.set_word_pos(expected);
            }
            let mut bytes = [0u8; 4 * Self::CHUNK];
            self.rng.fill_bytes(&mut bytes);
            for (word, bytes) in self.words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*bytes);
            }
            self.chunk = Some(index);
        }
        &self.words
    }

    /// The word of one token.
    pub(crate) fn word(&mut self, token: usize) -> u32 {
        self.chunk(token / Self::CHUNK)[token % Self::CHUNK]
    }
}

/// ln(−ln u) for u = 1 − (word + ½)/2³²: minus a Gumbel draw, in f64.
pub(crate) fn ln_exponential(word: u32) -> f64 {
    let v = (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0);
    (-(-v).ln_1p()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_changes_the_stream() {
        let first = |s, p, a, b| stream(s, p, a, b).next_u64();
        let base = first(1, Purpose::Token, 2, 3);
        assert_eq!(base, first(1, Purpose::Token, 2, 3));
        for other in [
            first(2, Purpose::Token, 2, 3),
            first(1, Purpose::Order, 2, 3),
            first(1, Purpose::Token, 3, 3),
            first(1, Purpose::Token, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_word_is_the_same_in_any_order_of_reading() {
        let mut plain = stream(7, Purpose::Token, 0, 0);
        let sequential: Vec<u32> = (0..1000).map(|_| plain.next_u32()).collect();
        let mut words = Words::new(stream(7, Purpose::Token, 0, 0));
        for token in [999, 0, 256, 255, 511, 512, 3, 998] {
            assert_eq!(words.word(token), sequential[token]);
        }
    }

    #[test]
    fn gumbel_draws_are_finite_at_both_ends() {
        assert!(ln_exponential(0) > -24.0 && ln_exponential(u32::MAX) < 4.0);
        assert!(ln_exponential(0) < ln_exponential(1));
    }
}
