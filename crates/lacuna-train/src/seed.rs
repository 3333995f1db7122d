//! Counter-based streams: the noise of a row depends on (seed, purpose, step, row) and on nothing else.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is drawn for. Streams of different purposes never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The times of a step's blocks (row 0: drawn for the whole global batch at once).
    Times = 2,
    /// The masks of a row.
    Masks = 3,
    /// Monte-Carlo likelihood.
    Likelihood = 4,
    /// The mask embedding's first values when an AR checkpoint is converted.
    MaskEmbedding = 6,
}

/// The stream of `row` at `step`: ChaCha8 whose 256-bit key is (seed, purpose, step, row), so no two streams
/// share a key, whatever the batch split, the number of ranks or threads, and however often a run resumes.
pub fn stream(seed: u64, purpose: Purpose, step: u64, row: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, step, row]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn a_stream_is_a_function_of_its_key_and_every_part_matters() {
        let first = |s, p, t, r| stream(s, p, t, r).next_u64();
        let a = first(1, Purpose::Masks, 2, 3);
        assert_eq!(a, first(1, Purpose::Masks, 2, 3));
        for other in [
            first(2, Purpose::Masks, 2, 3),
            first(1, Purpose::Times, 2, 3),
            first(1, Purpose::Masks, 3, 3),
            first(1, Purpose::Masks, 2, 4),
            first(1, Purpose::Masks, 3, 2),
        ] {
            assert_ne!(a, other);
        }
    }
}
