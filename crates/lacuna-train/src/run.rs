//! A run from recipe to checkpoint: stages, resumption, metrics, evaluation.

use candle_core::Device;
use lacuna_data::{Batches, Cursor, Window};
use lacuna_kernels::{AdamW, AdamWConfig, Parameter};
use lacuna_model::Transformer;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::checkpoint::{self, Progress};
use crate::error::{IoContext, Result, TrainError};
use crate::evaluation::{Evaluation, evaluate};
use crate::metrics::{MetricsWriter, StepMetrics, read_metrics};
use crate::objective::StageObjective;
use crate::plot;
use crate::recipe::{Recipe, Stage, StageData};
use crate::setup::{RunData, build_model};
use crate::step::{learning_rate, step};

/// How a recipe is run.
#[derive(Debug)]
pub struct RunOptions<'a> {
    /// The run's directory.
    pub dir: PathBuf,
    /// Go on from the newest complete checkpoint in it.
    pub resume: bool,
    /// Where tensors live.
    pub device: Device,
    /// Set it (Ctrl-C) and the run writes a checkpoint after the current step and ends.
    pub stop: &'a AtomicBool,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
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
    /// Whether it was stopped before its last step.
    pub interrupted: bool,
    /// The finished model's folder, or the newest checkpoint's.
    pub model: PathBuf,
    /// What was measured at the end of each stage run now.
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
    let dir = &options.dir;
    let newest = start_directory(dir, options.resume)?;
    let data = RunData::open(recipe)?;
    std::fs::create_dir_all(dir).at("creating", dir)?;
    let path = dir.join("recipe.toml");
    lacuna_data::write_atomic(&path, recipe.to_toml().as_bytes())?;

    let model = build_model(recipe, &data, newest.as_deref(), &options.device)?;
    let parameters =
        model.parameters().iter().map(|(_, var)| Parameter::new(var.clone())).collect();
    let mut optimizer = AdamW::new(parameters, adamw_config(recipe))?;
    let progress = match &newest {
        Some(newest) => checkpoint::restore(newest, &model, &mut optimizer)?,
        None => Progress::default(),
    };
    let metrics = MetricsWriter::open(&dir.join("metrics.jsonl"), progress.step)?;
    observe(Event::Ready { data: &data, model: &model, step: progress.step });
    let mut run = Run { recipe, options, data, model, optimizer, progress, metrics };
    run.stages(newest, observe)
}

struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a RunOptions<'a>,
    data: RunData,
    model: Transformer,
    optimizer: AdamW,
    progress: Progress,
    metrics: MetricsWriter,
}

impl Run<'_> {
    fn stages(
        &mut self,
        newest: Option<PathBuf>,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let dir = &self.options.dir;
        let mut model = newest.unwrap_or_else(|| dir.join("checkpoints"));
        let mut evaluations = Vec::new();
        for (i, stage) in self.recipe.stage.iter().enumerate().skip(self.progress.stage) {
            self.progress.stage = i;
            self.model.set_mode(self.data.mode(stage)?);
            self.model.set_logit_shift(stage.logit_shift);
            let mut stopped = false;
            let objective = StageObjective::new(stage, self.recipe, &self.data)?;
            while self.progress.stage_step < stage.steps && !stopped {
                let metrics = self.step(stage, &objective)?;
                observe(Event::Step { metrics: &metrics, total_steps: self.recipe.total_steps() });
                stopped = self.options.stop.load(Ordering::Relaxed);
                let due = stage.checkpoint_every > 0
                    && self.progress.stage_step.is_multiple_of(stage.checkpoint_every);
                if (due || stopped) && self.progress.stage_step < stage.steps {
                    model = self.checkpoint()?;
                    observe(Event::Checkpoint(&model));
                }
            }
            if self.progress.stage_step < stage.steps {
                self.draw()?;
                return Ok(Outcome { interrupted: true, model, evaluations });
            }
            (self.progress.stage, self.progress.stage_step) = (i + 1, 0);
            model = self.checkpoint()?;
            observe(Event::Checkpoint(&model));
            let evaluation =
                evaluate(self.recipe, stage, &self.data, &self.model, &mut |done, all| {
                    observe(Event::Evaluating(done, all));
                })?;
            observe(Event::StageEnd { stage, evaluation: evaluation.as_ref() });
            evaluations.extend(evaluation.map(|e| (stage.name.clone(), e)));
            if stopped && i + 1 < self.recipe.stage.len() {
                self.draw()?;
                return Ok(Outcome { interrupted: true, model, evaluations });
            }
        }
        let target = dir.join("final");
        checkpoint::save_final(&target, &self.model, self.data.side_files())?;
        self.draw()?;
        Ok(Outcome { interrupted: false, model: target, evaluations })
    }

    fn step(&mut self, stage: &Stage, objective: &StageObjective) -> Result<StepMetrics> {
        let began = Instant::now();
        let seed = self.recipe.seed;
        let windows = self.take_windows(stage, objective.rows_per_window())?;
        let examples =
            objective.examples(&windows, seed, self.progress.step, self.progress.stage_step)?;
        let lr = learning_rate(
            self.progress.stage_step,
            stage.steps,
            stage.learning_rate,
            stage.learning_rate_warmup,
            stage.learning_rate_decay,
            stage.learning_rate_final,
        );
        let micro = stage.micro_batch_size.unwrap_or(stage.batch_size);
        let outcome = step(&self.model, objective, &mut self.optimizer, &examples, micro, lr)?;
        let window_tokens: u64 = windows.iter().map(|w| w.tokens.len() as u64).sum();
        self.progress.step += 1;
        self.progress.stage_step += 1;
        self.progress.tokens += window_tokens;
        let every = stage.autoregressive_loss_every;
        let autoregressive_loss = match objective.is_diffusion() && every > 0 {
            true if self.progress.stage_step.is_multiple_of(every) => {
                Some(crate::objective::next_token_loss(
                    &self.model,
                    &windows,
                    self.recipe.data.document_mask,
                )?)
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
            tokens_per_second: window_tokens as f64 / began.elapsed().as_secs_f64(),
            autoregressive_loss,
            diffusion,
        };
        self.metrics.write(&metrics)?;
        Ok(metrics)
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

    fn checkpoint(&self) -> Result<PathBuf> {
        let dir = self.options.dir.join("checkpoints");
        checkpoint::save(&dir, &self.model, &self.optimizer, &self.progress, self.data.side_files())
    }

    fn draw(&self) -> Result<()> {
        let metrics = read_metrics(&self.options.dir.join("metrics.jsonl"))?;
        plot::draw(&self.options.dir, &metrics)
    }
}

/// Checks that the directory may be used, and finds the checkpoint to go on from.
fn start_directory(dir: &Path, resume: bool) -> Result<Option<PathBuf>> {
    let newest = checkpoint::newest(&dir.join("checkpoints"))?;
    let refuse =
        |reason: &str| Err(TrainError::Run { path: dir.to_owned(), reason: reason.into() });
    match (resume, newest) {
        (true, Some(newest)) => Ok(Some(newest)),
        (true, None) => refuse("no complete checkpoint to resume from; start without --resume"),
        (false, _) if dir.join("metrics.jsonl").exists() => refuse(
            "already holds a run; --resume goes on with it, --out DIR starts another elsewhere",
        ),
        (false, _) => Ok(None),
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
