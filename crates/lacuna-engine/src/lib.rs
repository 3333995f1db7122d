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
//! - [`locate`] turns a name on the Hugging Face hub, or a path, into a path that exists.
//! - [`Model`] is a checkpoint opened for use, with its transformer, tokenizer, mode and chat template.
//! - [`Resolved`] is one exact request, made from options and a model. No other place knows defaults.
//! - [`generate`] continues a text, by block diffusion or autoregressively, as the checkpoint was trained to.
//! - [`edit`] writes a text in fewer passes, with an old version of it as draft.
//! - [`Engine`] serves many requests at once, which come and go between two passes; its events own their pieces of text.
//! - [`Session`] holds the sequences that a model is decoding, with their caches; the sampler works on it.
//! - [`Prefix`] is what was read of a text's beginning: an engine that is [`Engine::remembering`] reads of the next text
//!   only what differs, and a [`Reading`] reads a prompt in parts between the passes of others.
//! - [`TokenText`] turns tokens into text as they come: it finds stop texts, and holds back a character that is cut
//!   between two tokens.
//! - [`TraceFile`] records what was decoded and how, so that it can be replayed.
//! - [`convert`] writes a checkpoint in another format, as the start of block-diffusion training, or with an adapter
//!   merged; [`average`] writes the mean of some.
//!
//! It joins model, sampler and text, which do not know each other, and has no method of its own. It knows no terminal
//! and no command line: a program, a server and an evaluation stand on it alike.

#![forbid(unsafe_code)]

mod advice;
mod average;
mod constraint;
mod convert;
mod cost;
mod edit;
mod engine;
mod error;
mod generate;
mod hub;
mod memory;
mod on_machine;
mod open;
mod options;
mod prefixes;
mod resolve;
mod session;
mod text;
mod trace;

// These names of other crates stand in the signatures here.
pub use lacuna_checkpoint::{Attention, Workload};
pub use lacuna_device::{Card, DecodingCounts, Machine};
pub use lacuna_kernels::{Activations, CachePrecision, StorageDtype};
pub use lacuna_samplers::reference::Settings;
pub use lacuna_samplers::{
    DraftCounts, Drafting, Event as DecodeEvent, FillRule, FinishReason, Refinement, Request,
    Sampling,
};

pub use advice::{Advice, Knob};
pub use average::average;
pub use constraint::Pattern;
pub use convert::{ConvertOptions, Converted, MaskStart, MaskToken, ToBlockDiffusion, convert};
pub use cost::{greedy_pass, pass_seconds};
pub use edit::{edit, edit_in};
pub use engine::{Engine, EngineOptions, Event, Id, Reading};
pub use error::{Error, Result};
pub use generate::{Completion, Seconds, generate, generate_in};
pub use hub::{Download, locate};
pub use memory::{MemoryLimit, available_bytes};
pub use on_machine::OnMachine;
pub use open::{Model, OpenOptions, select_device, usual_mask};
pub use options::{Algorithm, DraftSource, GenerateOptions, MAX_NEW_TOKENS, Prompt, prompt_ids};
pub use resolve::{
    Lookup, Plan, Resolved, Rule, algorithm, attention, mismatch as mode_mismatch, no_mask,
};
pub use session::{Prefix, Session};
pub use text::TokenText;
pub use trace::TraceFile;
