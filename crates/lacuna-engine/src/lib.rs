//! Opens code language models and decodes with them: checkpoints in, text out.
//!
//! ```no_run
//! use lacuna_engine::{GenerateOptions, Model, OpenOptions, generate};
//!
//! let model = Model::open("runs/tiny/final".as_ref(), &OpenOptions::default())?;
//! let completion = generate(&model, "def fibonacci(n):\n", &GenerateOptions::default(), |_| {})?;
//! println!("{}", completion.text);
//! # Ok::<(), lacuna_engine::Error>(())
//! ```
//!
//! - [`locate`]: a path or a name on the Hugging Face hub becomes a path.
//! - [`Model`]: a checkpoint opened for use: transformer, tokenizer, mode, chat template.
//! - [`Resolved`]: options and a model as one exact request; the only place that knows defaults.
//! - [`Session`]: its sequences and their caches; the sampler decodes on it.
//! - [`Engine`]: many requests at once, which come and go between two passes; events with owned pieces of text.
//! - [`generate`]: a text continued, by block diffusion or autoregressively, as the checkpoint is.
//! - [`edit`]: the same text in fewer passes, with an old version of it as draft.
//! - [`TraceFile`]: what was decoded and how, kept so that it can be replayed.
//! - [`TokenText`]: tokens on their way to text: stop texts, characters cut between two tokens.
//! - [`convert`]: a checkpoint in another format, or as the start of block-diffusion training.
//!
//! It joins model, sampler and text, which do not know each other, and has no method of its own. It knows no terminal
//! and no command line: a program, a server and an evaluation stand on it alike.

#![forbid(unsafe_code)]

mod advice;
mod convert;
mod edit;
mod engine;
mod error;
mod generate;
mod hub;
mod memory;
mod open;
mod options;
mod resolve;
mod session;
mod text;
mod trace;

// These names of other crates stand in the signatures here.
pub use lacuna_checkpoint::Workload;
pub use lacuna_kernels::StorageDtype;
pub use lacuna_samplers::reference::Settings;
pub use lacuna_samplers::{
    DraftCounts, Event as DecodeEvent, FillRule, FinishReason, Refinement, Request, Sampling,
};

pub use advice::{Advice, Knob};
pub use convert::{ConvertOptions, Converted, MaskStart, MaskToken, ToBlockDiffusion, convert};
pub use edit::edit;
pub use engine::{Engine, EngineOptions, Event, Id};
pub use error::{Error, Result};
pub use generate::{Completion, Seconds, generate, generate_in};
pub use hub::{Download, locate};
pub use memory::{MemoryLimit, available_bytes};
pub use open::{Model, OpenOptions, select_device, usual_mask};
pub use options::{Algorithm, GenerateOptions, MAX_NEW_TOKENS, Prompt, prompt_ids};
pub use resolve::{Plan, Resolved, algorithm, mismatch as mode_mismatch, no_mask};
pub use session::Session;
pub use text::TokenText;
pub use trace::TraceFile;
