//! Trains models by recipes: stages of one legible training step each, with checkpoints that resume, and metrics.
//!
//! ```no_run
//! use lacuna_train::{Collective, Recipe, RunOptions, Surroundings, run};
//! use std::sync::atomic::AtomicBool;
//!
//! let recipe = Recipe::load("recipes/tiny.toml".as_ref(), &["stage.0.steps=10".into()])?;
//! let options = RunOptions {
//!     dir: "runs/tiny".into(),
//!     resume: false,
//!     resume_step: None,
//!     accept_changes: false,
//!     device: candle_core::Device::Cpu,
//!     stop: &AtomicBool::new(false),
//!     surroundings: Surroundings::default(),
//!     collective: Collective::Alone,
//! };
//! let outcome = run(&recipe, &options, &mut |event| println!("{event:?}"))?;
//! println!("{}", outcome.model.display());
//! # Ok::<(), lacuna_train::TrainError>(())
//! ```
//!
//! - [`Recipe`] holds everything a run depends on, as TOML.
//! - [`run`] runs its stages, one after the other, on the same weights; [`Event`] is what it tells meanwhile. [`run_on`]
//!   takes the steps on a card by the project's own kernels.
//! - [`step()`] is one step: forward, backward, sum, clip, update. The ranks of a [`Collective`] take it together.
//! - [`StageObjective`] and [`Example`] lead from windows to supervised tokens.
//! - [`evaluate`] measures what a stage has learnt, on held-out text.
//!
//! The crate decodes nothing, draws nothing and prints nothing.

#![forbid(unsafe_code)]

mod adamw;
mod checkpoint;
mod collective;
mod error;
mod evaluation;
mod example;
mod learning_rate;
mod metrics;
mod objective;
mod on_machine;
mod recipe;
mod record;
mod run;
mod run_folder;
mod setup;
mod step;
mod telemetry;

pub use adamw::{AdamW, AdamWConfig, AdamWState, Parameter};
pub use checkpoint::{Progress, newest as newest_checkpoint};
pub use collective::{Collective, Seat};
pub use error::{Result, TrainError};
pub use evaluation::{Evaluation, ScoreName, evaluate};
pub use example::Example;
pub use learning_rate::LearningRate;
pub use metrics::{
    DiffusionMetrics, MASK_RATE_BUCKETS, MachineMetrics, MetricsWriter, StepMetrics, read_metrics,
};
pub use objective::{LossAndGradients, StageObjective};
pub use on_machine::OnMachine;
pub use recipe::{
    CorruptionRecipe, DataRecipe, EvaluationRecipe, MaskEmbedding, ModelRecipe, ObjectiveKind,
    OptimizerRecipe, Recipe, SftRecipe, Stage, StageData,
};
pub use record::results::HeldOutPoint;
pub use record::{Machine, Surroundings};
pub use run::{Event, Outcome, RunOptions, run, run_on};
pub use setup::{RunData, SpecialIds, open_tokenizer};
pub use step::{StepOutcome, StepSettings, step};
