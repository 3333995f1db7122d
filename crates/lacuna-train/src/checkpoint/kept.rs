//! Decides which of a run's checkpoints it goes on from, and which it may remove.

use lacuna_files::{Damage, Error as FileError, MANIFEST, Manifest};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result, TrainError};
use crate::run::blame::Place;

/// The file in which the first step after a checkpoint records the loss that its weights gave.
pub(super) const PROOF: &str = "proof.json";
/// The file in a run's folder that records a divergence.
const DIVERGED: &str = "diverged.json";
/// The ending of a checkpoint's name after the run went back to before it.
const ABANDONED: &str = ".abandoned";
/// The most bytes that a small file of ours may have.
const MOST_BYTES: u64 = 1 << 20;

/// The checkpoints in a run's folder of them, newest first.
///
/// # Errors
/// Errors if the folder can't be read.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    named(dir, "")
}

fn named(dir: &Path, end: &str) -> Result<Vec<(u64, PathBuf)>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for path in lacuna_files::list(dir).at("reading", dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix("step-")?.strip_suffix(end));
        found.extend(step.and_then(|step| step.parse().ok()).map(|step: u64| (step, path)));
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found)
}

fn names(checkpoints: &[(u64, PathBuf)]) -> String {
    let names: Vec<_> = checkpoints.iter().map(|(step, _)| format!("step-{step}")).collect();
    names.join(", ")
}

/// The loss of the first step that was taken from a checkpoint, which proves that its weights give one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Proof {
    /// Mean cross-entropy, in nats.
    loss: f64,
    /// The cross-entropy of a model that finds every token as likely as any other.
    guess: f64,
}

impl Proof {
    fn of(checkpoint: &Path) -> Option<Self> {
        let text = lacuna_files::read_text(&checkpoint.join(PROOF), MOST_BYTES).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// False if the weights are more than twice as surprised as one who knows nothing: they are ruined, though their
    /// loss is still a number.
    fn is_sane(self) -> bool {
        self.loss <= 2.0 * self.guess
    }
}

/// Records that a checkpoint's weights gave a finite loss.
pub(crate) fn prove(checkpoint: &Path, loss: f64, vocab_size: usize) {
    let proof = Proof { loss, guess: (vocab_size as f64).ln() };
    let text = serde_json::to_string(&proof).expect("numbers serialize");
    // This is best effort: without the file, this checkpoint is not the one that a diverged run goes back to.
    let _ = lacuna_files::write_file(&checkpoint.join(PROOF), text.as_bytes());
}

/// A step whose loss or gradient was no number, with the checkpoint to go back to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Divergence {
    /// The step that was not taken.
    pub(crate) step: u64,
    /// `loss` or `gradient norm`.
    pub(crate) what: String,
    /// Its value.
    pub(crate) value: String,
    /// The newest checkpoint from before the loss went wrong.
    pub(crate) good: Option<u64>,
    /// The stage, the seed, the place in the data and the rows at fault, for whoever reads the file: it is not read back.
    #[serde(skip_deserializing)]
    pub(crate) at: Place,
}

/// The findings about a step that gave no number.
pub(crate) struct Found<'a> {
    /// `loss` or `gradient norm`.
    pub(crate) what: &'a str,
    /// Its value.
    pub(crate) value: f64,
    /// The place of the step.
    pub(crate) place: Place,
}

impl Divergence {
    /// Finds the checkpoint to go back to from weights that were made in step `made` and gave no finite loss, and
    /// keeps it in the run's folder for the next start. Returns advice for the user.
    pub(crate) fn record(run: &Path, made: u64, found: Found<'_>, stage: usize) -> String {
        let dir = run.join("checkpoints");
        let mut older = list(&dir).unwrap_or_default();
        older.retain(|(step, _)| *step < made);
        let proven = |sane: bool| {
            let is = |path: &Path| Proof::of(path).is_some_and(|proof| !sane || proof.is_sane());
            older.iter().find(|(_, path)| is(path))
        };
        let good = proven(true).or_else(|| proven(false)).or_else(|| older.first());
        let divergence = Self {
            step: made + 1,
            what: found.what.to_owned(),
            value: found.value.to_string(),
            good: good.map(|(step, _)| *step),
            at: found.place,
        };
        let text = serde_json::to_string_pretty(&divergence).expect("text and numbers serialize");
        // This is best effort: the message says the same.
        let _ = lacuna_files::write_file(&run.join(DIVERGED), text.as_bytes());
        let Some((step, path)) = good else {
            return "and no checkpoint from before is left; start again in another folder (--out) with a lower \
                    learning rate or a lower optimizer.clip"
                .to_owned();
        };
        let seen = Proof::of(path)
            .map(|proof| format!(", whose weights gave a loss of {:.3}", proof.loss));
        let earlier: Vec<_> = older.iter().filter(|(other, _)| other < step).cloned().collect();
        let choice = match earlier.is_empty() {
            true => String::new(),
            false => format!("; --resume-step N goes back further ({})", names(&earlier)),
        };
        format!(
            "--resume goes back to {}{}: lower the learning rate (--set stage.{stage}.learning_rate=…) or \
             clip harder (--set optimizer.clip=…) with it, or the same comes of it{choice}",
            path.display(),
            seen.unwrap_or_default(),
        )
    }

    fn of(run: &Path) -> Option<Self> {
        let text = lacuna_files::read_text(&run.join(DIVERGED), MOST_BYTES).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// A checkpoint to go on from, its files compared with their hashes.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) path: PathBuf,
    step: u64,
    /// Sentences that the user must read about the choice.
    pub(crate) notices: Vec<String>,
}

/// Chooses the checkpoint that `--resume` goes on from: the newest, or the one of step `wanted`; after a divergence
/// the newest from before it. `None` if there is none.
///
/// One that was cut short, as a power cut does, is passed over for the one before. One whose bytes have changed on
/// a disk that has the whole file is an error: the disk or the memory is at fault, and somebody has to know.
///
/// # Errors
/// Errors name the damaged file and the whole checkpoint that is left.
pub(crate) fn choose(run: &Path, wanted: Option<u64>) -> Result<Option<Chosen>> {
    let dir = run.join("checkpoints");
    let all = list(&dir)?;
    let mut notices = Vec::new();
    if let Some(wanted) = wanted {
        let Some((step, path)) = all.iter().find(|(step, _)| *step == wanted) else {
            let reason = match all.is_empty() {
                true => "has no checkpoints".to_owned(),
                false => format!("has no checkpoint of step {wanted}, but {}", names(&all)),
            };
            return Err(TrainError::Run { path: run.to_owned(), reason });
        };
        check(path, &mut notices).map_err(|damage| damaged(damage, None))?;
        return Ok(Some(Chosen { path: path.clone(), step: *step, notices }));
    }
    let mut left = all.as_slice();
    if let Some(Divergence { step, what, value, good, .. }) = Divergence::of(run) {
        left = &all[all.partition_point(|(other, _)| good.is_none_or(|good| *other > good))..];
        let wrong = format!("the {what} was {value} in step {step}");
        let Some((back, _)) = left.first() else {
            let reason = format!(
                "{wrong}, and no checkpoint from before is left; start again in another folder (--out) with a \
                 lower learning rate, or insist with --resume-step on one of {}",
                names(&all)
            );
            return Err(TrainError::Run { path: run.to_owned(), reason });
        };
        notices.push(format!(
            "{wrong}; going back to step-{back}, the newest checkpoint from before the loss went wrong"
        ));
    }
    for (at, (step, path)) in left.iter().enumerate() {
        match check(path, &mut notices) {
            Ok(()) => return Ok(Some(Chosen { path: path.clone(), step: *step, notices })),
            Err(damage) if was_cut_short(&damage) && at + 1 < left.len() => {
                notices.push(format!("{damage}; going on from the checkpoint before"));
            }
            Err(damage) => {
                let whole =
                    left[at + 1..].iter().find(|(_, path)| check(path, &mut vec![]).is_ok());
                return Err(damaged(damage, whole.map(|(step, _)| *step)));
            }
        }
    }
    Ok(None)
}

fn damaged(damage: FileError, whole: Option<u64>) -> TrainError {
    let advice = match whole {
        Some(step) => format!(
            "the newest whole checkpoint before it is step-{step}: --resume-step {step} goes on from that"
        ),
        None => "no whole checkpoint is left before it".to_owned(),
    };
    TrainError::Checkpoint { damage, advice }
}

/// Tells whether a file ends too early or is missing, as after a write that was not finished.
fn was_cut_short(damage: &FileError) -> bool {
    match damage {
        FileError::Damaged { damage, .. } => !matches!(damage, Damage::Content | Damage::Seal),
        FileError::Manifest { cut_short, .. } => *cut_short,
        _ => false,
    }
}

fn check(checkpoint: &Path, notices: &mut Vec<String>) -> Result<(), FileError> {
    match Manifest::read(checkpoint)? {
        Some(manifest) => manifest.verify(checkpoint)?,
        None => notices.push(format!(
            "{}: has no {}, so its files can't be checked",
            checkpoint.display(),
            MANIFEST
        )),
    }
    // A checkpoint of lacuna 0.1 has no manifest, and an empty manifest lists nothing.
    for name in ["config.json", super::OPTIMIZER, super::PROGRESS] {
        let path = checkpoint.join(name);
        if !path.is_file() {
            return Err(FileError::Damaged { path, damage: Damage::Missing });
        }
    }
    Ok(())
}

impl Chosen {
    /// Sets newer checkpoints aside until the run has come as far again: it goes on from here, so they are no part of
    /// it any more. Returns sentences about them for the user.
    ///
    /// # Errors
    /// Errors if one can't be renamed.
    pub(crate) fn abandon_newer(&self, run: &Path) -> Result<Vec<String>> {
        let dir = run.join("checkpoints");
        let mut said = Vec::new();
        for (step, path) in list(&dir)?.into_iter().filter(|(step, _)| *step > self.step) {
            let aside = dir.join(format!("step-{step}{ABANDONED}"));
            if aside.exists() {
                lacuna_files::remove_folder(&aside)?;
            }
            lacuna_files::rename(&path, &aside).at("renaming", &path)?;
            said.push(format!(
                "{} is set aside as step-{step}{ABANDONED}, until this run has come as far",
                path.display()
            ));
        }
        let diverged = run.join(DIVERGED);
        if !said.is_empty() || diverged.exists() {
            lacuna_files::sync_folder(&dir)?;
            // It goes only now, after everything newer than the choice has lost its name.
            lacuna_files::remove_if_there(&diverged).at("removing", &diverged)?;
        }
        Ok(said)
    }
}

/// Tells whether a checkpoint's folder has something in it that the checkpoint's manifest does not know: a user's
/// notes, scores, a card.
fn holds_others(checkpoint: &Path) -> bool {
    let Ok(Some(manifest)) = Manifest::read(checkpoint) else { return false };
    let Ok(entries) = lacuna_files::list(checkpoint) else { return false };
    entries.iter().any(|entry| {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Leftovers of an interrupted writer of ours begin with a dot.
        let ours = name == MANIFEST || name == PROOF || name.starts_with('.');
        !ours && !manifest.files.contains_key(&name)
    })
}

/// Removes the checkpoints that a run no longer needs: all but the newest `keep`, those of stage ends, that of step
/// `best`, and the newest whose weights are known to be good, so that there is always one to go back to. If `keep` is 0,
/// all stay. One with a user's files in it stays too.
///
/// # Errors
/// Errors if a folder can't be read or removed.
pub(crate) fn prune(dir: &Path, keep: usize, best: Option<u64>) -> Result<()> {
    let all = list(dir)?;
    let newest = all.first().map_or(0, |(step, _)| *step);
    for (step, path) in named(dir, ABANDONED)? {
        if step <= newest && !holds_others(&path) {
            lacuna_files::remove_folder(&path)?;
        }
    }
    if keep == 0 {
        return Ok(());
    }
    let is_good = |path: &Path| Proof::of(path).is_some_and(Proof::is_sane);
    let good = all.iter().find(|(_, path)| is_good(path)).map(|(step, _)| *step);
    let is_spared = |step: u64| Some(step) == good || Some(step) == best;
    for (step, path) in all.iter().skip(keep).filter(|(step, _)| !is_spared(*step)) {
        // A checkpoint that can't be read is not removed either.
        let ends_stage = super::read_progress(path).map_or(true, |at| at.stage_step == 0);
        if !ends_stage && !holds_others(path) {
            lacuna_files::remove_folder(path)
                .map_err(|error| TrainError::Old { step: *step, error })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
