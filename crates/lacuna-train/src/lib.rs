//! Trains models by recipes: stages of one legible training step each, with checkpoints that resume, and metrics.
//!
//! ```no_run
//! use lacuna_train::{Recipe, RunOptions, run};
//! use std::sync::atomic::AtomicBool;
//!
//! let recipe = Recipe::load("recipes/tiny.toml".as_ref(), &["stage.0.steps=10".into()])?;
//! let stop = AtomicBool::new(false);
//! let options = RunOptions { resume: true, ..RunOptions::new("runs/tiny", &stop) };
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
mod ema;
mod error;
mod evaluation;
mod example;
mod flop;
mod groups;
mod learning_rate;
mod metrics;
mod objective;
mod on_machine;
mod peak;
mod plan;
mod recipe;
mod record;
mod run;
mod run_folder;
mod samples;
mod setup;
mod spikes;
mod step;
mod telemetry;
mod tensorboard;

pub use adamw::{AdamW, AdamWConfig, AdamWState, Parameter};
pub use checkpoint::{Best, Progress, newest as newest_checkpoint, of_run as checkpoints};
#[cfg(feature = "mpi")]
pub use collective::MpiSeat;
#[cfg(feature = "nccl")]
pub use collective::NcclSeat;
pub use collective::{Collective, Launch, Launcher, Seat};
pub use ema::Ema;
pub use error::{Result, TrainError};
pub use evaluation::{Evaluation, ScoreName, evaluate, evaluate_model};
pub use example::{Address, Example};
pub use flop::step_flop;
pub use groups::ParameterGroup;
pub use learning_rate::{LearningRate, LearningRateShape};
pub use metrics::{
    DiffusionMetrics, MASK_RATE_BUCKETS, MachineMetrics, MetricsWriter, StepMetrics, read_held_out,
    read_metrics,
};
pub use objective::{LossAndGradients, StageObjective};
pub use on_machine::OnMachine;
pub use peak::measured_peak;
pub use plan::{Plan, StagePlan, plan};
pub use recipe::{
    CorruptionRecipe, DataRecipe, EvaluationRecipe, FimOrderKey, FimRecipe, LoraRecipe,
    MaskEmbedding, ModelRecipe, MomentsForm, ObjectiveKind, OptimizerRecipe, Precision, Recipe,
    SamplePacking, SftRecipe, SourceRecipe, Stage, StageData,
};
pub use record::results::{HeldOutPoint, START};
pub use record::{Machine, Surroundings};
pub use run::{Event, Outcome, RunOptions, run, run_on};
pub use samples::Sample;
pub use setup::{RunData, SpecialIds, ends_of_text, open_template, open_tokenizer};
pub use spikes::LossWatch;
pub use step::{StepOutcome, StepSettings, step};
