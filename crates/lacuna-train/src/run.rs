//! Runs a recipe: its stages one after the other, and in each of them step after step.

use candle_core::Device;
use lacuna_model::Transformer;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::adamw::AdamW;
use crate::checkpoint::{self, Form, Progress, State};
use crate::collective::Collective;
use crate::collective::shards::Gathered;
use crate::ema::Ema;
use crate::error::{Result, TrainError};
use crate::example::Example;
use crate::objective::StageObjective;
use crate::on_machine::{OnMachine, Steps};
use crate::plan::check_memory;
use crate::recipe::{Recipe, Stage, StageData};
use crate::record::Surroundings;
use crate::setup::{RunData, build_model};
use crate::step::{StepSettings, step};
use crate::telemetry::Taken;
use keeper::Keeper;

pub(crate) mod blame;
mod event;
mod keeper;
mod measure;
mod start;

pub use event::{Event, Outcome};

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
    /// The bytes of main memory that the run may take; a run that would take more is refused before its first step.
    /// `None`: nobody counts.
    pub memory: Option<u64>,
}

impl<'a> RunOptions<'a> {
    /// A run in `dir` that begins there, alone, on the CPU, and knows nothing of its surroundings.
    pub fn new(dir: impl Into<PathBuf>, stop: &'a AtomicBool) -> Self {
        Self {
            dir: dir.into(),
            resume: false,
            resume_step: None,
            accept_changes: false,
            device: Device::Cpu,
            stop,
            surroundings: Surroundings::default(),
            collective: Collective::Alone,
            memory: None,
        }
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
    options.collective.guarded(|| run_as_rank(recipe, options, None, observe))
}

/// [`run`] with every step taken on a machine by planned launches, in bf16 with masters in f32. Held-out text is scored
/// by tensors, on the options' device.
///
/// # Errors
/// As [`run`], and if there are no kernels for the model, the machine fails, or there are several ranks.
pub fn run_on(
    recipe: &Recipe,
    options: &RunOptions<'_>,
    on: OnMachine<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    let several = !matches!(options.collective, Collective::Alone);
    if let Some(what) = recipe.beyond_machines().or(several.then_some("a run of several ranks")) {
        let expected = "a run without it, or one on the CPU";
        return Err(lacuna_device::Error::Unsupported { what: what.into(), expected }.into());
    }
    run_as_rank(recipe, options, Some(on), observe)
}

fn run_as_rank(
    recipe: &Recipe,
    options: &RunOptions<'_>,
    on: Option<OnMachine<'_>>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    let own = recipe.fingerprint();
    let all = options.collective.gathered("recipe", &own)?;
    if let Some(rank) = all.iter().position(|other| *other != own) {
        let reason = "runs another recipe; start all ranks with the same".into();
        return Err(TrainError::Rank { rank, reason });
    }
    // The first rank alone enters the folder; the others go on from where it says.
    let mut entered = None;
    let mut finished = None;
    let place = options.collective.told("start", || {
        Ok(match start::enter(recipe, options, &mut entered, observe)? {
            ControlFlow::Continue(place) => Some(place),
            ControlFlow::Break(outcome) => {
                finished = Some(outcome);
                None
            }
        })
    })?;
    let Some((newest, place)) = place else {
        let model = options.dir.join("final");
        let finished_before =
            Outcome { finished_before: true, ..Outcome::of_other_rank(false, model) };
        return Ok(finished.unwrap_or(finished_before));
    };
    let cache = packed_corpora(&options.dir);
    let data = RunData::open(recipe, &cache, &mut |step| observe(Event::Packing(&step)))?;
    if let Some(entered) = &mut entered {
        entered.check(recipe, &data, &options.dir)?;
    }
    // On other devices weights and activations are in their memory, which asks for itself.
    if let Some(limit) = options.memory.filter(|_| on.is_none() && options.device.is_cpu()) {
        check_memory(recipe, &data, options.collective.size(), limit)?;
    }
    let mut notice = |told| observe(Event::Notice(told));
    let model = build_model(recipe, &data, newest.as_deref(), &options.device, &mut notice)?;
    let mut optimizer = recipe.optimizer_of(&model, &options.collective)?;
    let decay = recipe.optimizer.ema_decay;
    let mut ema = (decay > 0.0).then(|| Ema::new(decay, &optimizer)).transpose()?;
    // Only now: the f32 copies that updates add up in keep what rounding takes off.
    recipe.round_parameters(&model)?;
    let mut progress = match &newest {
        Some(newest) => checkpoint::restore(newest, &model, &mut optimizer, ema.as_mut())?,
        None => Progress::default(),
    };
    let machine = on.map(|on| Steps::new(on, (&model, &optimizer), recipe.data.window));
    let machine = machine.transpose()?;
    // A finished stage that is given more steps goes on.
    (progress.stage, progress.stage_step) = (place.stage, place.stage_step);
    let keeper = entered.map(|entered| entered.keeper(recipe, options, &progress, observe));
    let keeper = keeper.transpose()?;
    observe(Event::Ready { data: &data, model: &model, step: progress.step });
    let form = recipe.form()?;
    let mut run =
        Run { recipe, options, data, model, optimizer, ema, form, machine, progress, keeper };
    let outcome = run.stages(observe)?;
    if let Some(keeper) = &run.keeper {
        keeper.seal(observe);
    }
    Ok(outcome)
}

/// The folder of packed corpora: beside the run, where the next one finds them, or in it, where nobody may write beside
/// it.
fn packed_corpora(dir: &Path) -> PathBuf {
    const NAME: &str = ".packed";
    let beside = dir.parent().unwrap_or(Path::new("")).join(NAME);
    let is_open = match beside.exists() {
        true => lacuna_files::WholeFolder::beside(&beside.join("trial")).is_ok(),
        false => lacuna_files::WholeFolder::beside(&beside).is_ok(),
    };
    if is_open { beside } else { dir.join(NAME) }
}

/// A run under way.
struct Run<'a, 'm> {
    recipe: &'a Recipe,
    options: &'a RunOptions<'a>,
    data: RunData,
    model: Transformer,
    optimizer: AdamW,
    /// The running mean of the weights, if the recipe asks for one.
    ema: Option<Ema>,
    form: Form,
    /// The machine that takes the steps in place of the tensors.
    machine: Option<Steps<'m>>,
    progress: Progress,
    /// The writer of everything, which the first rank alone has.
    keeper: Option<Keeper<'a>>,
}

impl Run<'_, '_> {
    fn stages(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        self.measure_start(observe)?;
        self.measure_late(observe)?;
        let stages = &self.recipe.stage;
        for (i, stage) in stages.iter().enumerate().skip(self.progress.stage) {
            self.progress.stage = i;
            self.enter(stage)?;
            if stage.reset_optimizer && self.progress.stage_step == 0 {
                self.optimizer.reset()?;
            }
            let objective = self.data.objective(self.recipe, stage)?;
            if self.progress.stage_step == 0 {
                self.progress.losses.begin_stage();
            }
            let mut stopped = self.stopped()?;
            if !stopped && self.is_unwatched(stage) {
                // An earlier process saved this step and was stopped before it was watched.
                self.watch(stage, observe)?;
                self.checkpoint(false, observe)?;
            }
            while self.progress.stage_step < stage.steps && !stopped {
                self.step(stage, &objective, observe)?;
                stopped = self.stopped()?;
                let ended = self.progress.stage_step == stage.steps;
                let is_best = (!stopped || ended) && self.watch(stage, observe)?;
                let saves = self.any_saves(is_best || self.is_due(stage))?;
                if !ended && (stopped || saves) {
                    self.checkpoint(stopped, observe)?;
                }
            }
            if self.progress.stage_step < stage.steps {
                return self.interrupted(observe);
            }
            (self.progress.stage, self.progress.stage_step) = (i + 1, 0);
            self.checkpoint(stopped, observe)?;
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
        let rows = self.take_windows(stage, objective.rows_per_window())?;
        let examples =
            objective.examples(&rows.windows, self.recipe.seed, at.step, at.stage_step)?;
        let z_score = self.recipe.optimizer.spike_z_score;
        let settings = StepSettings {
            micro_batch_size: stage.micro_batch_size.unwrap_or(stage.batch_size),
            learning_rate: stage.learning_rate().at(at.stage_step, stage.steps),
            collective: &self.options.collective,
            skip_above: at.losses.limit(z_score),
        };
        let updates = self.optimizer.steps();
        let outcome = match &mut self.machine {
            None => step(&self.model, objective, &mut self.optimizer, &examples, settings),
            Some(machine) => machine.step(objective, &examples, settings),
        };
        if matches!(outcome, Err(TrainError::Diverged { .. })) {
            // The rows at fault are looked for by tensors, which lag behind a machine. If it fails now, they are as they were.
            let _ = self.settle();
        }
        let outcome =
            outcome.map_err(|error| self.diverged(error, stage, objective, (&rows, &examples)))?;
        let machine = self.machine.as_ref().map(|machine| machine.metrics(began.elapsed()));
        if let Some(ema) = self.ema.as_mut().filter(|_| self.optimizer.steps() > updates) {
            ema.update(self.model.backend(), &self.optimizer)?;
        }
        let clips = !outcome.skipped && outcome.grad_norm > self.recipe.optimizer.clip;
        self.progress.clipped_steps += u64::from(clips);
        self.progress.step += 1;
        self.progress.stage_step += 1;
        self.progress.tokens += rows.windows.iter().map(|w| w.tokens.len() as u64).sum::<u64>();
        if z_score > 0.0 && !outcome.nll.is_empty() {
            self.progress.losses.saw(outcome.mean_nll(), outcome.skipped);
        }
        let epoch = self.epoch(stage);
        let surroundings = &self.options.surroundings;
        let windows = rows.windows;
        let taken = Taken {
            began,
            stage,
            objective,
            windows,
            examples,
            outcome,
            epoch,
            surroundings,
            machine,
        };
        if taken.reads_the_model(self.progress.stage_step) {
            self.settle()?;
        }
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let metrics = taken.metrics(&self.model, &self.progress, settings.learning_rate)?;
        keeper.step(&metrics, self.model.config().vocab_size, observe);
        let total_steps = self.recipe.total_steps();
        observe(Event::Step { metrics: &metrics, total_steps });
        Ok(())
    }

    /// The step's windows, each repeated `times` times (complementary pairs see the same text twice).
    fn take_windows(&mut self, stage: &Stage, times: usize) -> Result<blame::Taken> {
        let (batches, cursor) = match (stage.data, &self.data.sft) {
            (StageData::Corpus, _) => (&self.data.train, &mut self.progress.corpus),
            (StageData::Sft, Some(sft)) => (sft, &mut self.progress.sft),
            (StageData::Sft, None) => {
                return Err(self.recipe.fault("an sft stage without samples".into()));
            }
        };
        let count =
            NonZeroUsize::new(stage.batch_size / times).expect("validated: at least one window");
        let mut taken = blame::Taken { from: *cursor, ..blame::Taken::default() };
        for row in batches.take(cursor, count)? {
            taken.numbers.extend(std::iter::repeat_n(row.window_index, times));
            taken.windows.extend(std::iter::repeat_n(row.window, times));
        }
        Ok(taken)
    }

    /// The place in a stage's data, in passes over it.
    fn epoch(&self, stage: &Stage) -> f64 {
        let (batches, cursor) = match (stage.data, &self.data.sft) {
            (StageData::Sft, Some(sft)) => (sft, self.progress.sft),
            _ => (&self.data.train, self.progress.corpus),
        };
        cursor.epoch as f64 + cursor.index as f64 / batches.dataset().windows().max(1) as f64
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
        self.options.collective.any("stop", self.options.stop.load(Ordering::Relaxed))
    }

    fn is_due(&self, stage: &Stage) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.is_due(stage, &self.progress))
    }

    /// Tells whether a checkpoint is to be written, which the first rank's clock and scores decide for all.
    fn any_saves(&self, own: bool) -> Result<bool> {
        self.options.collective.any("save", own)
    }

    /// Brings the tensors up to date with the machine, if there is one.
    fn settle(&mut self) -> Result<()> {
        match &mut self.machine {
            Some(machine) => machine.settle(&self.model, &mut self.optimizer),
            None => Ok(()),
        }
    }

    /// The optimizer's state and the running means of all ranks, on the first one. All ranks take part.
    fn gathered(&mut self) -> Result<Option<Gathered>> {
        self.settle()?;
        let ranks = self.optimizer.ranks(&self.options.collective);
        ranks.gathered(&self.optimizer, self.ema.as_ref())
    }

    /// Saves the run; all ranks take part. If that fails, the run goes on with the checkpoints before, unless it `must` be
    /// saved because it ends here.
    fn checkpoint(&mut self, must: bool, observe: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let gathered = self.gathered()?;
        let Self { data, model, form, progress, keeper, .. } = self;
        let Some((keeper, gathered)) = keeper.as_mut().zip(gathered) else { return Ok(()) };
        let state = State { model, form, gathered };
        match keeper.checkpoint(state, progress, data.side_files(), observe) {
            Err(error) if !must => {
                let step = progress.step;
                observe(Event::Notice(format!(
                    "step {step} is not saved: {error}; the run goes on with the checkpoints before"
                )));
                Ok(())
            }
            saved => saved,
        }
    }

    /// Says of a loss or a gradient that is no number where it came about, and what to go on from.
    fn diverged(
        &self,
        error: TrainError,
        stage: &Stage,
        objective: &StageObjective,
        (taken, examples): (&blame::Taken, &[Example]),
    ) -> TrainError {
        let TrainError::Diverged { what, value, advice, .. } = &error else { return error };
        let collective = &self.options.collective;
        let Some(keeper) = &self.keeper else {
            // When one rank ends, all do: the first one has time to find the rows at fault and to write them down.
            let _ = collective.any("diverged", true);
            return error;
        };
        let failed = blame::Failed {
            model: &self.model,
            objective,
            tokenizer: &self.data.tokenizer,
            stage,
            seed: self.recipe.seed,
            step: self.progress.step + 1,
            taken,
            examples,
        };
        let (what, value, advice) = (*what, *value, advice.clone());
        let place = failed.place();
        let error = TrainError::Diverged { what, value, place: place.to_string(), advice };
        let error = keeper.diverged(error, place, &self.progress);
        let _ = collective.any("diverged", true);
        error
    }

    fn interrupted(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        match &mut self.keeper {
            Some(keeper) => keeper.interrupt(self.progress.step, observe),
            None => Ok(Outcome::of_other_rank(true, self.options.dir.join("checkpoints"))),
        }
    }

    fn finished(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        let gathered = self.gathered()?;
        let Self { data, model, form, progress, keeper, options, .. } = self;
        match keeper.as_mut().zip(gathered) {
            Some((keeper, gathered)) => {
                let state = State { model, form, gathered };
                keeper.finish(state, data.side_files(), progress.step, observe)
            }
            None => Ok(Outcome::of_other_rank(false, options.dir.join("final"))),
        }
    }
}
