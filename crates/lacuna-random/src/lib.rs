//! Gives random numbers that have an address and no history: whoever names a stream gets its bytes,
//! in any order, on any thread, before and after a resume.
//!
//! ```
//! use lacuna_random::{Purpose, below, permutation, stream, uniform};
//!
//! let (seed, step, row) = (7, 100, 3);
//! let mut masks = stream(seed, Purpose::Masks, step, row);
//! let rate = uniform(&mut masks); // in [0, 1)
//! assert_eq!(rate, uniform(&mut stream(seed, Purpose::Masks, step, row)));
//!
//! let mut order = stream(seed, Purpose::Shuffle, /* epoch */ 0, 0);
//! assert_eq!(permutation(&mut order, 10).len(), 10);
//! assert!(below(&mut order, 4) < 4);
//! ```
//!
//! - [`stream`] is ChaCha8 under a key of four numbers: the seed, the purpose, and two counters that the purpose gives
//!   a meaning to.
//! - [`Purpose`] is the one list of all that numbers are drawn for. Two purposes never share a stream, so a number
//!   added to one of them changes no other.
//! - [`uniform`], [`uniform_f32`], [`below`] and [`permutation`] draw from a stream, or from any other [`RngCore`].
//!   They are written out here, so that an update of a library can't change a run.
//! - [`Places`] is an order of numbers of which any place is computed by itself, however many there are.
//!
//! There is no generator that seeds itself, and there are no distributions: fresh weights make their normal numbers in
//! the model, and the samplers read the words of a stream by token.

#![forbid(unsafe_code)]

mod draw;
mod purpose;

pub use draw::{Places, below, permutation, uniform, uniform_f32};
pub use purpose::Purpose;
pub use rand_chacha::ChaCha8Rng;
pub use rand_chacha::rand_core::RngCore;

use rand_chacha::rand_core::SeedableRng;

/// Opens the stream at (seed, purpose, major, minor): ChaCha8 whose 256-bit key is these four numbers as
/// little-endian words.
///
/// Different addresses are different keys, so no two streams overlap, whatever the batch split, the number of ranks
/// or threads, and however often a run resumes. Each [`Purpose`] says what its two counters count.
pub fn stream(seed: u64, purpose: Purpose, major: u64, minor: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, major, minor]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
