//! Lists what a run tells while it goes on, and what it ends with.

use lacuna_model::Transformer;
use std::path::{Path, PathBuf};

use crate::evaluation::Evaluation;
use crate::metrics::StepMetrics;
use crate::recipe::{EvaluationRecipe, Stage};
use crate::record::results::HeldOutPoint;
use crate::samples::Sample;
use crate::setup::RunData;

/// A report of a run while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something that a user should know of, though nothing failed.
    Notice(String),
    /// Text is being hashed, packed, or compared with its hashes.
    Packing(&'a lacuna_data::cache::Step),
    /// The data is packed and the model stands.
    Ready {
        /// The run's data.
        data: &'a RunData,
        /// The model at its start.
        model: &'a Transformer,
        /// Steps already taken (a resumed run).
        step: u64,
    },
    /// A step was taken.
    Step {
        /// Its metrics.
        metrics: &'a StepMetrics,
        /// Steps of all stages.
        total_steps: u64,
    },
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// Held-out text is being scored at the end of a stage, which is saved: passes done and in all.
    Evaluating(usize, usize),
    /// Held-out text was scored before the first step.
    Start {
        /// The scores.
        evaluation: &'a Evaluation,
    },
    /// Held-out text is being scored on the way, behind steps that are not saved: passes done and in all.
    Watching(usize, usize),
    /// Held-out text was scored on the way.
    HeldOut {
        /// Steps taken.
        step: u64,
        /// The scores of the model.
        evaluation: &'a Evaluation,
        /// True if the first of them is the best of its stage so far.
        is_best: bool,
    },
    /// It is time to show what the model writes. Whoever hears this decodes the prompts, for this crate decodes nothing.
    SamplesDue {
        /// Steps taken.
        step: u64,
        /// The model as it is.
        model: &'a Transformer,
        /// The run's data, with its tokenizer.
        data: &'a RunData,
        /// The prompts and how much is to be written.
        wanted: &'a EvaluationRecipe,
        /// The place for what was written, in the order of the prompts.
        written: &'a mut Vec<Sample>,
    },
    /// A stage ended.
    StageEnd {
        /// The stage.
        stage: &'a Stage,
        /// The scores; `None` if the recipe asks for no evaluation.
        evaluation: Option<&'a Evaluation>,
    },
    /// The run ends, and its numbers stand in its folder. Plots of them, if any, are to be drawn now, to be sealed
    /// with them.
    Recorded {
        /// The run's folder, with its `metrics.jsonl`.
        dir: &'a Path,
        /// The scores of the model.
        held_out: &'a [HeldOutPoint],
    },
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True if it was stopped before its end.
    pub interrupted: bool,
    /// True if it was finished before it was resumed, so that nothing was done.
    pub finished_before: bool,
    /// The finished model's folder, or the newest checkpoint's.
    pub model: PathBuf,
    /// The scores at the end of each stage, also of those run by earlier processes.
    pub evaluations: Vec<(String, Evaluation)>,
}

impl Outcome {
    pub(super) fn of_other_rank(interrupted: bool, model: PathBuf) -> Self {
        Self { interrupted, finished_before: false, model, evaluations: Vec::new() }
    }
}
