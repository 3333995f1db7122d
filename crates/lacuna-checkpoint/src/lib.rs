//! Reads and writes checkpoints, safetensors and GGUF, validated before anything uses them, and says what they are.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lacuna_checkpoint::{Config, Name, SaveOptions, Weights, Workload, save_safetensors};
//!
//! let config = Config { num_layers: 1, vocab_size: 96, ..Config::default() };
//! let zeros = |shape: Vec<usize>| Tensor::zeros(shape, DType::BF16, &Device::Cpu);
//! let tensors = config.expected_tensors().map(|(name, shape)| Ok((name, zeros(shape)?)));
//! let tensors = tensors.collect::<candle_core::Result<Vec<_>>>()?;
//! let dir = std::env::temp_dir().join(format!("lacuna-checkpoint-{}", std::process::id()));
//! save_safetensors(&dir, &config, tensors, &SaveOptions::default())?;
//!
//! let weights = Weights::open(&dir)?;
//! assert_eq!(weights.shape(&Name::EMBED.to_string()), Some(&[96, 64][..]));
//! assert!(weights.memory(None, Workload::decoding(128)).weights > 0);
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`Config`] and [`Mode`] are the shape of a model, and what it was trained for; [`Family`] is the family that it is
//!   of, [`Predicts`] says which token its logits predict, and [`Attention`] what a masked position sees.
//! - [`Parameters`] holds shapes, weights or gradients as one typed tree; a [`Name`] is a parameter's place in it.
//! - [`Weights`] is an opened checkpoint, safetensors or GGUF. Its weights stay mapped where the file has them.
//! - [`save_safetensors`] and [`save_gguf`] write checkpoints, whole or not at all; an [`Outgoing`] is a tensor on its way.
//! - [`AdapterWeights`] and [`save_adapter`] read and write LoRA adapters as PEFT does.
//! - [`verify`] tells whether the bytes are still those that were written.
//! - [`MemoryEstimate`] is what a model needs for a given [`Workload`], before a weight is read.
//!
//! Nothing of a file is trusted: a header that does not describe exactly the bytes that follow is refused, with file,
//! tensor and reason, before anything is allocated by it.
//!
//! The transformer, sampling, training, and tokenizers beyond the text of their files are the business of other
//! crates.

#![forbid(unsafe_code)]

mod adapter;
mod config;
mod directory;
mod error;
mod families;
mod gguf;
mod header;
mod index;
mod mask_row;
mod memory;
mod names;
mod outgoing;
mod parameters;
mod permute;
mod safetensors;
mod weights;

pub use adapter::{
    AdapterConfig, AdapterWeights, adapter_tensor, save_adapter, target_module, targeted_field,
};
pub use config::{Attention, Config, Mode, Predicts, RopeScaling};
pub use directory::{LONGEST_INDEX, MODEL_FILES};
pub use error::{Error, Result};
pub use families::Family;
pub use gguf::{CarriedMetadata, GgufOptions, save_gguf};
pub use index::Format;
pub use lacuna_files::MappedFile;
pub use lacuna_kernels::{CachePrecision, StorageDtype};
pub use mask_row::mean_row;
pub use memory::{MemoryEstimate, Trained, TrainingMemory, TrainingWork, Workload, shown_size};
pub use outgoing::Outgoing;
pub use parameters::{Field, Kind, Layer, Linear, Name, Parameters, Parts};
pub use safetensors::{SaveOptions, save_safetensors, save_tensors};
pub use weights::{Report, Verified, Weights, check_gguf, check_safetensors, verify};
