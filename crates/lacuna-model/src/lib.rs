//! A Llama-shaped transformer with causal, full and block-diffusion passes, a KV cache and safe weight files.
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
//! # Ok::<(), lacuna_model::ModelError>(())
//! ```
//!
//! - [`Config`] and [`Mode`]: what a checkpoint is, and what it was trained for.
//! - [`Transformer`]: [`hidden`](Transformer::hidden) under any mask, [`denoise`](Transformer::denoise) for
//!   training, [`pass`](Transformer::pass) over a [`KvCache`] for decoding.
//! - [`Weights`]: an opened checkpoint, safetensors or GGUF, validated before anything reads it.
//! - [`save_safetensors`]: checkpoints out, whole or not at all.
//!
//! It knows no noise schedule, no sampler and no tokenizer.

#![deny(unsafe_code)]

mod cache;
mod clean;
mod config;
mod construct;
mod error;
mod gguf;
mod init;
mod mask_row;
mod names;
mod pass;
mod recorded;
mod transformer;
mod weights;
mod windows;

pub use cache::KvCache;
pub use clean::CleanWindow;
pub use config::{Config, Family, MemoryEstimate, Mode, RopeScaling, Work};
pub use error::{ModelError, Result};
pub use gguf::{CarriedMetadata, GgufOptions, save_gguf};
pub use mask_row::mean_row;
pub use pass::{Lane, View};
pub use recorded::Record;
pub use transformer::Transformer;
pub use weights::{
    COMPANIONS, Format, Outgoing, Report, SaveOptions, StorageDtype, Verified, Weights, check_gguf,
    check_safetensors, save_safetensors, verify,
};
pub use windows::Windows;
