//! Saves and restores checkpoints that are whole or absent: weights in Hugging Face layout, optimizer state, place in
//! the data.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{AdapterConfig, save_adapter, save_tensors, shown_size};
use lacuna_data::Cursor;
use lacuna_files::{Manifest, WholeFolder};
use lacuna_model::Transformer;
use lacuna_text::ModelFiles;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::adamw::{AdamW, AdamWState};
use crate::collective::shards::Gathered;
use crate::ema::Ema;
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
    /// Steps whose gradient was clipped.
    #[serde(default)]
    pub clipped_steps: u64,
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

/// The form in which a run writes its models.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// The type of the weights.
    pub(crate) dtype: DType,
    /// The description of its adapters, if these are what is trained: a checkpoint holds them alone.
    pub(crate) adapter: Option<AdapterConfig>,
}

/// All that a checkpoint keeps besides the run's place.
pub(crate) struct State<'a> {
    pub(crate) model: &'a Transformer,
    pub(crate) form: &'a Form,
    pub(crate) gathered: Gathered,
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
        || ["adapter_config.json", "adapter_model.safetensors"].contains(&name)
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
pub(crate) fn room(dir: &Path, state: &State<'_>, side: &ModelFiles) -> Result<()> {
    const SMALL_FILES: u64 = 1 << 20;
    let State { model, form, gathered: Gathered { state, means } } = state;
    let bytes = |tensor: &Tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
    let numbers = |vars: &mut dyn Iterator<Item = &Var>| -> u64 {
        vars.map(|var| var.elem_count() as u64).sum()
    };
    let weights = match form.adapter {
        Some(_) => 4 * numbers(&mut model.trained()?.into_iter().map(|(_, var)| var)),
        None => {
            let all = numbers(&mut model.parameters()?.iter().map(|(_, var)| var));
            all * form.dtype.size_in_bytes() as u64
        }
    };
    let moments = state.moments.iter().flat_map(|(first, second)| [first, second]);
    let kept = moments.chain(state.masters.iter().flatten()).chain(means.iter().flatten());
    let beside: u64 = side.iter().map(|(_, text)| text.len() as u64).sum();
    let needed = weights + kept.map(bytes).sum::<u64>() + beside + SMALL_FILES;
    let place = dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(dir);
    match lacuna_files::free_bytes(place) {
        Some(free) if free < needed => Err(TrainError::File {
            path: dir.to_owned(),
            reason: format!(
                "a checkpoint takes {}, and the disk has {} left; make room",
                shown_size(needed),
                shown_size(free)
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
    state: State<'_>,
    progress: &Progress,
    side: &ModelFiles,
) -> Result<PathBuf> {
    let State { model, form, gathered: Gathered { state, means } } = state;
    let target = dir.join(format!("step-{}", progress.step));
    let folder = WholeFolder::beside(&target)?;
    match &form.adapter {
        None => model.save_in(folder.path(), form.dtype)?,
        Some(adapter) => write_adapter(folder.path(), model, adapter)?,
    }
    side.write(folder.path())?;
    let mut tensors = Vec::new();
    for (i, ((name, _), (m, v))) in model.trained()?.iter().zip(state.moments).enumerate() {
        if let Some(means) = &means {
            tensors.push((format!("{name}.mean"), means[i].clone()));
        }
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
    let progress = Progress { optimizer_step: state.step, ..progress.clone() };
    let json = serde_json::to_string_pretty(&progress).expect("numbers serialize");
    lacuna_files::write_file(&folder.path().join(PROGRESS), json.as_bytes())?;
    Manifest::of(folder.path())?.write(folder.path())?;
    folder.replace(is_ours)?;
    Ok(target)
}

/// Writes the adapters of a model as PEFT does, and beside them the `config.json` of the model that they make with
/// their base.
fn write_adapter(folder: &Path, model: &Transformer, adapter: &AdapterConfig) -> Result<()> {
    let trained = model.trained()?.into_iter();
    let tensors = trained.map(|(name, var)| (name.to_string(), var.as_tensor().clone()));
    save_adapter(folder, adapter, tensors.collect())?;
    let config = folder.join("config.json");
    Ok(lacuna_files::write_file(&config, model.config().to_json().as_bytes())?)
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
    form: &Form,
    side: &ModelFiles,
) -> Result<Vec<PathBuf>> {
    save_whole(target, side, &|folder| Ok(model.save_in(folder, form.dtype)?))
}

/// [`save_final`] of the adapters alone.
///
/// # Errors
/// As [`save`].
pub(crate) fn save_final_adapter(
    target: &Path,
    model: &Transformer,
    adapter: &AdapterConfig,
    side: &ModelFiles,
) -> Result<Vec<PathBuf>> {
    save_whole(target, side, &|folder| write_adapter(folder, model, adapter))
}

fn save_whole(
    target: &Path,
    side: &ModelFiles,
    write: &dyn Fn(&Path) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    let folder = WholeFolder::beside(target)?;
    write(folder.path())?;
    side.write(folder.path())?;
    let manifest = Manifest::of(folder.path())?;
    let there = Manifest::read(target).ok().flatten();
    if there.as_ref() == Some(&manifest) && manifest.verify(target).is_ok() {
        return Ok(Vec::new());
    }
    manifest.write(folder.path())?;
    Ok(folder.replace(is_ours)?)
}

/// A run's checkpoints with the steps that they were written after, newest first.
///
/// # Errors
/// Errors if there are none, or the folder can't be read.
pub fn of_run(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let all = kept::list(&run.join("checkpoints"))?;
    match all.is_empty() {
        false => Ok(all),
        true => {
            let reason = "holds no checkpoints; name a run's folder".into();
            Err(TrainError::Run { path: run.to_owned(), reason })
        }
    }
}

/// The newest checkpoint of a run, if there is one.
///
/// # Errors
/// Errors if the folder can't be read.
pub fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    Ok(kept::list(dir)?.into_iter().next().map(|(_, path)| path))
}

/// Reads a checkpoint's place and restores the optimizer, whose parameters are what is trained of `model`, in order. The
/// running mean of the weights goes on as well, if there is one; a checkpoint from before it was kept begins it.
///
/// # Errors
/// Errors if a file is missing or does not belong to this model.
pub(crate) fn restore(
    dir: &Path,
    model: &Transformer,
    optimizer: &mut AdamW,
    ema: Option<&mut Ema>,
) -> Result<Progress> {
    let progress = read_progress(dir)?;
    let path = dir.join(OPTIMIZER);
    let broken = |reason: String| TrainError::File { path: path.clone(), reason };
    // Two moments, perhaps a master copy and a mean of everything that is trained, in f32 at most, and the header.
    let trained = model.trained()?;
    let numbers: usize = trained.iter().map(|(_, var)| var.elem_count()).sum();
    let bytes = lacuna_files::read_file(&path, 16 * numbers as u64 + HEADER_BYTES)
        .map_err(|e| broken(format!("not readable as optimizer state: {e}")))?;
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| {
        broken(format!("not readable as optimizer state: {}", lacuna_kernels::message(&e)))
    })?;
    drop(bytes);
    let mut state =
        AdamWState { step: progress.optimizer_step, moments: Vec::new(), masters: Vec::new() };
    let mut means = Vec::new();
    for (name, _) in &trained {
        let mut take = |kind: &str| -> Option<Tensor> { tensors.remove(&format!("{name}.{kind}")) };
        match (take("first_moment"), take("second_moment")) {
            (Some(m), Some(v)) => state.moments.push((m, v)),
            _ => return Err(broken(format!("no moments for parameter {name}"))),
        }
        state.masters.push(take("master"));
        means.extend(take("mean"));
    }
    optimizer.restore(state)?;
    match ema {
        Some(ema) if means.is_empty() => ema.begin(optimizer)?,
        Some(ema) => ema.restore(means.get(optimizer.own()).unwrap_or_default())?,
        None => {}
    }
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
