//! Keeps `run.json`, which says what a run is made of and where it ran: beside `recipe.toml`, in the run's folder and
//! in each checkpoint.

use lacuna_data::Dataset;
use lacuna_files::{Damage, FileHash, Manifest, Seal, short};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::error::{Result, TrainError};
use crate::recipe::Recipe;
use crate::setup::RunData;

pub(crate) mod results;

/// The program and the machine that run a session. The caller tells, because a library asks no clock and no system.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Version of the program.
    pub version: String,
    /// Git commit that it was built from, where the build could tell.
    pub commit: Option<String>,
    /// Operating system and its version.
    pub system: String,
    /// `x86_64`, `aarch64`, …
    pub architecture: String,
    /// Name of the processor.
    pub processor: String,
    /// Processors that the system has.
    pub cores: usize,
    /// Threads that the program computes with.
    pub threads: usize,
    /// Main memory.
    pub memory_bytes: u64,
    /// The device that tensors live on: `cpu`, `cuda`.
    pub device: String,
    /// The most floating-point operations a second that it was seen to do when the session started; see
    /// [`measured_peak`](crate::measured_peak).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_flop_per_second: Option<f64>,
}

/// The facts and functions by which a run learns of the world around it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The program and the machine.
    pub machine: Machine,
    /// The time now, as it goes into the record.
    pub now: fn() -> String,
    /// Seconds since 1970, for whoever sorts numbers by time.
    pub unix_seconds: fn() -> f64,
    /// The most memory that this process has held.
    pub peak_memory_bytes: fn() -> Option<u64>,
    /// The memory that it holds now.
    pub memory_bytes: fn() -> Option<u64>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            machine: Machine::default(),
            now: String::new,
            unix_seconds: || 0.0,
            peak_memory_bytes: || None,
            memory_bytes: || None,
        }
    }
}

/// One process' part of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The time at which it started.
    pub(crate) started: String,
    /// The time at which it last saved.
    pub(crate) ended: String,
    /// Steps taken before it.
    pub(crate) from_step: u64,
    /// Steps taken when it last saved.
    pub(crate) to_step: u64,
    /// Seconds from its start to its last save.
    pub(crate) seconds: f64,
    /// The most memory that it held.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// `finished`, `stopped` (by a signal), or nothing if it was killed or still runs.
    pub(crate) end: Option<String>,
    /// The machine that it ran on.
    pub(crate) machine: Machine,
}

/// A value of the recipe that was changed on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AcceptedChange {
    /// The step after which the new value holds.
    pub(crate) step: u64,
    /// The time of the change.
    pub(crate) time: String,
    /// The recipe's key, stages counted from 0.
    pub(crate) key: String,
    /// The old value, as TOML.
    pub(crate) old: Option<String>,
    /// The new value.
    pub(crate) new: Option<String>,
}

/// The contents of `run.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// BLAKE3 hash of `recipe.toml` beside it.
    pub(crate) recipe: String,
    /// The source of all randomness.
    pub(crate) seed: u64,
    /// The hashes of what the recipe's paths held, by key.
    pub(crate) hashes: BTreeMap<String, String>,
    /// True if `final/` is the end of this recipe.
    pub(crate) finished: bool,
    /// The time at which its first session started.
    pub(crate) started: String,
    /// The time at which the last one saved.
    pub(crate) ended: String,
    /// Wall time of all sessions, in seconds.
    pub(crate) seconds: f64,
    /// The most memory that any session held.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// Values changed on the way, in order of steps.
    pub(crate) changes: Vec<AcceptedChange>,
    /// One entry a process.
    pub(crate) sessions: Vec<Session>,
}

/// The most bytes that are read of a record or of results: no run has so many stages and sessions.
pub(crate) const LONGEST: u64 = 64 << 20;

impl Record {
    /// A run's record; `None` where there is none.
    ///
    /// # Errors
    /// Errors if it is not as it was written: what it says of the data and of changes can't be relied on.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("run.json");
        if !path.exists() {
            return Ok(None);
        }
        let damaged = |reason: String| TrainError::File {
            path: path.clone(),
            reason: format!(
                "{reason}; remove it, and the run goes on with the one of its newest checkpoint"
            ),
        };
        let text = lacuna_files::read_file(&path, LONGEST)?;
        if Seal::of(&text) == Seal::Broken {
            return Err(damaged(Damage::Seal.to_string()));
        }
        let read = serde_json::from_slice(&text);
        read.map(Some).map_err(|error| {
            damaged(format!("is no record of a run ({})", short(&error.to_string())))
        })
    }

    /// Its text, [sealed](lacuna_files::sealed).
    pub(crate) fn to_json(&self) -> String {
        lacuna_files::sealed(self)
    }

    /// Begins a session.
    pub(crate) fn open(&mut self, around: &Surroundings, step: u64) {
        // If the run went back to a checkpoint from before a recorded change, the change holds from there.
        for change in self.changes.iter_mut().filter(|change| change.step > step) {
            change.step = step;
        }
        let started = (around.now)();
        if self.sessions.is_empty() {
            self.started.clone_from(&started);
        }
        let (ended, machine) = (started.clone(), around.machine.clone());
        let (from_step, to_step) = (step, step);
        self.finished = false;
        self.sessions.push(Session {
            started,
            ended,
            from_step,
            to_step,
            machine,
            ..Session::default()
        });
    }

    /// Brings the session up to date.
    pub(crate) fn update(
        &mut self,
        around: &Surroundings,
        began: Instant,
        step: u64,
        end: Option<&str>,
    ) {
        let (ended, peak) = ((around.now)(), (around.peak_memory_bytes)());
        if let Some(session) = self.sessions.last_mut() {
            session.ended.clone_from(&ended);
            session.to_step = step;
            session.seconds = began.elapsed().as_secs_f64();
            session.peak_memory_bytes = peak;
            session.end = end.map(str::to_owned);
        }
        self.ended = ended;
        self.seconds = self.sessions.iter().map(|session| session.seconds).sum();
        self.peak_memory_bytes = self.sessions.iter().filter_map(|s| s.peak_memory_bytes).max();
        self.finished = end == Some("finished");
    }

    /// Records the hashes of what the recipe's paths hold now.
    ///
    /// # Errors
    /// Refuses data that is not what the run began with.
    pub(crate) fn keep_hashes(&mut self, now: BTreeMap<String, String>, dir: &Path) -> Result<()> {
        if !self.hashes.is_empty() {
            self.check_hashes(&now, dir)?;
        }
        self.hashes = now;
        Ok(())
    }

    fn check_hashes(&self, now: &BTreeMap<String, String>, dir: &Path) -> Result<()> {
        // Samples for a stage to come may be named later.
        let added = |key: &str| key == "sft.samples" && !self.hashes.contains_key(key);
        let differs = |key: &&String| self.hashes.get(*key) != now.get(*key) && !added(key);
        let Some(key) = self.hashes.keys().chain(now.keys()).find(differs) else { return Ok(()) };
        let what = match key.as_str() {
            "data.tokenizer" => "the tokenizer",
            "model.from" => "the checkpoint it starts from",
            "sft.samples" => "the samples, or what they are packed into,",
            "data.shards" => "the packed corpus",
            "data.source" => "a source of the mixture",
            _ => "the corpus, or what is kept out of it,",
        };
        Err(TrainError::Run {
            path: dir.to_owned(),
            reason: format!(
                "{what} is not what the run began with ({key}): steps taken and steps to come would be of \
                 different data; put it back as it was, or begin another run with --out DIR"
            ),
        })
    }
}

/// The hashes of what a recipe's paths hold, by key.
pub(crate) fn hashes(recipe: &Recipe, data: &RunData) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    let mut add = |key: &str, hash: String| drop(hashes.insert(key.to_owned(), hash));
    add("data.tokenizer", data.tokenizer.fingerprint());
    let corpus = [data.train.dataset(), &data.held_out];
    if recipe.data.shards.is_some() {
        add("data.shards", of_datasets(&corpus, true)?);
    } else if !recipe.data.corpus.is_empty() {
        add("data.corpus", of_datasets(&corpus, false)?);
    } else if !recipe.data.source.is_empty() {
        add("data.source", of_datasets(&corpus, true)?);
    }
    if let Some(sft) = &data.sft {
        let held_out = Some(&data.sft_held_out).filter(|held_out| held_out.windows() > 0);
        let samples: Vec<&Dataset> = [sft.dataset()].into_iter().chain(held_out).collect();
        add("sft.samples", of_datasets(&samples, false)?);
    }
    if let Some(from) = &recipe.model.from {
        add("model.from", of_checkpoint(from)?);
    }
    Ok(hashes)
}

/// The hash of all windows in order: of what was packed, whatever files it came from. Where `by_shards` says so, it is
/// that of the hashes which shards carry.
fn of_datasets(datasets: &[&Dataset], by_shards: bool) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for dataset in datasets.iter().flat_map(|dataset| dataset.parts()) {
        hasher.update(&(dataset.windows() as u64).to_le_bytes());
        if let Some(manifest) = dataset.manifest().filter(|_| by_shards) {
            for shard in &manifest.shards {
                hasher.update(shard.blake3.as_bytes());
            }
            continue;
        }
        for window in dataset.iter() {
            let window = window?;
            let mut bytes = Vec::with_capacity(window.tokens.len() * 5);
            window.tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
            bytes.extend(window.eligible.iter().map(|eligible| u8::from(*eligible)));
            for length in &window.documents {
                bytes.extend((*length as u64).to_le_bytes());
            }
            hasher.update(&bytes);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The hash of a checkpoint's weights and settings: of a file, or of the files of a folder with their names.
fn of_checkpoint(from: &Path) -> Result<String> {
    let broken = |error: lacuna_files::Error| TrainError::File {
        path: from.to_owned(),
        reason: error.to_string(),
    };
    if from.is_file() {
        return Ok(FileHash::of(from).map_err(broken)?.blake3);
    }
    let mut hasher = blake3::Hasher::new();
    for (name, file) in Manifest::of(from).map_err(broken)?.files {
        // Files that people write about a checkpoint, and files that a run keeps beside it, change no weight.
        let weights = name.ends_with(".safetensors") && name != "optimizer.safetensors";
        let read =
            ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
        if !weights && !read.contains(&name.as_str()) {
            continue;
        }
        hasher.update(name.as_bytes()).update(file.blake3.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
