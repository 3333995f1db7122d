//! Block-diffusion code language models: train, measure, write, fill in and edit code.
//!
//! ```no_run
//! use lacuna::{GenerateOptions, Model, OpenOptions};
//!
//! let model = Model::open("runs/tiny/final".as_ref(), &OpenOptions::default())?;
//! let written = lacuna::generate(&model, "def fibonacci(n):\n", &GenerateOptions::default(), |_| {})?;
//! println!("{}", written.text);
//! # Ok::<(), lacuna::Error>(())
//! ```
//!
//! - [`Model`]: a checkpoint opened for use: transformer, tokenizer, mode.
//! - [`Session`]: its sequences and their caches; what a sampler decodes on.
//! - [`generate`]: a text continued, by block diffusion or autoregressively, as the checkpoint is.
//! - [`edit`]: the same text in fewer passes, with an old version of it as draft.
//! - [`convert`]: a checkpoint in another format, or as the start of block-diffusion training.
//! - The crates below, whole: [`schedules`], [`data`], [`kernels`], [`model`], [`objective`], [`random`],
//!   [`samplers`], [`train`].
//!
//! It holds no method of its own: it joins what the crates below know.

#![forbid(unsafe_code)]

pub use lacuna_data as data;
pub use lacuna_kernels as kernels;
pub use lacuna_model as model;
pub use lacuna_objective as objective;
pub use lacuna_random as random;
pub use lacuna_samplers as samplers;
pub use lacuna_schedules as schedules;
pub use lacuna_train as train;

mod convert;
mod edit;
mod error;
mod generate;
mod hub;
mod memory;
mod mode;
mod open;
mod session;
mod text;

pub use convert::{ConvertOptions, Converted, MaskStart, MaskToken, ToBlockDiffusion, convert};
pub use edit::{Edited, edit};
pub use error::{Error, Result};
pub use generate::{
    DecodeMode, GenerateOptions, Prompt, Seconds, StopReason, Written, generate, generate_in,
    prompt_ids, trace_end, trace_header,
};
pub use hub::locate;
pub use memory::{MemoryLimit, available_bytes};
pub use mode::{mismatch as mode_mismatch, no_mask};
pub use open::{Model, OpenOptions, select_device, usual_mask};
pub use session::Session;
pub use text::TokenText;
