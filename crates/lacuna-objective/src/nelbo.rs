//! Lists the passes that make up the likelihood of a row under a block-diffusion model; the caller runs them.
//!
//! Nothing here calls a model. A [`Pass`] says what to show the model and which positions' negative log-likelihoods
//! are wanted; [`BlockSums`] or [`MonteCarlo`] add them up. Every block takes part in every pass at once, because the
//! noise of one block changes no other block's prediction; blocks with fewer eligible tokens have fewer patterns and
//! drop out.
//!
//! ## The exact NELBO of one block of two tokens
//! ```
//! use lacuna_objective::{BlockSums, Row, exact_passes};
//!
//! let row = Row::new(&[7, 8], &[true, true], &[0..2])?;
//! let mut sums = BlockSums::new(row);
//! for pass in exact_passes(row, 5)? {
//!     // Run the model on pass.noisy; here each token costs as many nats as there are masks.
//!     let masks = pass.noisy.iter().filter(|&&id| id == 5).count();
//!     sums.add(&pass, &vec![masks as f32; pass.scored.len()])?;
//! }
//! assert_eq!(sums.total(), 3.0); // either order: 2 nats for the first token, 1 for the second
//! # Ok::<(), lacuna_objective::Error>(())
//! ```

use lacuna_random::{RngCore, uniform};

use crate::corruption::choose_exactly;
use crate::{Error, Result, Row};

/// The most eligible tokens of a block that [`exact_passes`] enumerates: 65535 passes.
pub const EXACT_ELIGIBLE_MAX: usize = 16;

/// One run of the model over a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// The row's tokens, some masked.
    pub noisy: Vec<u32>,
    /// The masked positions whose −log p(clean token) is wanted.
    pub scored: Vec<Scored>,
}

/// A position scored in a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The position in the row.
    pub position: usize,
    /// Index of its block.
    pub block: usize,
    /// The factor of its negative log-likelihood in the sum.
    pub coefficient: f64,
}

/// The passes of the exact block NELBO under the linear schedule.
///
/// ∫ t^m (1 − t)^(n−m) / t dt = 1/(m·C(n, m)), so with c_i(S) = −log p(x_i | all but S),
///
/// NELBO(block) = Σ over non-empty S of 1/(|S|·C(n, |S|)) · Σ_{i ∈ S} c_i(S),
///
/// which is also the mean, over all n! orders, of the block's NLL when its tokens are filled in that
/// order. n is the number of the block's eligible tokens; 2^n − 1 passes for the largest.
///
/// # Errors
/// A block has more than [`EXACT_ELIGIBLE_MAX`] eligible tokens.
pub fn exact_passes(row: Row<'_>, mask_id: u32) -> Result<impl ExactSizeIterator<Item = Pass>> {
    let blocks: Vec<Vec<usize>> = row.eligible_positions().collect();
    for (block, positions) in blocks.iter().enumerate() {
        let (eligible, max) = (positions.len(), EXACT_ELIGIBLE_MAX);
        if eligible > max {
            return Err(Error::TooManyPasses { block, eligible, max });
        }
    }
    let passes = (1u32 << largest(&blocks)) - 1;
    let clean = row.clean();
    Ok((0..passes).map(move |pass| {
        let pattern = pass + 1;
        new_pass(clean, mask_id, &blocks, |positions, scored| {
            if pattern >> positions.len() != 0 {
                return;
            }
            let coefficient = subset_coefficient(positions.len(), pattern.count_ones() as usize);
            let hidden = positions.iter().enumerate().filter(|(bit, _)| pattern >> bit & 1 == 1);
            scored.extend(hidden.map(|(_, &position)| (position, Some(coefficient))));
        })
    }))
}

/// The passes of the in-block left-to-right NLL: the k-th scores each block's k-th eligible token,
/// with that token and all later ones of the block masked. As many passes as the largest block has
/// eligible tokens; compares directly with an autoregressive model's NLL of the same tokens.
pub fn left_to_right_passes(row: Row<'_>, mask_id: u32) -> impl ExactSizeIterator<Item = Pass> {
    let blocks: Vec<Vec<usize>> = row.eligible_positions().collect();
    let passes = largest(&blocks);
    let clean = row.clean();
    (0..passes).map(move |known| {
        new_pass(clean, mask_id, &blocks, |positions, scored| {
            let hidden = positions.iter().skip(known).enumerate();
            scored.extend(hidden.map(|(i, &position)| (position, (i == 0).then_some(1.0))));
        })
    })
}

/// The passes of a Monte-Carlo estimate of the block NELBO, for blocks of any size.
///
/// In each pass every block hides m ~ U{1, …, n} tokens, all sets of that size alike, with coefficient n/m: unbiased,
/// and without any noise from m itself when all tokens cost the same.
pub fn monte_carlo_passes<'a, R: RngCore>(
    row: Row<'a>,
    mask_id: u32,
    samples: usize,
    rng: &'a mut R,
) -> impl ExactSizeIterator<Item = Pass> + use<'a, R> {
    let blocks: Vec<Vec<usize>> = row.eligible_positions().collect();
    let clean = row.clean();
    (0..samples).map(move |_| {
        new_pass(clean, mask_id, &blocks, |positions, scored| {
            let n = positions.len();
            if n == 0 {
                return;
            }
            let masked = ((1.0 - uniform(rng)) * n as f64).ceil() as usize;
            let coefficient = n as f64 / masked as f64;
            let hidden = choose_exactly(positions, masked, rng);
            scored.extend(hidden.into_iter().map(|position| (position, Some(coefficient))));
        })
    })
}

/// Adds up the passes of [`exact_passes`] or [`left_to_right_passes`], in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSums {
    blocks: Vec<f64>,
    eligible: usize,
}

impl BlockSums {
    /// The sums of a row before any pass is added.
    pub fn new(row: Row<'_>) -> Self {
        let eligible = row.eligible_positions().map(|positions| positions.len()).sum();
        Self { blocks: vec![0.0; row.blocks().len()], eligible }
    }

    /// Adds one pass; `nlls` are −log p of the clean token at `pass.scored`, in nats and in that order.
    ///
    /// # Errors
    /// Not one number per scored position.
    pub fn add(&mut self, pass: &Pass, nlls: &[f32]) -> Result<()> {
        check_len(pass, nlls)?;
        for (scored, &nll) in pass.scored.iter().zip(nlls) {
            self.blocks[scored.block] += scored.coefficient * f64::from(nll);
        }
        Ok(())
    }

    /// Nats per block.
    pub fn blocks(&self) -> &[f64] {
        &self.blocks
    }

    /// Nats of the whole row.
    pub fn total(&self) -> f64 {
        self.blocks.iter().sum()
    }

    /// The number of tokens that the sums cover.
    pub fn eligible(&self) -> usize {
        self.eligible
    }
}

/// Averages the passes of [`monte_carlo_passes`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MonteCarlo {
    samples: usize,
    mean: f64,
    squares: f64,
}

/// An estimate with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Nats of the whole row.
    pub nelbo: f64,
    /// The standard error of `nelbo`; infinite for fewer than two samples. Squares of the errors of several rows add.
    pub standard_error: f64,
    /// The number of passes that it was made from.
    pub samples: usize,
}

impl MonteCarlo {
    /// An estimate before any pass is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one pass, as [`BlockSums::add`].
    ///
    /// # Errors
    /// Not one number per scored position.
    pub fn add(&mut self, pass: &Pass, nlls: &[f32]) -> Result<()> {
        check_len(pass, nlls)?;
        let scored = pass.scored.iter().zip(nlls);
        let total: f64 = scored.map(|(scored, &nll)| scored.coefficient * f64::from(nll)).sum();
        // This is Welford's method, in which the sum of squares and the square of the sum do not cancel.
        self.samples += 1;
        let before = total - self.mean;
        self.mean += before / self.samples as f64;
        self.squares += before * (total - self.mean);
        Ok(())
    }

    /// The estimate from the passes so far.
    pub fn estimate(&self) -> Estimate {
        let samples = self.samples as f64;
        let standard_error = if self.samples < 2 {
            f64::INFINITY
        } else {
            (self.squares / (samples - 1.0) / samples).sqrt()
        };
        Estimate { nelbo: self.mean, standard_error, samples: self.samples }
    }
}

/// Builds a pass: `hide` lists a block's masked positions, each with its coefficient if it is scored.
fn new_pass(
    clean: &[u32],
    mask_id: u32,
    blocks: &[Vec<usize>],
    mut hide: impl FnMut(&[usize], &mut Vec<(usize, Option<f64>)>),
) -> Pass {
    let mut pass = Pass { noisy: clean.to_vec(), scored: Vec::new() };
    let mut hidden = Vec::new();
    for (block, positions) in blocks.iter().enumerate() {
        hide(positions, &mut hidden);
        for (position, coefficient) in hidden.drain(..) {
            pass.noisy[position] = mask_id;
            let scored = coefficient.map(|coefficient| Scored { position, block, coefficient });
            pass.scored.extend(scored);
        }
    }
    pass
}

/// The coefficient 1/(m·C(n, m)) of a set of m = `masked` tokens out of n = `eligible`.
fn subset_coefficient(eligible: usize, masked: usize) -> f64 {
    let subsets = (0..masked).fold(1.0, |c, i| c * (eligible - i) as f64 / (i + 1) as f64);
    1.0 / (masked as f64 * subsets)
}

fn largest(blocks: &[Vec<usize>]) -> usize {
    blocks.iter().map(Vec::len).max().unwrap_or(0)
}

fn check_len(pass: &Pass, nlls: &[f32]) -> Result<()> {
    let (found, expected) = (nlls.len(), pass.scored.len());
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length { what: "likelihoods, one per scored position", found, expected })
    }
}
