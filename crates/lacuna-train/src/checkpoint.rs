//! Saves and restores checkpoints that are whole or absent: weights in Hugging Face layout, optimizer state, place in
//! the data.

use candle_core::{Device, Tensor};
use lacuna_checkpoint::save_tensors;
use lacuna_data::Cursor;
use lacuna_files::{Manifest, WholeFolder};
use lacuna_model::Transformer;
use lacuna_text::ModelFiles;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::adamw::{AdamW, AdamWState};
use crate::error::{Result, TrainError};
use crate::evaluation::ScoreName;
use crate::spikes::LossWatch;

pub(crate) mod kept;

/// A run's place: everything besides weights and moments that the next step depends on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken, those without a masked token included.
    pub step: u64,
    /// Updates that the optimizer has made, on which its bias correction depends.
    pub optimizer_step: u64,
    /// Index of the stage that the next step belongs to.
    pub stage: usize,
    /// Steps taken in that stage.
    pub stage_step: u64,
    /// The place in the corpus.
    pub corpus: Cursor,
    /// The place in the SFT samples.
    pub sft: Cursor,
    /// Clean tokens seen.
    pub tokens: u64,
    /// The losses before, where steps that stand out are left out.
    #[serde(default, skip_serializing_if = "LossWatch::is_new")]
    pub losses: LossWatch,
    /// The last step after which held-out text was scored, or samples were written, on the way; 0 before the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub watched: u64,
    /// The best score on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

fn is_zero(step: &u64) -> bool {
    *step == 0
}

/// The checkpoint whose held-out score is the best of its stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps taken when it was measured: the checkpoint is `step-N`.
    pub step: u64,
    /// Index of the stage.
    pub stage: usize,
    /// The measure.
    pub measure: ScoreName,
    /// Its value.
    pub nats_per_token: f64,
}

impl Best {
    /// Takes a score of `self` if it is better than the best so far. A later stage learns by another objective, so it
    /// begins anew. Tells whether it was taken.
    pub(crate) fn rival(self, best: &mut Option<Self>) -> bool {
        let is_better = best.as_ref().is_none_or(|old| {
            let alike = (old.stage, old.measure) == (self.stage, self.measure);
            !alike || self.nats_per_token < old.nats_per_token
        });
        let is_taken = is_better && self.nats_per_token.is_finite();
        if is_taken {
            *best = Some(self);
        }
        is_taken
    }
}

/// Tells whether a checkpoint's file is one that weights or the run's place are kept in. Every other file is listed
/// in the manifest, or is somebody else's.
fn is_ours(name: &str) -> bool {
    let weights = name.starts_with("model") && name.ends_with(".safetensors");
    weights
        || ["config.json", "model.safetensors.index.json", OPTIMIZER, PROGRESS, kept::PROOF]
            .contains(&name)
}

const OPTIMIZER: &str = "optimizer.safetensors";
/// The most bytes that the header of a safetensors file takes.
const HEADER_BYTES: u64 = 100 << 20;
const PROGRESS: &str = "progress.json";

/// Asks whether the disk has room for a checkpoint, before any of it is written. Where the system does not say, it is
/// tried.
///
/// # Errors
/// Says what it takes and what there is.
pub(crate) fn room(dir: &Path, model: &Transformer, side: &ModelFiles) -> Result<()> {
    const SMALL_FILES: u64 = 1 << 20;
    // The weights and two moments of each, in f32 at most, and the files beside them.
    let numbers: usize = model.parameters()?.iter().map(|(_, var)| var.elem_count()).sum();
    let beside: u64 = side.iter().map(|(_, text)| text.len() as u64).sum();
    let needed = 12 * numbers as u64 + beside + SMALL_FILES;
    let place = dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(dir);
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    match lacuna_files::free_bytes(place) {
        Some(free) if free < needed => Err(TrainError::File {
            path: dir.to_owned(),
            reason: format!(
                "a checkpoint takes {}, and the disk has {} left; make room",
                mb(needed),
                mb(free)
            ),
        }),
        _ => Ok(()),
    }
}

/// Writes `dir/step-N` with the model, the optimizer and the run's place, complete or not at all.
///
/// The files of `side` go in too, so that the folder is a model that others load. The manifest of hashes is written
/// last.
///
/// # Errors
/// Errors if the disk is full or gone; a half-written folder is removed.
pub(crate) fn save(
    dir: &Path,
    model: &Transformer,
    optimizer: &AdamW,
    progress: &Progress,
    side: &ModelFiles,
) -> Result<PathBuf> {
    let target = dir.join(format!("step-{}", progress.step));
    let folder = WholeFolder::beside(&target)?;
    model.save(folder.path())?;
    side.write(folder.path())?;
    let state = optimizer.state()?;
    let mut tensors = Vec::new();
    for (i, ((name, _), (m, v))) in model.parameters()?.iter().zip(state.moments).enumerate() {
        tensors.push((format!("{name}.first_moment"), m));
        tensors.push((format!("{name}.second_moment"), v));
        if let Some(master) = &state.masters[i] {
            tensors.push((format!("{name}.master"), master.clone()));
        }
    }
    save_tensors(&folder.path().join(OPTIMIZER), tensors).map_err(|error| {
        let reason = format!(
            "the checkpoint could not be written ({error}); make room, then go on with --resume"
        );
        TrainError::File { path: target.clone(), reason }
    })?;
    let progress = Progress { optimizer_step: optimizer.steps(), ..progress.clone() };
    let json = serde_json::to_string_pretty(&progress).expect("numbers serialize");
    lacuna_files::write_file(&folder.path().join(PROGRESS), json.as_bytes())?;
    Manifest::of(folder.path())?.write(folder.path())?;
    folder.replace(is_ours)?;
    Ok(target)
}

/// Writes the model alone, in Hugging Face layout with its other files and their hashes, complete or not at all. A
/// folder that holds exactly this already is left as it is; what others put into it stays. Returns the files of
/// others that had to take another name.
///
/// # Errors
/// As [`save`].
pub(crate) fn save_final(
    target: &Path,
    model: &Transformer,
    side: &ModelFiles,
) -> Result<Vec<PathBuf>> {
    let folder = WholeFolder::beside(target)?;
    model.save(folder.path())?;
    side.write(folder.path())?;
    let manifest = Manifest::of(folder.path())?;
    let there = Manifest::read(target).ok().flatten();
    if there.as_ref() == Some(&manifest) && manifest.verify(target).is_ok() {
        return Ok(Vec::new());
    }
    manifest.write(folder.path())?;
    Ok(folder.replace(is_ours)?)
}

/// The newest checkpoint of a run, if there is one.
///
/// # Errors
/// Errors if the folder can't be read.
pub fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    Ok(kept::list(dir)?.into_iter().next().map(|(_, path)| path))
}

/// Reads a checkpoint's place and restores the optimizer, whose parameters are `model`'s, in order.
///
/// # Errors
/// Errors if a file is missing or does not belong to this model.
pub(crate) fn restore(dir: &Path, model: &Transformer, optimizer: &mut AdamW) -> Result<Progress> {
    let progress = read_progress(dir)?;
    let path = dir.join(OPTIMIZER);
    let broken = |reason: String| TrainError::File { path: path.clone(), reason };
    // Two moments and perhaps a master copy of every parameter, in f32 at most, and the header.
    let numbers: usize = model.parameters()?.iter().map(|(_, var)| var.elem_count()).sum();
    let bytes = lacuna_files::read_file(&path, 12 * numbers as u64 + HEADER_BYTES)
        .map_err(|e| broken(format!("not readable as optimizer state: {e}")))?;
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| {
        broken(format!("not readable as optimizer state: {}", lacuna_kernels::message(&e)))
    })?;
    drop(bytes);
    let mut state =
        AdamWState { step: progress.optimizer_step, moments: Vec::new(), masters: Vec::new() };
    for (name, _) in model.parameters()?.iter() {
        let mut take = |kind: &str| -> Option<Tensor> { tensors.remove(&format!("{name}.{kind}")) };
        match (take("first_moment"), take("second_moment")) {
            (Some(m), Some(v)) => state.moments.push((m, v)),
            _ => return Err(broken(format!("no moments for parameter {name}"))),
        }
        state.masters.push(take("master"));
    }
    optimizer.restore(state)?;
    Ok(progress)
}

/// Reads a checkpoint's place in the run.
///
/// # Errors
/// Errors if `progress.json` is missing or damaged.
pub(crate) fn read_progress(dir: &Path) -> Result<Progress> {
    let path = dir.join(PROGRESS);
    let text = lacuna_files::read_text(&path, 1 << 20)?;
    serde_json::from_str(&text)
        .map_err(|e| TrainError::File { path, reason: format!("not a place in a run: {e}") })
}
