//! Gives random draws an address: (seed, purpose, position, refinement) and, for tokens, the token
//! id.

use lacuna_random::{ChaCha8Rng, RngCore};
pub(crate) use lacuna_random::{Purpose, uniform};

/// The stream at (seed, purpose, position, refinement).
pub(crate) fn stream(
    seed: u64,
    purpose: Purpose,
    position: usize,
    refinement: usize,
) -> ChaCha8Rng {
    lacuna_random::stream(seed, purpose, position as u64, refinement as u64)
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
