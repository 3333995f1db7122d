//! A run from recipe to checkpoint: stages, resumption, metrics, evaluation.

use candle_core::Device;
use lacuna_data::{Batches, Cursor, Window};
use lacuna_kernels::{AdamW, AdamWConfig, Parameter};
use lacuna_model::Transformer;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::checkpoint::kept::Divergence;
use crate::checkpoint::{self, Progress};
use crate::error::{Result, TrainError};
use crate::evaluation::{Evaluation, evaluate};
use crate::metrics::{MetricsWriter, StepMetrics, read_metrics};
use crate::objective::StageObjective;
use crate::plot;
use crate::recipe::{Recipe, Stage, StageData};
use crate::record::results::Results;
use crate::record::{self, Record, Surroundings};
use crate::run_folder::RunFolder;
use crate::setup::{RunData, build_model};
use crate::step::step;
use crate::telemetry::next_token_loss;

mod start;

/// How a recipe is run.
#[derive(Debug)]
pub struct RunOptions<'a> {
    /// The run's directory.
    pub dir: PathBuf,
    /// Go on from the newest complete checkpoint in it; from the beginning if there is none.
    pub resume: bool,
    /// Go on from the checkpoint of this step instead.
    pub resume_step: Option<u64>,
    /// Go on although the recipe's learning rates, steps or the like are not those that the run began with.
    pub accept_changes: bool,
    /// Where tensors live.
    pub device: Device,
    /// Set it (Ctrl-C) and the run writes a checkpoint after the current step and ends.
    pub stop: &'a AtomicBool,
    /// What goes into the record besides.
    pub surroundings: Surroundings,
}

/// What a run tells while it goes on.
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
        /// What was measured; `None` if the recipe asks for no evaluation.
        evaluation: Option<&'a Evaluation>,
    },
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Whether it was finished before it was resumed, so that nothing was done.
    pub finished_before: bool,
    /// The finished model's folder, or the newest checkpoint's.
    pub model: PathBuf,
    /// What was measured at the end of each stage, also of those run by earlier processes.
    pub evaluations: Vec<(String, Evaluation)>,
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
    let began = Instant::now();
    let dir = &options.dir;
    let folder = RunFolder::enter(dir)?;
    let begun = match start::begin(recipe, options, observe)? {
        ControlFlow::Break(finished) => {
            // A process that ended behind its last word had not come to the hashes.
            if !dir.join(lacuna_files::MANIFEST).exists() {
                seal(&folder, observe);
            }
            return Ok(finished);
        }
        ControlFlow::Continue(begun) => begun,
    };
    let start::Start { chosen, place, mut record, kept, changed } = begun;
    let newest = chosen.as_ref().map(|chosen| chosen.path.clone());
    let data = RunData::open(recipe)?;
    let hashes = record::hashes(recipe, &data)?;
    record.check_hashes(&hashes, dir)?;
    folder.open()?;

    let model = build_model(recipe, &data, newest.as_deref(), &options.device)?;
    let parameters =
        model.parameters()?.iter().map(|(_, var)| Parameter::new(var.clone())).collect();
    let mut optimizer = AdamW::new(parameters, adamw_config(recipe))?;
    let mut progress = match &newest {
        Some(newest) => checkpoint::restore(newest, &model, &mut optimizer)?,
        None => Progress::default(),
    };
    // A finished stage that is given more steps goes on.
    (progress.stage, progress.stage_step) = (place.stage, place.stage_step);

    record.recipe = kept.fingerprint();
    (record.seed, record.hashes) = (recipe.seed, hashes);
    record.open(&options.surroundings, progress.step);
    if changed {
        write(&dir.join("recipe.toml"), &kept.to_toml())?;
    }
    write(&dir.join("run.json"), &record.to_json())?;
    let results = Results::open(dir, &progress);
    results.keep(observe);
    let (metrics, mut notices) = MetricsWriter::open(&dir.join("metrics.jsonl"), progress.step);
    if let Some(chosen) = chosen {
        notices.extend(chosen.abandon_newer(dir)?);
        notices.splice(..0, chosen.notices);
    }
    notices.into_iter().for_each(|notice| observe(Event::Notice(notice)));
    observe(Event::Ready { data: &data, model: &model, step: progress.step });
    let (saved, unproven) = (began, newest.clone());
    let mut run = Run {
        recipe,
        kept: kept.to_toml(),
        options,
        data,
        model,
        optimizer,
        progress,
        metrics,
        results,
        record,
        began,
        saved,
        unproven,
    };
    let outcome = run.stages(newest, observe)?;
    seal(&folder, observe);
    Ok(outcome)
}

fn seal(folder: &RunFolder, observe: &mut dyn FnMut(Event<'_>)) {
    if let Err(reason) = folder.seal() {
        observe(Event::Notice(format!("the run's files have no hashes: {reason}")));
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    lacuna_files::write_file(path, text.as_bytes())
        .map_err(|error| TrainError::File { path: path.to_owned(), reason: error.to_string() })
}

struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a RunOptions<'a>,
    data: RunData,
    model: Transformer,
    optimizer: AdamW,
    progress: Progress,
    metrics: MetricsWriter,
    results: Results,
    record: Record,
    /// `recipe.toml` as it stands.
    kept: String,
    began: Instant,
    /// When the last checkpoint was written.
    saved: Instant,
    /// The checkpoint that the next step is taken from.
    unproven: Option<PathBuf>,
}

impl Run<'_> {
    fn stages(
        &mut self,
        newest: Option<PathBuf>,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let dir = &self.options.dir;
        let mut model = newest.unwrap_or_else(|| dir.join("checkpoints"));
        // A process that ended while it measured had saved the stage before.
        if let Some(i) = self.progress.stage.checked_sub(1)
            && self.progress.stage_step == 0
            && !self.results.has(i)
        {
            self.enter(&self.recipe.stage[i])?;
            self.measure(i, observe)?;
        }
        for (i, stage) in self.recipe.stage.iter().enumerate().skip(self.progress.stage) {
            self.progress.stage = i;
            self.enter(stage)?;
            let mut stopped = self.stopped();
            let objective = self.data.objective(self.recipe, stage)?;
            while self.progress.stage_step < stage.steps && !stopped {
                let metrics = self.step(stage, &objective, observe)?;
                observe(Event::Step { metrics: &metrics, total_steps: self.recipe.total_steps() });
                stopped = self.stopped();
                if (stopped || self.is_due(stage)) && self.progress.stage_step < stage.steps {
                    model = self.checkpoint(observe)?;
                }
            }
            if self.progress.stage_step < stage.steps {
                return self.interrupted(model, observe);
            }
            (self.progress.stage, self.progress.stage_step) = (i + 1, 0);
            model = self.checkpoint(observe)?;
            // What is not measured now is measured when the run goes on.
            if stopped {
                return self.interrupted(model, observe);
            }
            self.measure(i, observe)?;
            if self.stopped() && i + 1 < self.recipe.stage.len() {
                return self.interrupted(model, observe);
            }
        }
        let target = dir.join("final");
        for kept in checkpoint::save_final(&target, &self.model, self.data.side_files())? {
            let notice = format!("{}: what stood there is kept under this name", kept.display());
            observe(Event::Notice(notice));
        }
        self.draw(observe);
        self.note(Some("finished"))?;
        let evaluations = self.results.evaluations();
        Ok(Outcome { interrupted: false, finished_before: false, model: target, evaluations })
    }

    /// The model is what the stage makes of it.
    fn enter(&mut self, stage: &Stage) -> Result<()> {
        self.model.set_mode(self.data.mode(stage)?);
        self.model.set_predicts(stage.predicts());
        Ok(())
    }

    fn measure(&mut self, index: usize, observe: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let stage = &self.recipe.stage[index];
        let evaluation =
            evaluate(self.recipe, stage, &self.data, &self.model, &mut |done, all| {
                observe(Event::Evaluating(done, all));
            })?;
        let step = self.progress.step;
        let line = self.results.add((index, &stage.name), step, evaluation.as_ref());
        self.results.keep(observe);
        if let Some(notice) = self.metrics.append(&line) {
            observe(Event::Notice(notice));
        }
        observe(Event::StageEnd { stage, evaluation: evaluation.as_ref() });
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }

    fn interrupted(
        &mut self,
        model: PathBuf,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        self.note(Some("stopped"))?;
        self.draw(observe);
        let evaluations = self.results.evaluations();
        Ok(Outcome { interrupted: true, finished_before: false, model, evaluations })
    }

    /// Whether a checkpoint is due, by steps or by the clock. When it is written changes no step.
    fn is_due(&self, stage: &Stage) -> bool {
        let by_steps = stage.checkpoint_every > 0
            && self.progress.stage_step.is_multiple_of(stage.checkpoint_every);
        let minutes = stage.checkpoint_minutes;
        by_steps || (minutes > 0.0 && self.saved.elapsed().as_secs_f64() >= minutes * 60.0)
    }

    fn step(
        &mut self,
        stage: &Stage,
        objective: &StageObjective,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<StepMetrics> {
        let began = Instant::now();
        let seed = self.recipe.seed;
        let windows = self.take_windows(stage, objective.rows_per_window())?;
        let examples =
            objective.examples(&windows, seed, self.progress.step, self.progress.stage_step)?;
        let lr = stage.learning_rate().at(self.progress.stage_step, stage.steps);
        let micro = stage.micro_batch_size.unwrap_or(stage.batch_size);
        let outcome = step(&self.model, objective, &mut self.optimizer, &examples, micro, lr)
            .map_err(|error| self.diverged(error))?;
        let window_tokens: u64 = windows.iter().map(|w| w.tokens.len() as u64).sum();
        self.progress.step += 1;
        self.progress.stage_step += 1;
        self.progress.tokens += window_tokens;
        let every = stage.autoregressive_loss_every;
        let autoregressive_loss = match objective.corruption.is_some() && every > 0 {
            true if self.progress.stage_step.is_multiple_of(every) => {
                Some(next_token_loss(&self.model, &windows, self.recipe.data.document_mask)?)
            }
            _ => None,
        };
        let (mask_rate, diffusion) =
            objective.telemetry(&examples, &outcome.nll, self.progress.stage_step - 1);
        let nll_sum = outcome.nll.iter().fold(0.0, |sum, v| sum + f64::from(*v));
        let metrics = StepMetrics {
            step: self.progress.step,
            stage: stage.name.clone(),
            loss: outcome.loss,
            loss_unweighted: nll_sum / outcome.nll.len().max(1) as f64,
            supervised: outcome.nll.len() as u64,
            grad_norm: outcome.grad_norm,
            lr,
            mask_rate,
            tokens: self.progress.tokens,
            tokens_per_second: window_tokens as f64 / began.elapsed().as_secs_f64().max(1e-9),
            autoregressive_loss,
            diffusion,
        };
        if let Some(notice) = self.metrics.write(&metrics) {
            observe(Event::Notice(notice));
        }
        if let Some(checkpoint) = self.unproven.take() {
            let vocab_size = self.model.config().vocab_size;
            checkpoint::kept::prove(&checkpoint, metrics.loss_unweighted, vocab_size);
            self.prune(observe);
        }
        Ok(metrics)
    }

    /// Names the checkpoint from before the loss went wrong.
    fn diverged(&self, error: TrainError) -> TrainError {
        let TrainError::Diverged { what, value, .. } = error else { return error };
        let Progress { step, stage, .. } = self.progress;
        let advice = Divergence::record(&self.options.dir, step, what, value, stage);
        TrainError::Diverged { what, value, advice }
    }

    /// The step's windows, each repeated `times` times (complementary pairs see the same text twice).
    fn take_windows(&mut self, stage: &Stage, times: usize) -> Result<Vec<Window>> {
        let (batches, mut cursor) = self.batches(stage.data)?;
        let count =
            NonZeroUsize::new(stage.batch_size / times).expect("validated: at least one window");
        let rows = batches.take(&mut cursor, count)?;
        *self.cursor_mut(stage.data) = cursor;
        Ok(rows.into_iter().flat_map(|row| std::iter::repeat_n(row.window, times)).collect())
    }

    fn batches(&self, data: StageData) -> Result<(&Batches, Cursor)> {
        match (data, &self.data.sft) {
            (StageData::Corpus, _) => Ok((&self.data.train, self.progress.corpus)),
            (StageData::Sft, Some(sft)) => Ok((sft, self.progress.sft)),
            (StageData::Sft, None) => Err(TrainError::Run {
                path: self.options.dir.clone(),
                reason: "an sft stage without samples".into(),
            }),
        }
    }

    fn cursor_mut(&mut self, data: StageData) -> &mut Cursor {
        match data {
            StageData::Corpus => &mut self.progress.corpus,
            StageData::Sft => &mut self.progress.sft,
        }
    }

    fn checkpoint(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<PathBuf> {
        let dir = self.options.dir.join("checkpoints");
        // The checkpoint says by itself what it is of.
        self.note(None)?;
        let mut side = self.data.side_files().clone();
        side.insert("recipe.toml", self.kept.as_str());
        side.insert("run.json", self.record.to_json());
        self.metrics.sync();
        let saved = checkpoint::save(&dir, &self.model, &self.optimizer, &self.progress, &side)?;
        self.saved = Instant::now();
        observe(Event::Checkpoint(&saved));
        self.unproven = Some(saved.clone());
        self.prune(observe);
        Ok(saved)
    }

    /// Brings `run.json` up to date.
    fn note(&mut self, end: Option<&str>) -> Result<()> {
        self.record.update(&self.options.surroundings, self.began, self.progress.step, end);
        write(&self.options.dir.join("run.json"), &self.record.to_json())
    }

    /// Removes old checkpoints; one that can't be removed is in nobody's way but the disk's.
    fn prune(&self, observe: &mut dyn FnMut(Event<'_>)) {
        let dir = self.options.dir.join("checkpoints");
        if let Err(reason) = checkpoint::kept::prune(&dir, self.recipe.keep_checkpoints) {
            observe(Event::Notice(reason.to_string()));
        }
    }

    fn draw(&self, observe: &mut dyn FnMut(Event<'_>)) {
        let drawn = read_metrics(&self.options.dir.join("metrics.jsonl"))
            .and_then(|metrics| plot::draw(&self.options.dir, &metrics, &self.results.points()));
        if let Err(reason) = drawn {
            observe(Event::Notice(format!("no plots: {reason}")));
        }
    }
}

fn adamw_config(recipe: &Recipe) -> AdamWConfig {
    let o = &recipe.optimizer;
    AdamWConfig {
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.epsilon,
        weight_decay: o.weight_decay,
        clip_norm: Some(o.clip),
    }
}
