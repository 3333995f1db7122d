//! Settles where a run starts: anew, or from a checkpoint with the recipe that it began with.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::keeper::Entered;
use super::{Event, Outcome, RunOptions};
use crate::checkpoint::kept::Chosen;
use crate::checkpoint::{self, Progress};
use crate::error::{Result, TrainError};
use crate::recipe::Recipe;
use crate::recipe::keys::{self, Change, Ruling};
use crate::record::results::Results;
use crate::record::{AcceptedChange, Record};
use crate::run_folder::RunFolder;
use lacuna_files::{FileHash, Manifest};

/// The start of a run: its place, and its record and recipe as they were when it began.
pub(super) struct Start {
    /// The checkpoint that it goes on from; `None` if it starts from the beginning.
    pub(super) chosen: Option<Chosen>,
    pub(super) place: Progress,
    pub(super) record: Record,
    /// The recipe as `recipe.toml` has it from here on.
    pub(super) kept: Recipe,
    /// True if that file has to be written.
    pub(super) changed: bool,
}

/// Enters the run's folder and settles where the run starts: the checkpoint, if there is one, and the place in the
/// stages. `entered` gets all that the first rank writes with from then on. Breaks with the outcome if the run was
/// finished before.
pub(super) fn enter(
    recipe: &Recipe,
    options: &RunOptions<'_>,
    entered: &mut Option<Entered>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<ControlFlow<Outcome, (Option<PathBuf>, Progress)>> {
    let began = Instant::now();
    let folder = RunFolder::enter(&options.dir)?;
    Ok(match begin(recipe, options, observe)? {
        ControlFlow::Break(finished) => {
            // A process that ended behind its last word had not come to the hashes.
            if !options.dir.join(lacuna_files::MANIFEST).exists() {
                folder.seal(observe);
            }
            ControlFlow::Break(finished)
        }
        ControlFlow::Continue(start) => {
            let newest = start.chosen.as_ref().map(|chosen| chosen.path.clone());
            let place = start.place.clone();
            *entered = Some(Entered { began, folder, start });
            ControlFlow::Continue((newest, place))
        }
    })
}

/// Settles the start of a run; breaks with the outcome if the run was finished before.
fn begin(
    recipe: &Recipe,
    options: &RunOptions<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<ControlFlow<Outcome, Start>> {
    let dir = &options.dir;
    let Some(chosen) = choose(dir, options)? else {
        if options.resume {
            let shown = dir.display();
            let notice = format!("nothing is saved in {shown}: starting from the beginning");
            observe(Event::Notice(notice));
        }
        return Ok(ControlFlow::Continue(Start {
            chosen: None,
            place: Progress::default(),
            record: Record::default(),
            kept: recipe.clone(),
            changed: true,
        }));
    };
    let mut place = checkpoint::read_progress(&chosen.path)?;
    let begun = Begun::read(dir, &chosen.path)?;
    begun.notice.iter().for_each(|notice| observe(Event::Notice(notice.clone())));
    let has_last = place.stage >= begun.recipe.stage.len();
    let settled = settle(&begun, recipe, &mut place, options.accept_changes, dir)?;
    let mut record = begun.record;
    let recorded = dir.join("run.json").exists();
    let whole = dir.join("final").exists() && (record.finished || !recorded);
    if place.stage >= recipe.stage.len() && whole {
        let evaluations = Results::open(dir, &place, false).evaluations();
        let model = dir.join("final");
        let outcome = Outcome { interrupted: false, finished_before: true, model, evaluations };
        return Ok(ControlFlow::Break(outcome));
    }
    // The last checkpoint may have found no room where the model did: there is nothing to train, then.
    let changes_steps = settled.changes.iter().any(|change| change.ruling == Ruling::Insisted);
    let untouched = options.resume_step.is_none() && !changes_steps;
    if recorded && whole && !has_last && is_intact(&dir.join("final")) {
        let (step, steps) = (place.step, recipe.total_steps());
        let last = checkpoint::newest(&dir.join("checkpoints"))?;
        let last = last.filter(|path| path.ends_with(format!("step-{steps}")));
        let fate = match (last, options.resume_step) {
            (_, Some(_)) => "you asked for an earlier one",
            (Some(_), _) => "the last one was cut short",
            (None, _) => "the last one was not saved",
        };
        if untouched {
            observe(Event::Notice(format!(
                "the run was finished, but {fate}, and the newest checkpoint is of step {step} of {steps}; to have it, take the \
                 last steps again with --resume-step {step}"
            )));
            let evaluations = Results::open(dir, &place, false).evaluations();
            let model = dir.join("final");
            let outcome = Outcome { interrupted: false, finished_before: true, model, evaluations };
            return Ok(ControlFlow::Break(outcome));
        }
        observe(Event::Notice(format!(
            "the run was finished, but {fate}; the steps behind step {step} of {steps} are taken again"
        )));
    }
    let now = (options.surroundings.now)();
    for change in settled.accepted(place.step, &now) {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
        let (old, new) = (show(&change.old), show(&change.new));
        observe(Event::Notice(format!("{}: {old} → {new} from here on", change.key)));
        record.changes.push(change);
    }
    let changed = settled.is_new() || !recorded;
    let kept = settled.recipe;
    Ok(ControlFlow::Continue(Start { chosen: Some(chosen), place, record, kept, changed }))
}

/// Tells whether a model has every file as its manifest has it.
fn is_intact(model: &Path) -> bool {
    let manifest = Manifest::read(model).ok().flatten();
    manifest.is_some_and(|manifest| manifest.verify(model).is_ok())
}

/// Checks that the directory may be used, and finds the checkpoint to go on from; `None` if the run starts from the
/// beginning.
fn choose(dir: &Path, options: &RunOptions<'_>) -> Result<Option<Chosen>> {
    let refuse =
        |reason: &str| Err(TrainError::Run { path: dir.to_owned(), reason: reason.into() });
    let any = checkpoint::newest(&dir.join("checkpoints"))?.is_some();
    if (options.resume && any) || options.resume_step.is_some() {
        return checkpoint::kept::choose(dir, options.resume_step);
    }
    if any {
        return refuse(
            "already holds a run; --resume goes on with it, --out DIR starts another elsewhere",
        );
    }
    if dir.join("final").exists() {
        return refuse(
            "holds a finished model and no checkpoint to go on from; --out DIR starts another run elsewhere",
        );
    }
    if !options.resume && dir.join("metrics.jsonl").exists() {
        return refuse(
            "already holds a run that ended before it saved anything; --resume starts it again from its beginning, \
             --out DIR starts another elsewhere",
        );
    }
    // A file of this name that no run has written is somebody's own, and this run would write over it.
    let theirs =
        ["recipe.toml", "results.json", "report.html", "loss.png", "loss.svg", "manifest.json"];
    let is_run = ["run.json", "metrics.jsonl"].iter().any(|name| dir.join(name).exists());
    if let Some(name) = theirs.into_iter().find(|name| !is_run && dir.join(name).exists()) {
        return refuse(&format!(
            "is no run's and holds {name}, which a run would write over; --out DIR starts it elsewhere"
        ));
    }
    Ok(None)
}

/// The recipe and the record of a run as it began.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) recipe: Recipe,
    pub(super) record: Record,
    /// A sentence about a recipe that is not the recorded one.
    pub(super) notice: Option<String>,
}

impl Begun {
    /// Reads both from the run's folder; if its `recipe.toml` is not the one that was recorded (somebody edited it, or a
    /// bit of it changed), the recipe from the checkpoint.
    ///
    /// # Errors
    /// Errors if the record or the checkpoint's recipe is damaged.
    pub(super) fn read(dir: &Path, newest: &Path) -> Result<Self> {
        let load = |folder: &Path| Recipe::load_recorded(&folder.join("recipe.toml"), &[]);
        let record = match Record::read(dir)? {
            Some(record) => Some(record),
            None => Record::read(newest)?,
        };
        let Some(record) = record else {
            // This run is from before records were kept.
            return Ok(Self { recipe: load(dir)?, record: Record::default(), notice: None });
        };
        let own = dir.join("recipe.toml");
        // A file that is not there, as on a disk that was full, is as good as another one.
        if FileHash::of(&own).is_ok_and(|file| file.blake3 == record.recipe) {
            return Ok(Self { recipe: load(dir)?, record, notice: None });
        }
        let notice = own.exists().then(|| {
            format!(
                "{}: is not the recipe that run.json has the hash of: it was edited, or it is damaged; what the run \
                 began with is read from {}",
                own.display(),
                newest.display()
            )
        });
        Ok(Self { recipe: load(newest)?, record, notice })
    }
}

/// The recipe that a run goes on with.
#[derive(Debug)]
pub(super) struct Settled {
    /// The recipe as the folder keeps it.
    pub(super) recipe: Recipe,
    pub(super) changes: Vec<Change>,
}

/// Compares the recipe with the one that the run began with, and moves its place back into a stage that is extended.
///
/// # Errors
/// Names every key that differs and can't, or can't unasked.
pub(super) fn settle(
    begun: &Begun,
    now: &Recipe,
    at: &mut Progress,
    accept: bool,
    dir: &Path,
) -> Result<Settled> {
    let mut changes = keys::compare(&begun.recipe, now, at);
    // The changes that a diverged run is advised to make need no flag besides.
    let remedy = |key: &str| key == "optimizer.clip" || key.ends_with(".learning_rate");
    if dir.join("diverged.json").exists() {
        let advised = |c: &&mut Change| c.ruling == Ruling::Insisted && remedy(&c.key);
        changes.iter_mut().filter(advised).for_each(|change| change.ruling = Ruling::Obeyed);
    }
    let refused = changes.iter().any(|c| matches!(c.ruling, Ruling::Refused(_)));
    let insisted = changes.iter().any(|c| c.ruling == Ruling::Insisted);
    if refused || (insisted && !accept) {
        let mut reason = String::from("the recipe is not the one that the run began with:");
        for change in &changes {
            match &change.ruling {
                Ruling::Refused(why) => reason.push_str(&format!("\n  {change}: refused, {why}")),
                Ruling::Insisted => {
                    reason.push_str(&format!("\n  {change}: holds with --accept-changes"));
                }
                Ruling::Obeyed | Ruling::Kept => {}
            }
        }
        reason.push_str(if refused {
            "\nput back what is refused, or begin another run with --out DIR"
        } else {
            "\nput them back, or go on with the new values with --accept-changes, which run.json records"
        });
        return Err(TrainError::Run { path: dir.to_owned(), reason });
    }
    if let Some(stage) = keys::extended(&begun.recipe, now, at) {
        (at.stage, at.stage_step) = (stage, begun.recipe.stage[stage].steps);
    }
    Ok(Settled { recipe: keys::recorded(now, &changes), changes })
}

impl Settled {
    /// Tells whether the folder's record has to say something new.
    pub(super) fn is_new(&self) -> bool {
        self.changes.iter().any(|change| change.ruling != Ruling::Kept)
    }

    /// The changes as the record keeps them.
    pub(super) fn accepted(&self, step: u64, time: &str) -> Vec<AcceptedChange> {
        let taken = self.changes.iter().filter(|change| change.ruling != Ruling::Kept);
        taken
            .map(|change| AcceptedChange {
                step,
                time: time.to_owned(),
                key: change.key.clone(),
                old: change.old.as_ref().map(ToString::to_string),
                new: change.new.as_ref().map(ToString::to_string),
            })
            .collect()
    }
}
