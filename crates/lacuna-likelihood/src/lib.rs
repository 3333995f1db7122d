//! Computes the likelihood of texts under a model, in nats: next-token, the exact block NELBO, in-block left-to-right
//! and Monte-Carlo, all of the same tokens, so that their figures compare (paper §3, "Likelihood").
//!
//! ```no_run
//! use lacuna_likelihood::{Blocks, Method, Scoring, Text, likelihood};
//! use lacuna_model::{Attention, Transformer, Weights};
//!
//! let model = Transformer::mapped(&Weights::open("runs/tiny/final")?)?;
//! let text = Text { tokens: &[5, 6, 7, 8, 9], eligible: &[true; 5], documents: &[5] };
//! let blocks = Blocks { block_size: 4.try_into()?, mask_id: 3 };
//! let scoring = Scoring {
//!     method: Method::Exact,
//!     blocks: Some(blocks),
//!     attention: Attention::BlockCausal,
//!     document_mask: false,
//!     batch_size: 8,
//! };
//! let score = likelihood(&model, &[text], &scoring, &mut |_| {})?;
//! println!("{} nats per token", score.nats_per_token());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`likelihood()`] scores texts; [`Scoring`] says how, [`Likelihood`] is the sum. [`likelihood_of`] scores one, and can
//!   be told to stop.
//! - [`Strides`] cuts a text that is longer than what a model reads at once into windows, each token scored once.
//! - [`token_scores`] tells the likelihood of each token, where it has one of its own.
//! - [`any_order()`] follows a fill rule over a text: when it fills each token, how sure the model is, and whether it is right;
//!   [`Orders`] sums that up.
//! - [`scored_positions`] flags the tokens that count, for baselines that must count the same.
//!
//! The crate joins a model with the passes of `lacuna-objective` and the fill rules of `lacuna-samplers`, which know no
//! model. It knows no corpus, no tokenizer and no files: the trainer's evaluation and `lacuna score` bring their tokens.

#![forbid(unsafe_code)]

mod any_order;
mod error;
mod likelihood;
mod noisy;
mod orders;
mod strides;
mod tokens;

pub use any_order::{Filled, any_order};
pub use error::{Error, Result};
pub use likelihood::{
    Blocks, Likelihood, Method, Scoring, Text, likelihood, likelihood_of, scored_positions,
};
pub use orders::{Group, Orders, RANKS_MAX, TENTHS};
pub use strides::Strides;
pub use tokens::{TokenScore, token_scores};
