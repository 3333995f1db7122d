//! A Llama-shaped transformer with causal, full and block-diffusion passes, a KV cache and safe weight files.
#![deny(unsafe_code)]

mod config;
mod error;
mod weights;

pub use config::{Config, MemoryEstimate, Mode, RopeScaling};
pub use error::{ModelError, Result};
pub use weights::{Format, Report, StorageDtype, Weights, check_safetensors};
