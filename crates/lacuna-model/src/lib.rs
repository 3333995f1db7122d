//! Runs and trains a Llama-shaped transformer under causal, full and block-diffusion masks, with a KV cache that can
//! be cropped.
//!
//! ```
//! use candle_core::{DType, Device};
//! use lacuna_model::{Batch, Config, Sequence, Transformer};
//!
//! let model = Transformer::init(Config::default(), 0, DType::F32, &Device::Cpu)?;
//! let (clean, noisy) = ([7, 8, 9, 10], [7, 5, 9, 5]); // 5 is MASK
//! let window = Sequence { tokens: &noisy, wanted: Some(&[1, 3]), ..Sequence::default() };
//! let mut batch = Batch::default();
//! batch.push_noisy_and_clean(window, &clean, 2.try_into().expect("not zero"))?;
//! let hidden = model.forward(&batch)?;
//! assert_eq!(model.logits(&hidden)?.dims(), [2, 512]);
//! # Ok::<(), lacuna_model::Error>(())
//! ```
//!
//! - [`Batch`] holds what a pass reads. Training windows, their noisy and clean halves, prompts and the blocks that are
//!   decoded are all pushed to one, as [`Sequence`]s.
//! - [`Transformer::forward`] gives the hidden states of a batch, [`forward_cached`](Transformer::forward_cached) those
//!   behind [`KvCache`]s, [`forward_against`](Transformer::forward_against) those against [`CleanKeys`] that were read
//!   before.
//! - [`Transformer::forward_train`] is the same pass for training: it keeps [`SavedActivations`] for
//!   [`backward`](Transformer::backward), which is written out and gives [`Parameters`] of gradients.
//! - [`Transformer::init`], [`trainable`](Transformer::trainable), [`mapped`](Transformer::mapped) and
//!   [`resident`](Transformer::resident) make a model, fresh or from the [`Weights`] of a checkpoint.
//!
//! [`Config`], [`Mode`], [`Predicts`], [`Attention`], [`Weights`] and [`StorageDtype`] are `lacuna-checkpoint`'s, which reads and writes files.
//!
//! Files, noise schedules, samplers and tokenizers are the business of other crates.

#![forbid(unsafe_code)]

mod batch;
mod block;
mod cache;
mod clean;
mod construct;
mod error;
mod forward;
mod init;
mod keys;
mod rows;
mod train;
mod transformer;
mod weight;

pub use batch::{Batch, Sequence};
pub use cache::KvCache;
pub use clean::CleanKeys;
pub use error::{Error, Result};
pub use lacuna_checkpoint::{Attention, Config, Mode, Parameters, Predicts, StorageDtype, Weights};
pub use lacuna_kernels::{Activations, AttentionMask, CachePrecision};
pub use train::SavedActivations;
pub use transformer::Transformer;
