//! Hides tokens of a row block by block, weighs what is hidden, and turns predictions into a loss or a likelihood.
//!
//! ```
//! use lacuna_objective::{CorruptionRule, Row, block_ranges, draw_times};
//! use rand::SeedableRng;
//!
//! let rule = CorruptionRule::paper(5).at_step(0)?; // 5 is the mask
//! let (clean, eligible) = ([11, 12, 13, 14, 15, 16, 17, 18], [true; 8]);
//! let blocks = block_ranges(8, 4.try_into().unwrap());
//!
//! let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let times = draw_times(Default::default(), blocks.len(), &mut rng);
//! let corruption = rule.corrupt_row(Row::new(&clean, &eligible, &blocks)?, &times, &mut rng)?;
//! assert!(blocks.iter().all(|b| corruption.noisy[b.clone()].contains(&5)));
//! # Ok::<(), lacuna_objective::Error>(())
//! ```
//!
//! - A [`CorruptionRule`] says how tokens are hidden: its schedule, [`RateTransform`], [`MaskSampler`], [`Weighting`]
//!   and warmup are one key of a recipe each. A [`StepRule`] is the rule at one step, and does the work.
//! - A [`Row`] is a window's clean tokens, flags for those that are eligible, and its blocks ([`block_ranges`],
//!   [`document_block_ranges`]). Full bidirectional diffusion is one block as long as the window.
//! - A [`Corruption`] has the tokens that the model is shown, and the weight of each position's loss.
//! - [`next_token_targets`], [`masked_targets`] and [`Pass::targets`] say which rows of a pass predict which tokens, and
//!   with which weights ([`PassRows`], [`Target`], [`Targets`]); [`weighted_loss`] makes a loss of them.
//! - [`exact_passes`], [`left_to_right_passes`] and [`monte_carlo_passes`] list the passes that a block's likelihood takes.
//!
//! The crate never calls a model and knows no tokenizer. Randomness is an argument; where it must not depend on the
//! batch split, key the generator by (seed, step, [row](StepRule::noise_of)).

#![forbid(unsafe_code)]

mod corruption;
mod error;
mod loss;
mod nelbo;
mod row;
mod rule;
mod targets;

pub use corruption::{BlockStats, Corruption, NoiseOf, StepRule, draw_times};
pub use error::{Error, Result};
pub use lacuna_checkpoint::Predicts;
pub use loss::weighted_loss;
pub use nelbo::{
    BlockSums, EXACT_ELIGIBLE_MAX, Estimate, MonteCarlo, Pass, Scored, exact_passes,
    left_to_right_passes, monte_carlo_passes,
};
pub use row::{Row, block_ranges, document_block_ranges};
pub use rule::{CorruptionRule, MaskSampler, RateTransform, Weighting};
pub use targets::{
    PassRows, Target, Targets, masked_targets, next_token_targets, predictable, rows_of,
};
