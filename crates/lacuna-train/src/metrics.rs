//! Appends one JSON object a step to `metrics.jsonl`, and reads them again.

use lacuna_files::Log;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::Result;

/// Mask rates fall into this many equal buckets of (0, 1] in [`DiffusionMetrics::loss_by_mask_rate`].
pub const MASK_RATE_BUCKETS: usize = 10;

/// The figures of one optimizer step. Losses are in nats.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct StepMetrics {
    /// Optimizer steps taken so far, this one included.
    pub step: u64,
    /// Name of the stage.
    pub stage: String,
    /// The loss that the gradient descends: Σ w·ce over eligible tokens (paper Eq. 4); in an autoregressive stage the
    /// mean cross-entropy.
    #[serde(with = "number")]
    pub loss: f64,
    /// Mean cross-entropy of the supervised tokens, every weight 1; 0 if there were none.
    #[serde(with = "number")]
    pub loss_unweighted: f64,
    /// Supervised tokens of the step. Early in the warmup there may be none at all.
    pub supervised: u64,
    /// Norm of the whole gradient before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Learning rate of the step.
    #[serde(with = "number")]
    pub lr: f64,
    /// Masked part of the eligible tokens, as it came out; `null` in an autoregressive stage.
    #[serde(with = "number::optional", default)]
    pub mask_rate: Option<f64>,
    /// Clean tokens seen so far by the whole run.
    pub tokens: u64,
    /// Clean tokens per second of this step (not reproducible).
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// Next-token loss on the same windows, in the steps that measure it.
    #[serde(skip_serializing_if = "Option::is_none", default, with = "number::optional")]
    pub autoregressive_loss: Option<f64>,
    /// Telemetry of the corruption; absent in an autoregressive stage.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diffusion: Option<DiffusionMetrics>,
    /// Figures of the machine that took the step, if it was none of tensors.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine: Option<MachineMetrics>,
}

/// A machine's figures of a step.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct MachineMetrics {
    /// The most bytes of its memory that a step has taken so far.
    pub memory_bytes: u64,
    /// Operations of the step's products a second, as [`lacuna_device::TrainingStep::operations`] counts them.
    pub operations_per_second: f64,
    /// Their part of what the machine reaches at most; `None` if that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub share_of_peak: Option<f64>,
}

/// The figures of a step's corruption.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DiffusionMetrics {
    /// Largest mask rate that times could reach (below 1 during warmup).
    #[serde(with = "number")]
    pub mask_rate_cap: f64,
    /// Mean mask rate drawn.
    #[serde(with = "number")]
    pub mask_rate_drawn: f64,
    /// Mean weight of masked tokens.
    #[serde(with = "number")]
    pub mean_weight: f64,
    /// The part of the blocks whose draw masked nothing, before the fallback.
    #[serde(with = "number")]
    pub zero_mask_fraction: f64,
    /// The part of the blocks in which a mask was forced.
    #[serde(with = "number")]
    pub forced_fraction: f64,
    /// Mean cross-entropy by drawn mask rate, ten equal buckets; `null` where a bucket is empty.
    #[serde(with = "number::list")]
    pub loss_by_mask_rate: Vec<Option<f64>>,
    /// Mean cross-entropy by position in the block.
    #[serde(with = "number::list")]
    pub loss_by_position: Vec<Option<f64>>,
}

/// Means over numbered buckets.
#[derive(Clone, Debug)]
pub(crate) struct BucketMeans {
    sums: Vec<(f64, u64)>,
}

impl BucketMeans {
    pub(crate) fn new(n: usize) -> Self {
        Self { sums: vec![(0.0, 0); n] }
    }

    pub(crate) fn add(&mut self, bucket: usize, value: f64) {
        let last = self.sums.len() - 1;
        let (sum, count) = &mut self.sums[bucket.min(last)];
        *sum += value;
        *count += 1;
    }

    pub(crate) fn means(&self) -> Vec<Option<f64>> {
        self.sums.iter().map(|(sum, n)| (*n > 0).then(|| sum / *n as f64)).collect()
    }
}

/// Appends metrics to a run's `metrics.jsonl`, which the run can do without: lines that can't be written now are
/// tried again with the next step.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    log: Option<Log>,
    /// Lines that could not be written yet.
    waiting: Vec<u8>,
    lost: u64,
    failing: bool,
}

/// The most bytes of lines that wait for a full disk: some ten thousand steps.
const MOST_WAITING: usize = 16 << 20;

impl MetricsWriter {
    /// Opens `metrics.jsonl` in the run directory and drops every line past `step`, which a killed run wrote after
    /// its last checkpoint: a resumed run's file is the one an uninterrupted run would have written. Lines that can't
    /// be read are left out. Returns sentences for the user, too.
    pub fn open(path: &Path, step: u64) -> (Self, Vec<String>) {
        let mut notices = Vec::new();
        let kept = match kept_lines(path, step) {
            Ok((kept, damaged)) => {
                if damaged > 0 {
                    notices.push(format!(
                        "{}: {damaged} lines can't be read and are left out",
                        path.display()
                    ));
                }
                Some(kept)
            }
            // A file that is there and can't be read is not written over: the run's lines come behind it.
            Err(reason) => {
                notices.push(format!("{reason}; what is in it is left as it is"));
                None
            }
        };
        if let Some(kept) = kept.filter(|kept| !is_all_of(path, kept))
            && let Err(reason) = lacuna_files::write_file(path, &kept)
        {
            notices.push(format!("{reason}; the run goes on without it"));
        }
        let writer =
            Self { path: path.to_owned(), log: None, waiting: Vec::new(), lost: 0, failing: false };
        (writer, notices)
    }

    /// Appends one step. Returns a sentence for the user when writing begins to fail, and when it works again.
    pub fn write(&mut self, metrics: &StepMetrics) -> Option<String> {
        self.append(metrics)
    }

    /// Appends anything that is one JSON object, as [`write`](Self::write) does.
    pub fn append(&mut self, object: &impl Serialize) -> Option<String> {
        let mut line =
            serde_json::to_string(object).expect("metrics are plain numbers and strings");
        line.push('\n');
        match self.waiting.len() + line.len() > MOST_WAITING {
            true => self.lost += 1,
            false => self.waiting.extend_from_slice(line.as_bytes()),
        }
        match self.flush() {
            Ok(()) if !std::mem::take(&mut self.failing) => None,
            Ok(()) => {
                let lost = match std::mem::take(&mut self.lost) {
                    0 => String::new(),
                    lost => format!(", without the {lost} lines that no longer fitted in memory"),
                };
                Some(format!("{}: can be written again{lost}", self.path.display()))
            }
            Err(_) if std::mem::replace(&mut self.failing, true) => None,
            Err(error) => Some(format!(
                "{}: cannot be written: {error}; the training goes on, and every step tries again",
                self.path.display()
            )),
        }
    }

    /// Makes the lines so far survive a power cut. It is called before a checkpoint has its name, so that none is
    /// missing from the file of a run that goes on from it. A failure has been told, or will be with the next step.
    pub fn sync(&mut self) {
        if self.waiting.is_empty()
            && let Some(log) = &self.log
        {
            let _ = log.sync();
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let log = match &mut self.log {
            Some(log) => log,
            None => self.log.insert(Log::open(&self.path)?),
        };
        log.append(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

fn is_all_of(path: &Path, kept: &[u8]) -> bool {
    path.metadata().is_ok_and(|there| there.is_file() && there.len() == kept.len() as u64)
}

/// The lines up to `step`, as they stand there, and the number of those that can't be read. A half-written last line
/// (the run was killed) is no damage.
fn kept_lines(path: &Path, step: u64) -> Result<(Vec<u8>, usize), lacuna_files::Error> {
    let mut kept = Vec::new();
    if step == 0 || !path.exists() {
        return Ok((kept, 0));
    }
    let mut damaged = 0;
    each_line(path, |line, is_last| match serde_json::from_slice::<Line>(line) {
        Ok(read) if read.step <= step => {
            kept.extend_from_slice(line.trim_ascii_end());
            kept.push(b'\n');
        }
        Ok(_) => {}
        Err(_) => damaged += usize::from(!is_last),
    })?;
    Ok((kept, damaged))
}

/// The part that every line has, whatever it is about.
#[derive(Deserialize)]
struct Line {
    step: u64,
}

/// The most bytes of a line, so that a file without line breaks is not read into memory whole.
const LONGEST_LINE: u64 = 1 << 24;

fn each_line(path: &Path, mut take: impl FnMut(&[u8], bool)) -> Result<(), lacuna_files::Error> {
    let mut file = BufReader::new(lacuna_files::open_regular(path)?);
    let failed =
        |source| lacuna_files::Error::Io { path: path.to_owned(), action: "read it", source };
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut file).take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if line.is_empty() {
            return Ok(());
        }
        let is_last = file.fill_buf().map_err(failed)?.is_empty();
        if !line.trim_ascii().is_empty() {
            take(&line, is_last);
        }
    }
}

/// Reads the steps of a `metrics.jsonl`. Lines that can't be read, and those about something else, are left out.
///
/// # Errors
/// Errors if the file can't be read.
pub fn read_metrics(path: &Path) -> Result<Vec<StepMetrics>> {
    let mut metrics = Vec::new();
    each_line(path, |line, _| metrics.extend(serde_json::from_slice::<StepMetrics>(line).ok()))?;
    Ok(metrics)
}

/// Writes numbers that JSON has no digits for by name: `"inf"`, `"-inf"`, `"NaN"`.
mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Clone, Copy, Serialize, Deserialize)]
    #[serde(transparent)]
    pub(super) struct Number(#[serde(with = "self")] pub(super) f64);

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Digits(f64),
        Name(String),
        /// The `null` that lacuna 0.1 wrote for all three.
        Null(()),
    }

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { to.serialize_f64(*value) } else { to.collect_str(value) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        match Written::deserialize(from)? {
            Written::Digits(value) => Ok(value),
            Written::Name(name) => name.parse().map_err(serde::de::Error::custom),
            Written::Null(()) => Ok(f64::NAN),
        }
    }

    pub(super) mod optional {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            value: &Option<f64>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            value.map(Number).serialize(to)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<f64>, D::Error> {
            Ok(Option::<Number>::deserialize(from)?.map(|Number(value)| value))
        }
    }

    pub(super) mod list {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            values: &[Option<f64>],
            to: S,
        ) -> Result<S::Ok, S::Error> {
            to.collect_seq(values.iter().map(|value| value.map(Number)))
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Vec<Option<f64>>, D::Error> {
            let values = Vec::<Option<Number>>::deserialize(from)?;
            Ok(values.into_iter().map(|value| value.map(|Number(value)| value)).collect())
        }
    }
}

#[cfg(test)]
mod tests;
