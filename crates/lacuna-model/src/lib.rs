//! A Llama-shaped transformer with causal, full and block-diffusion passes, and a KV cache that crops.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lacuna_model::{Config, Transformer};
//!
//! let model = Transformer::init(Config::default(), 0, DType::F32, &Device::Cpu)?;
//! let clean = Tensor::new(&[[7u32, 8, 9, 10]], &Device::Cpu)?;
//! let noisy = Tensor::new(&[[7u32, 5, 9, 5]], &Device::Cpu)?; // 5 is MASK
//! let block_size = 2.try_into().expect("not zero");
//! let hidden = model.denoise(&noisy, &clean, block_size, None, Some(&[1, 3]))?;
//! assert_eq!(model.logits(&hidden)?.dims(), [2, 512]);
//! # Ok::<(), lacuna_model::Error>(())
//! ```
//!
//! - [`Transformer`]: [`hidden`](Transformer::hidden) under any mask, [`denoise`](Transformer::denoise) for
//!   training, [`pass`](Transformer::pass) over a [`KvCache`] for decoding.
//! - [`Transformer::init`], [`trainable`](Transformer::trainable), [`mapped`](Transformer::mapped) and
//!   [`resident`](Transformer::resident): ways to come by one, fresh or from the [`Weights`] of a checkpoint.
//! - [`Transformer::record`] and [`Record`]: a training pass whose backward pass is written out.
//!
//! [`Config`], [`Mode`], [`Weights`] and [`StorageDtype`] are `lacuna-checkpoint`'s, which reads and writes files.
//!
//! Not here: files, noise schedules, samplers, tokenizers.

#![forbid(unsafe_code)]

mod cache;
mod clean;
mod construct;
mod error;
mod init;
mod pass;
mod recorded;
mod transformer;
mod weight;
mod windows;

pub use cache::KvCache;
pub use clean::CleanWindow;
pub use error::{Error, Result};
pub use lacuna_checkpoint::{Config, Mode, Parameters, StorageDtype, Weights};
pub use pass::{Lane, View};
pub use recorded::Record;
pub use transformer::Transformer;
pub use windows::Windows;
