//! Leads from Rust to the CUDA kernels: a training step, or a pass of a decoder, as a list of launches that is known before
//! any of them runs, with the place of every buffer in one arena.
//!
//! ```
//! use lacuna_checkpoint::Config;
//! use lacuna_device::{Layout, StepOptions, TrainingBatch, TrainingStep};
//! use lacuna_kernels::{AttentionMask, KeyRanges, Segments};
//!
//! let config = Config { head_dim: 64, num_layers: 2, ..Config::default() };
//! let layout = Layout::new(&config, 128)?;
//! let batch = TrainingBatch {
//!     tokens: &[7, 8, 9],
//!     positions: &[0, 1, 2],
//!     segments: &Segments::end_to_end([KeyRanges::new(AttentionMask::Causal, 3, 3, 0)]),
//!     wanted: &[0, 1],
//!     targets: &[8, 9],
//!     weights: &[0.5, 0.5],
//! };
//! let step = TrainingStep::new(&layout, batch, &StepOptions::default())?;
//! assert_eq!(step.plan.launches().next().unwrap().kernel, "attention_sights");
//! assert!(step.plan.arena_bytes > layout.bytes());
//! # Ok::<(), lacuna_device::Error>(())
//! ```
//!
//! - [`Layout`] places a model's parameters, gradients and moments at the front of the arena.
//! - [`TrainingStep`] plans a step on a [`TrainingBatch`] of sequences of any lengths and masks.
//! - [`Training`] keeps a model on a machine over a run: micro-batches that add up, updates, its state in and out.
//! - [`Decoding`] keeps a model for decoding on a machine: [`Weights`] as they are stored, keys and values of many texts, and
//!   passes over a [`DecodeBatch`], each with a plan for its shape that is recorded once and played again.
//! - [`Plan`] is a list of [`Step`]s with the bytes of the arena, and [`Upload`]s that are written before the first.
//! - A [`Machine`] runs plans. With the feature `cuda` [`open`] gives the one for a card, by the driver that is found when
//!   the program runs; tests have another, which runs the same kernels by emulation.
//!
//! It compiles no kernel: `cargo xtask cuda build` does, and puts them into the program.

// Unsafe code is allowed in one module alone: `driver`, which calls the CUDA driver.
#![deny(unsafe_code)]

mod arena;
mod batch;
mod card;
mod decode;
mod decoding;
#[cfg(feature = "cuda")]
mod driver;
mod error;
mod launch;
mod layout;
mod open;
mod recorder;
mod step;
mod training;

pub use arena::Region;
pub use batch::TrainingBatch;
pub use card::Card;
pub use decode::{Candidate, Draw, NoToken, Weight, Weights};
pub use decoding::{
    CacheId, CachedSequence, DecodeBatch, Decoding, DecodingCounts, DecodingOptions, Read,
};
#[cfg(feature = "cuda")]
pub use driver::Driver;
pub use error::{Error, Result};
pub use launch::{Bytes, Launch, Machine, Plan, Recording, Step, Upload};
pub use layout::{Layout, Place};
pub use open::{Opened, card_name, has_kernels, open, peak_operations};
pub use step::{Optimizer, StepOptions, TrainingStep};
pub use training::{MicroBatch, ParameterState, Training, TrainingCounts};
