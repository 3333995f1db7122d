//! Keeps what a run leaves in its folder: checkpoints, metrics, scores and the record of how it came to be.
//!
//! The first rank alone has a keeper; to the others a run is steps and nothing else.

use lacuna_text::ModelFiles;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::start::Start;
use super::{Event, Outcome, RunOptions};
use crate::checkpoint::kept::{self, Divergence};
use crate::checkpoint::{self, Progress, State};
use crate::error::{Result, TrainError};
use crate::evaluation::Evaluation;
use crate::metrics::{MetricsWriter, StepMetrics};
use crate::recipe::{Recipe, Stage};
use crate::record::Record;
use crate::record::results::Results;
use crate::run_folder::RunFolder;
use crate::setup::RunData;

/// The function that hears a run's reports.
pub(super) type Observer<'a> = &'a mut dyn FnMut(Event<'_>);

/// A run's folder that was entered, and the run's start.
pub(super) struct Entered {
    pub(super) began: Instant,
    pub(super) folder: RunFolder,
    pub(super) start: Start,
}

/// A run's folder and all that is written into it.
pub(super) struct Keeper<'a> {
    options: &'a RunOptions<'a>,
    /// The number of newest checkpoints that stay.
    keep_checkpoints: usize,
    folder: RunFolder,
    record: Record,
    /// `recipe.toml` as it stands.
    recipe: String,
    metrics: MetricsWriter,
    results: Results,
    began: Instant,
    /// The time at which the last checkpoint was written.
    saved: Instant,
    /// The checkpoint that the next step is taken from, whose weights have not given a loss yet.
    unproven: Option<PathBuf>,
    /// The newest checkpoint; before the first, the folder for them.
    newest: PathBuf,
}

impl Entered {
    /// Refuses data that is not what the run began with. From here on the folder's files change.
    pub(super) fn check(&mut self, recipe: &Recipe, data: &RunData, dir: &Path) -> Result<()> {
        self.start.record.keep_hashes(crate::record::hashes(recipe, data)?, dir)?;
        self.folder.open()
    }

    /// Opens everything that is written, each file as it is at the run's place.
    pub(super) fn keeper<'a>(
        self,
        recipe: &Recipe,
        options: &'a RunOptions<'a>,
        progress: &Progress,
        observe: Observer<'_>,
    ) -> Result<Keeper<'a>> {
        let Self { began, folder, start: Start { chosen, mut record, kept, changed, .. } } = self;
        let dir = &options.dir;
        let unproven = chosen.as_ref().map(|chosen| chosen.path.clone());
        record.recipe = kept.fingerprint();
        record.seed = recipe.seed;
        record.open(&options.surroundings, progress.step);
        if changed {
            write(&dir.join("recipe.toml"), &kept.to_toml())?;
        }
        write(&dir.join("run.json"), &record.to_json())?;
        let results = Results::open(dir, progress);
        results.keep(observe);
        let (metrics, mut notices) = MetricsWriter::open(&dir.join("metrics.jsonl"), progress.step);
        if let Some(chosen) = chosen {
            notices.extend(chosen.abandon_newer(dir)?);
            notices.splice(..0, chosen.notices);
        }
        notices.into_iter().for_each(|notice| observe(Event::Notice(notice)));
        Ok(Keeper {
            options,
            keep_checkpoints: recipe.keep_checkpoints,
            folder,
            record,
            recipe: kept.to_toml(),
            metrics,
            results,
            began,
            saved: began,
            newest: unproven.clone().unwrap_or_else(|| dir.join("checkpoints")),
            unproven,
        })
    }
}

impl Keeper<'_> {
    /// Tells whether a checkpoint is due, by steps or by the clock. The time at which it is written changes no step.
    pub(super) fn is_due(&self, stage: &Stage, progress: &Progress) -> bool {
        let by_steps = stage.checkpoint_every > 0
            && progress.stage_step.is_multiple_of(stage.checkpoint_every);
        let minutes = stage.checkpoint_minutes;
        by_steps || (minutes > 0.0 && self.saved.elapsed().as_secs_f64() >= minutes * 60.0)
    }

    /// Writes a checkpoint, which says by itself what it is of.
    pub(super) fn checkpoint(
        &mut self,
        state: State<'_>,
        progress: &Progress,
        files: &ModelFiles,
        observe: Observer<'_>,
    ) -> Result<()> {
        let dir = self.options.dir.join("checkpoints");
        self.note(progress.step, None)?;
        let mut files = files.clone();
        files.insert("recipe.toml", self.recipe.as_str());
        files.insert("run.json", self.record.to_json());
        self.metrics.sync();
        self.newest = checkpoint::save(&dir, state, progress, &files)?;
        self.saved = Instant::now();
        observe(Event::Checkpoint(&self.newest));
        self.unproven = Some(self.newest.clone());
        self.prune(observe);
        Ok(())
    }

    /// Adds a step to the metrics. Its loss is the proof of the weights of the checkpoint before it.
    pub(super) fn step(&mut self, metrics: &StepMetrics, vocab_size: usize, observe: Observer<'_>) {
        if let Some(notice) = self.metrics.write(metrics) {
            observe(Event::Notice(notice));
        }
        if let Some(checkpoint) = self.unproven.take() {
            kept::prove(&checkpoint, metrics.loss_unweighted, vocab_size);
            self.prune(observe);
        }
    }

    /// Records that a step gave no number, and adds advice to the error: the checkpoint from before the loss went
    /// wrong.
    pub(super) fn diverged(&self, error: TrainError, at: &Progress) -> TrainError {
        let TrainError::Diverged { what, value, .. } = error else { return error };
        let advice = Divergence::record(&self.options.dir, at.step, what, value, at.stage);
        TrainError::Diverged { what, value, advice }
    }

    /// Tells whether a stage's scores are there.
    pub(super) fn has_scores(&self, stage: usize) -> bool {
        self.results.has(stage)
    }

    /// Adds a stage's scores.
    pub(super) fn scores(
        &mut self,
        (index, stage): (usize, &Stage),
        step: u64,
        evaluation: Option<&Evaluation>,
        observe: Observer<'_>,
    ) {
        let line = self.results.add((index, &stage.name), step, evaluation);
        self.results.keep(observe);
        if let Some(notice) = self.metrics.append(&line) {
            observe(Event::Notice(notice));
        }
        observe(Event::StageEnd { stage, evaluation });
    }

    /// Adds the scores from before the first step.
    pub(super) fn start_scores(&mut self, evaluation: &Evaluation, observe: Observer<'_>) {
        let line = self.results.add_start(evaluation);
        self.results.keep(observe);
        if let Some(notice) = self.metrics.append(&line) {
            observe(Event::Notice(notice));
        }
        observe(Event::Start { evaluation });
    }

    /// Writes the finished model: in `final`, beside it the mean of its weights and its adapters, if there are some.
    pub(super) fn finish(
        &mut self,
        state: State<'_>,
        files: &ModelFiles,
        step: u64,
        observe: Observer<'_>,
    ) -> Result<Outcome> {
        let State { model, form, gathered } = state;
        let target = self.options.dir.join("final");
        let mut renamed = checkpoint::save_final(&target, model, form, files)?;
        if let Some(means) = gathered.means {
            let target = self.options.dir.join("final-ema");
            let averaged = model.with_trained(&means)?;
            renamed.extend(checkpoint::save_final(&target, &averaged, form, files)?);
        }
        if let Some(adapter) = &form.adapter {
            let target = self.options.dir.join("final-adapter");
            renamed.extend(checkpoint::save_final_adapter(&target, model, adapter, files)?);
        }
        for kept in renamed {
            let notice = format!("{}: what stood there is kept under this name", kept.display());
            observe(Event::Notice(notice));
        }
        self.tell(observe);
        self.note(step, Some("finished"))?;
        Ok(self.outcome(false, target))
    }

    /// Records that the run was stopped.
    pub(super) fn interrupt(&mut self, step: u64, observe: Observer<'_>) -> Result<Outcome> {
        self.note(step, Some("stopped"))?;
        self.tell(observe);
        Ok(self.outcome(true, self.newest.clone()))
    }

    /// Writes the hashes of the folder's files.
    pub(super) fn seal(&self, observe: Observer<'_>) {
        self.folder.seal(observe);
    }

    /// Tells that the run's numbers stand: what is drawn of them now is sealed with them.
    fn tell(&self, observe: Observer<'_>) {
        let held_out = self.results.points();
        observe(Event::Recorded { dir: &self.options.dir, held_out: &held_out });
    }

    fn outcome(&self, interrupted: bool, model: PathBuf) -> Outcome {
        let evaluations = self.results.evaluations();
        Outcome { interrupted, finished_before: false, model, evaluations }
    }

    /// Brings `run.json` up to date.
    fn note(&mut self, step: u64, end: Option<&str>) -> Result<()> {
        self.record.update(&self.options.surroundings, self.began, step, end);
        write(&self.options.dir.join("run.json"), &self.record.to_json())
    }

    /// Removes old checkpoints; one that can't be removed is in nobody's way but the disk's.
    fn prune(&self, observe: Observer<'_>) {
        let dir = self.options.dir.join("checkpoints");
        if let Err(reason) = kept::prune(&dir, self.keep_checkpoints) {
            observe(Event::Notice(reason.to_string()));
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    lacuna_files::write_file(path, text.as_bytes())
        .map_err(|error| TrainError::File { path: path.to_owned(), reason: error.to_string() })
}
