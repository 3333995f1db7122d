//! Checkpoints that are whole or absent: weights in Hugging Face layout, optimizer state, place in the data.

use candle_core::{Device, Tensor};
use lacuna_data::{Cursor, SideFiles};
use lacuna_kernels::{AdamW, AdamWState};
use lacuna_model::Transformer;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result, TrainError};

/// Where a run stands: everything besides weights and moments that the next step depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken, those without a masked token included.
    pub step: u64,
    /// Updates that the optimizer has made: its bias correction depends on them.
    pub optimizer_step: u64,
    /// Index of the stage that the next step belongs to.
    pub stage: usize,
    /// Steps taken in that stage.
    pub stage_step: u64,
    /// Place in the corpus.
    pub corpus: Cursor,
    /// Place in the SFT samples.
    pub sft: Cursor,
    /// Clean tokens seen.
    pub tokens: u64,
}

/// Writes `dir/step-N` with the model, the optimizer and the run's place, complete or not at all.
///
/// `side` goes in too, so that the folder is a model that others load.
///
/// # Errors
/// Errors if the disk is full or gone; a half-written folder is removed.
pub(crate) fn save(
    dir: &Path,
    model: &Transformer,
    optimizer: &AdamW,
    progress: &Progress,
    side: &SideFiles,
) -> Result<PathBuf> {
    let target = dir.join(format!("step-{}", progress.step));
    fs::create_dir_all(dir).at("creating", dir)?;
    let partial = partial_in(dir)?;
    write_model(partial.path(), model, side)?;
    let state = optimizer.state()?;
    let mut tensors = HashMap::new();
    for (i, ((name, _), (m, v))) in model.parameters().iter().zip(state.moments).enumerate() {
        tensors.insert(format!("{name}.first_moment"), m);
        tensors.insert(format!("{name}.second_moment"), v);
        if let Some(master) = &state.masters[i] {
            tensors.insert(format!("{name}.master"), master.clone());
        }
    }
    let path = partial.path().join("optimizer.safetensors");
    candle_core::safetensors::save(&tensors, &path).map_err(|e| TrainError::Run {
        path: target.clone(),
        reason: format!(
            "the checkpoint could not be written ({}); make room, then go on with --resume",
            lacuna_kernels::message(&e)
        ),
    })?;
    sync(&path)?;
    let path = partial.path().join("progress.json");
    let progress = Progress { optimizer_step: optimizer.steps(), ..progress.clone() };
    let json = serde_json::to_string_pretty(&progress).expect("numbers serialize");
    fs::write(&path, json).at("writing", &path)?;
    sync(&path)?;
    publish(partial, &target)?;
    Ok(target)
}

/// Writes the model alone, in Hugging Face layout with its other files, complete or not at all.
///
/// # Errors
/// As [`save`].
pub(crate) fn save_final(target: &Path, model: &Transformer, side: &SideFiles) -> Result<()> {
    let parent = target.parent().unwrap_or(Path::new("."));
    let partial = partial_in(parent)?;
    write_model(partial.path(), model, side)?;
    publish(partial, target)
}

/// A folder to fill before it gets its name; gone if anything fails meanwhile.
fn partial_in(dir: &Path) -> Result<tempfile::TempDir> {
    let builder = tempfile::Builder::new().prefix(".partial-").tempdir_in(dir);
    builder.at("creating a folder in", dir)
}

fn write_model(dir: &Path, model: &Transformer, side: &SideFiles) -> Result<()> {
    model.save(dir)?;
    Ok(side.write(dir)?)
}

fn sync(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|f| f.sync_all()).at("syncing", path)
}

/// The folder takes its final name in one step, after everything in it is on the disk.
fn publish(partial: tempfile::TempDir, target: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(partial.path(), open).at("setting permissions of", partial.path())?;
    }
    if target.exists() {
        fs::remove_dir_all(target).at("replacing", target)?;
    }
    let path = partial.keep();
    fs::rename(&path, target).at("renaming to", target)?;
    match target.parent() {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// The newest complete checkpoint of a run, if there is one.
///
/// # Errors
/// Errors if the folder can't be read.
pub fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    if !dir.exists() {
        return Ok(None);
    }
    let mut found: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(dir).at("reading", dir)? {
        let path = entry.at("reading", dir)?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let step = name.and_then(|n| n.strip_prefix("step-")).and_then(|n| n.parse::<u64>().ok());
        if let Some(step) = step.filter(|s| found.as_ref().is_none_or(|(best, _)| s > best)) {
            found = Some((step, path));
        }
    }
    Ok(found.map(|(_, path)| path))
}

/// Reads a checkpoint's place and restores the optimizer, whose parameters are `model`'s, in order.
///
/// # Errors
/// Errors if a file is missing or does not belong to this model.
pub(crate) fn restore(dir: &Path, model: &Transformer, optimizer: &mut AdamW) -> Result<Progress> {
    let progress = read_progress(dir)?;
    let path = dir.join("optimizer.safetensors");
    let broken = |reason: String| TrainError::Run { path: path.clone(), reason };
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|e| {
        broken(format!("not readable as optimizer state: {}", lacuna_kernels::message(&e)))
    })?;
    let mut state =
        AdamWState { step: progress.optimizer_step, moments: Vec::new(), masters: Vec::new() };
    for (name, _) in model.parameters() {
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
    let path = dir.join("progress.json");
    let text = fs::read_to_string(&path).at("reading", &path)?;
    serde_json::from_str(&text)
        .map_err(|e| TrainError::Run { path, reason: format!("not a place in a run: {e}") })
}
