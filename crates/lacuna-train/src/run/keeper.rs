//! Keeps what a run leaves in its folder: checkpoints, metrics, scores and the record of how it came to be.
//!
//! The first rank alone has a keeper; to the others a run is steps and nothing else.

use lacuna_text::ModelFiles;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::blame::Place;
use super::start::Start;
use super::{Event, Outcome, RunOptions};
use crate::checkpoint::kept::{self, Divergence, Found};
use crate::checkpoint::{self, Best, Progress, State};
use crate::error::{Result, TrainError};
use crate::evaluation::Evaluation;
use crate::metrics::{MetricsWriter, StepMetrics};
use crate::recipe::{Recipe, Stage};
use crate::record::Record;
use crate::record::results::{Results, scores_line};
use crate::run_folder::RunFolder;
use crate::samples::{Sample, SampleWriter};
use crate::setup::RunData;
use crate::tensorboard::EventFile;

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
    /// The texts that the model writes on the way, if the recipe asks for it.
    samples: Option<SampleWriter>,
    /// The numbers as TensorBoard reads them, if the recipe asks for it.
    events: Option<EventFile>,
    results: Results,
    began: Instant,
    /// The time at which the last checkpoint was written, or could not be.
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
        // A file that can't be written here stands in every checkpoint, and stops no run.
        let mut notices = Vec::new();
        // The record first: it says that the folder is a run's, whose files may be written over.
        notices.extend(write(&dir.join("run.json"), &record.to_json()));
        if changed {
            notices.extend(write(&dir.join("recipe.toml"), &kept.to_toml()));
        }
        let results = Results::open(dir, progress, recipe.evaluation.evaluate_every > 0);
        results.keep(observe);
        // The scores of this very step are there already, or they will come.
        let was_watched = progress.watched == progress.step;
        let with_scores = match progress.stage.checked_sub(1) {
            Some(ended) if progress.stage_step == 0 => results.has(ended),
            _ => was_watched,
        };
        let metrics = dir.join("metrics.jsonl");
        let (metrics, told) = MetricsWriter::open_at(&metrics, progress.step, with_scores);
        notices.extend(told);
        let mut samples = None;
        if recipe.evaluation.sample_every > 0 || dir.join("samples.jsonl").exists() {
            let before = progress.step - u64::from(!was_watched && progress.step > 0);
            let (writer, told) = SampleWriter::open(dir, before);
            notices.extend(told);
            samples = Some(writer);
        }
        let events = recipe
            .tensorboard
            .then(|| EventFile::new(dir, progress.step, options.surroundings.unix_seconds));
        if let Some(chosen) = chosen {
            notices.extend(chosen.abandon_newer(dir)?);
            notices.splice(..0, chosen.notices);
        }
        notices.into_iter().for_each(|notice| observe(Event::Notice(notice)));
        let keeper = Keeper {
            options,
            keep_checkpoints: recipe.keep_checkpoints,
            folder,
            record,
            recipe: kept.to_toml(),
            metrics,
            samples,
            events,
            results,
            began,
            saved: began,
            newest: unproven.clone().unwrap_or_else(|| dir.join("checkpoints")),
            unproven,
        };
        keeper.name_best(observe);
        Ok(keeper)
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
    ///
    /// # Errors
    /// Errors if the disk has no room for it, or refuses; those before it are as they were.
    pub(super) fn checkpoint(
        &mut self,
        state: State<'_>,
        progress: &Progress,
        files: &ModelFiles,
        observe: Observer<'_>,
    ) -> Result<()> {
        let dir = self.options.dir.join("checkpoints");
        self.saved = Instant::now();
        self.note(progress.step, None, observe);
        let mut files = files.clone();
        files.insert("recipe.toml", self.recipe.as_str());
        files.insert("run.json", self.record.to_json());
        checkpoint::room(&dir, &state, &files)?;
        self.metrics.sync();
        self.samples.iter_mut().for_each(SampleWriter::sync);
        let progress = Progress { best: self.results.best().cloned(), ..progress.clone() };
        self.newest = checkpoint::save(&dir, state, &progress, &files)?;
        observe(Event::Checkpoint(&self.newest));
        self.unproven = Some(self.newest.clone());
        self.name_best(observe);
        self.prune(observe);
        Ok(())
    }

    /// Adds scores that were taken on the way; tells whether the first of them is the best of its stage.
    pub(super) fn held_out(
        &mut self,
        (index, stage): (usize, &Stage),
        step: u64,
        evaluation: &Evaluation,
        observe: Observer<'_>,
    ) -> bool {
        let line = scores_line(step, &stage.name, Some(evaluation));
        self.log(&line, observe);
        self.tell_events(|events| events.scores(step, evaluation), observe);
        let first = evaluation.scores.first();
        let best = first.map(|(measure, score)| {
            let nats_per_token = score.nats_per_token();
            Best { step, stage: index, measure: *measure, nats_per_token }
        });
        let is_best = best.is_some_and(|best| self.results.rival(best));
        if is_best {
            self.results.keep(observe);
        }
        observe(Event::HeldOut { step, evaluation, is_best });
        is_best
    }

    /// Adds what the model wrote after a step.
    pub(super) fn samples(
        &mut self,
        (step, stage): (u64, &Stage),
        samples: &[Sample],
        observe: Observer<'_>,
    ) {
        let Some(writer) = self.samples.as_mut().filter(|_| !samples.is_empty()) else { return };
        for notice in writer.add(step, &stage.name, samples) {
            observe(Event::Notice(notice));
        }
    }

    /// Makes `checkpoints/best` lead to the checkpoint with the best score.
    fn name_best(&self, observe: Observer<'_>) {
        let dir = self.options.dir.join("checkpoints");
        let Some(best) = self.results.best() else {
            // The run went back to before its best; if the link can't be removed, it leads nowhere.
            let _ = lacuna_files::remove_dead_link(&dir.join("best"));
            return;
        };
        let name = format!("step-{}", best.step);
        let (from, at) = (dir.join(&name), dir.join("best"));
        if !from.is_dir() || lacuna_files::leads_to(&at, name.as_ref()) {
            return;
        }
        if let Err(reason) = lacuna_files::link_folder(name.as_ref(), &at) {
            let told = format!("{}: {reason}; the best checkpoint is {name}", at.display());
            observe(Event::Notice(told));
        }
    }

    fn log(&mut self, line: &impl serde::Serialize, observe: Observer<'_>) {
        if let Some(notice) = self.metrics.append(line) {
            observe(Event::Notice(notice));
        }
    }

    fn tell_events(
        &mut self,
        add: impl FnOnce(&mut EventFile) -> Option<String>,
        observe: Observer<'_>,
    ) {
        if let Some(notice) = self.events.as_mut().and_then(add) {
            observe(Event::Notice(notice));
        }
    }

    /// Adds a step to the metrics. Its loss is the proof of the weights of the checkpoint before it.
    pub(super) fn step(&mut self, metrics: &StepMetrics, vocab_size: usize, observe: Observer<'_>) {
        self.log(metrics, observe);
        self.tell_events(|events| events.step(metrics), observe);
        if let Some(checkpoint) = self.unproven.take() {
            kept::prove(&checkpoint, metrics.loss_unweighted, vocab_size);
            self.prune(observe);
        }
    }

    /// Records that a step gave no number, and where, and adds advice to the error: the checkpoint from before the loss
    /// went wrong.
    pub(super) fn diverged(&self, error: TrainError, at_fault: Place, at: &Progress) -> TrainError {
        let TrainError::Diverged { what, value, place, .. } = error else { return error };
        let found = Found { what, value, place: at_fault };
        let advice = Divergence::record(&self.options.dir, at.step, found, at.stage);
        TrainError::Diverged { what, value, place, advice }
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
        // The file of results says whether the line is there, so it comes second.
        self.log(&line, observe);
        self.metrics.sync();
        self.results.keep(observe);
        if let Some(evaluation) = evaluation {
            self.tell_events(|events| events.scores(step, evaluation), observe);
        }
        self.name_best(observe);
        observe(Event::StageEnd { stage, evaluation });
    }

    /// Adds the scores from before the first step.
    pub(super) fn start_scores(&mut self, evaluation: &Evaluation, observe: Observer<'_>) {
        let line = self.results.add_start(evaluation);
        self.results.keep(observe);
        self.log(&line, observe);
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
        self.note(step, Some("finished"), observe);
        Ok(self.outcome(false, target))
    }

    /// Records that the run was stopped.
    pub(super) fn interrupt(&mut self, step: u64, observe: Observer<'_>) -> Result<Outcome> {
        self.note(step, Some("stopped"), observe);
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

    /// Brings `run.json` up to date. If it can't be written, the user is told: each checkpoint has its own.
    fn note(&mut self, step: u64, end: Option<&str>, observe: Observer<'_>) {
        self.record.update(&self.options.surroundings, self.began, step, end);
        if let Some(notice) = write(&self.options.dir.join("run.json"), &self.record.to_json()) {
            observe(Event::Notice(notice));
        }
    }

    /// Removes old checkpoints; one that can't be removed is in nobody's way but the disk's.
    fn prune(&self, observe: Observer<'_>) {
        let dir = self.options.dir.join("checkpoints");
        if let Err(reason) =
            kept::prune(&dir, self.keep_checkpoints, self.results.best().map(|best| best.step))
        {
            observe(Event::Notice(reason.to_string()));
        }
    }
}

/// Writes one of the files that a run can do without; a sentence for the user if that fails.
fn write(path: &Path, text: &str) -> Option<String> {
    let reason = lacuna_files::write_file(path, text.as_bytes()).err()?;
    Some(format!("{reason}; the run goes on, and each checkpoint has one of its own"))
}
