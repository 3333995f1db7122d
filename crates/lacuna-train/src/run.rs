//! Runs a recipe: its stages one after the other, and in each of them step after step.

use candle_core::Device;
use lacuna_data::Window;
use lacuna_model::Transformer;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::adamw::AdamW;
use crate::checkpoint::{self, Progress};
use crate::collective::Collective;
use crate::error::{Result, TrainError};
use crate::evaluation::{Evaluation, evaluate};
use crate::metrics::StepMetrics;
use crate::objective::StageObjective;
use crate::recipe::{Recipe, Stage, StageData};
use crate::record::Surroundings;
use crate::record::results::HeldOutPoint;
use crate::setup::{RunData, build_model};
use crate::step::{StepSettings, step};
use crate::telemetry::Taken;
use keeper::Keeper;

mod keeper;
mod start;

/// The options of a run beside its recipe.
#[derive(Debug)]
pub struct RunOptions<'a> {
    /// The run's directory.
    pub dir: PathBuf,
    /// True to go on from the newest complete checkpoint in it, or from the beginning if there is none.
    pub resume: bool,
    /// The step of the checkpoint to go on from instead.
    pub resume_step: Option<u64>,
    /// True to go on although the recipe's learning rates, steps or the like are not those that the run began with.
    pub accept_changes: bool,
    /// The device that tensors live on.
    pub device: Device,
    /// The flag that stops the run: once it is set (by Ctrl-C), the run writes a checkpoint after the current step
    /// and ends.
    pub stop: &'a AtomicBool,
    /// The machine, the clock and the memory, for the record.
    pub surroundings: Surroundings,
    /// The ranks that take the steps together.
    pub collective: Collective,
}

/// A report of a run while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something that a user should know of, though nothing failed.
    Notice(String),
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
    /// Held-out text is being scored: passes done and in all.
    Evaluating(usize, usize),
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
    fn of_other_rank(interrupted: bool, model: PathBuf) -> Self {
        Self { interrupted, finished_before: false, model, evaluations: Vec::new() }
    }
}

/// Runs a recipe's stages one after the other on the same weights.
///
/// # Errors
/// Errors name the file or step and say what to do; what was written before stays usable.
pub fn run(
    recipe: &Recipe,
    options: &RunOptions<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    options.collective.guarded(|| run_as_rank(recipe, options, observe))
}

fn run_as_rank(
    recipe: &Recipe,
    options: &RunOptions<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    let own = recipe.fingerprint();
    let all = options.collective.joined(vec![own.clone()], |all| Ok(all.concat()))?;
    if let Some(rank) = all.iter().position(|other| *other != own) {
        let reason = "runs another recipe; start all ranks with the same".into();
        return Err(TrainError::Rank { rank, reason });
    }
    // The first rank alone enters the folder; the others go on from where it says.
    let mut entered = None;
    let place = options.collective.told(|| start::enter(recipe, options, &mut entered, observe))?;
    let (newest, place) = match place {
        ControlFlow::Break(finished) => return Ok(finished),
        ControlFlow::Continue(place) => place,
    };
    let data = RunData::open(recipe)?;
    if let Some(entered) = &mut entered {
        entered.check(recipe, &data, &options.dir)?;
    }
    let model = build_model(recipe, &data, newest.as_deref(), &options.device)?;
    let mut optimizer = recipe.optimizer.of(&model)?;
    let mut progress = match &newest {
        Some(newest) => checkpoint::restore(newest, &model, &mut optimizer)?,
        None => Progress::default(),
    };
    // A finished stage that is given more steps goes on.
    (progress.stage, progress.stage_step) = (place.stage, place.stage_step);
    let keeper = entered.map(|entered| entered.keeper(recipe, options, &progress, observe));
    let keeper = keeper.transpose()?;
    observe(Event::Ready { data: &data, model: &model, step: progress.step });
    let mut run = Run { recipe, options, data, model, optimizer, progress, keeper };
    let outcome = run.stages(observe)?;
    if let Some(keeper) = &run.keeper {
        keeper.seal(observe);
    }
    Ok(outcome)
}

/// A run under way.
struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a RunOptions<'a>,
    data: RunData,
    model: Transformer,
    optimizer: AdamW,
    progress: Progress,
    /// The writer of everything, which the first rank alone has.
    keeper: Option<Keeper<'a>>,
}

impl Run<'_> {
    fn stages(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        self.measure_late(observe)?;
        let stages = &self.recipe.stage;
        for (i, stage) in stages.iter().enumerate().skip(self.progress.stage) {
            self.progress.stage = i;
            self.enter(stage)?;
            let objective = self.data.objective(self.recipe, stage)?;
            let mut stopped = self.stopped()?;
            while self.progress.stage_step < stage.steps && !stopped {
                self.step(stage, &objective, observe)?;
                stopped = self.stopped()?;
                if self.progress.stage_step < stage.steps && (stopped || self.is_due(stage)) {
                    self.checkpoint(observe)?;
                }
            }
            if self.progress.stage_step < stage.steps {
                return self.interrupted(observe);
            }
            (self.progress.stage, self.progress.stage_step) = (i + 1, 0);
            self.checkpoint(observe)?;
            // A stage that is not measured now will be when the run goes on.
            if stopped {
                return self.interrupted(observe);
            }
            self.measure(i, observe)?;
            if self.stopped()? && i + 1 < stages.len() {
                return self.interrupted(observe);
            }
        }
        self.finished(observe)
    }

    /// Takes one step and tells of it.
    fn step(
        &mut self,
        stage: &Stage,
        objective: &StageObjective,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let began = Instant::now();
        let at = self.progress.clone();
        let windows = self.take_windows(stage, objective.rows_per_window())?;
        let examples = objective.examples(&windows, self.recipe.seed, at.step, at.stage_step)?;
        let settings = StepSettings {
            micro_batch_size: stage.micro_batch_size.unwrap_or(stage.batch_size),
            learning_rate: stage.learning_rate().at(at.stage_step, stage.steps),
            collective: &self.options.collective,
        };
        let outcome = step(&self.model, objective, &mut self.optimizer, &examples, settings)
            .map_err(|error| self.diverged(error))?;
        self.progress.step += 1;
        self.progress.stage_step += 1;
        self.progress.tokens += windows.iter().map(|w| w.tokens.len() as u64).sum::<u64>();
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let taken = Taken { began, stage, objective, windows, examples, outcome };
        let metrics = taken.metrics(&self.model, &self.progress, settings.learning_rate)?;
        keeper.step(&metrics, self.model.config().vocab_size, observe);
        let total_steps = self.recipe.total_steps();
        observe(Event::Step { metrics: &metrics, total_steps });
        Ok(())
    }

    /// The step's windows, each repeated `times` times (complementary pairs see the same text twice).
    fn take_windows(&mut self, stage: &Stage, times: usize) -> Result<Vec<Window>> {
        let (batches, cursor) = match (stage.data, &self.data.sft) {
            (StageData::Corpus, _) => (&self.data.train, &mut self.progress.corpus),
            (StageData::Sft, Some(sft)) => (sft, &mut self.progress.sft),
            (StageData::Sft, None) => {
                return Err(self.recipe.fault("an sft stage without samples".into()));
            }
        };
        let count =
            NonZeroUsize::new(stage.batch_size / times).expect("validated: at least one window");
        let rows = batches.take(cursor, count)?;
        Ok(rows.into_iter().flat_map(|row| std::iter::repeat_n(row.window, times)).collect())
    }

    /// Makes the model declare what the stage trains it for.
    fn enter(&mut self, stage: &Stage) -> Result<()> {
        self.model.set_mode(self.data.mode(stage)?);
        self.model.set_predicts(stage.predicts());
        self.model.set_attention(stage.attention());
        Ok(())
    }

    /// Tells whether the run is to end after this step. All ranks end after the same one.
    fn stopped(&self) -> Result<bool> {
        self.options.collective.any(self.options.stop.load(Ordering::Relaxed))
    }

    fn is_due(&self, stage: &Stage) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.is_due(stage, &self.progress))
    }

    fn checkpoint(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let files = self.data.side_files();
        keeper.checkpoint((&self.model, &self.optimizer), &self.progress, files, observe)
    }

    fn measure(&mut self, index: usize, observe: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let stage = &self.recipe.stage[index];
        let evaluation =
            evaluate(self.recipe, stage, &self.data, &self.model, &mut |done, all| {
                observe(Event::Evaluating(done, all));
            })?;
        keeper.scores((index, stage), self.progress.step, evaluation.as_ref(), observe);
        Ok(())
    }

    /// Measures a stage that an earlier process had saved and not measured to the end.
    fn measure_late(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let last = self.progress.stage.checked_sub(1).filter(|_| self.progress.stage_step == 0);
        let Some((i, keeper)) = last.zip(self.keeper.as_ref()) else { return Ok(()) };
        if keeper.has_scores(i) {
            return Ok(());
        }
        self.enter(&self.recipe.stage[i])?;
        self.measure(i, observe)
    }

    fn diverged(&self, error: TrainError) -> TrainError {
        match &self.keeper {
            Some(keeper) => keeper.diverged(error, &self.progress),
            None => error,
        }
    }

    fn interrupted(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        match &mut self.keeper {
            Some(keeper) => keeper.interrupt(self.progress.step, observe),
            None => Ok(Outcome::of_other_rank(true, self.options.dir.join("checkpoints"))),
        }
    }

    fn finished(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        let files = self.data.side_files();
        match &mut self.keeper {
            Some(keeper) => keeper.finish(&self.model, files, self.progress.step, observe),
            None => Ok(Outcome::of_other_rank(false, self.options.dir.join("final"))),
        }
    }
}
