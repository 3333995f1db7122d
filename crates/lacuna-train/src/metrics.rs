//! One JSON object a step, appended to `metrics.jsonl`.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result, TrainError};

/// Mask rates fall into this many equal buckets of (0, 1] in [`DiffusionMetrics::loss_by_mask_rate`].
pub const MASK_RATE_BUCKETS: usize = 10;

/// What one optimizer step did. Losses are in nats.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct StepMetrics {
    /// Optimizer steps taken so far, this one included.
    pub step: u64,
    /// Name of the stage.
    pub stage: String,
    /// What the gradient descends: Σ w·ce over eligible tokens (paper Eq. 4); AR: mean cross-entropy.
    pub loss: f64,
    /// Mean cross-entropy of the supervised tokens, every weight 1; 0 if there were none.
    pub loss_unweighted: f64,
    /// Supervised tokens of the step. None at all happens early in the warmup.
    pub supervised: u64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Masked part of the eligible tokens, as it came out; `null` in an autoregressive stage.
    pub mask_rate: Option<f64>,
    /// Clean tokens seen so far by the whole run.
    pub tokens: u64,
    /// Clean tokens per second of this step (not reproducible).
    pub tokens_per_second: f64,
    /// Next-token loss on the same windows, in the steps that measure it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub autoregressive_loss: Option<f64>,
    /// Telemetry of the corruption; absent in an autoregressive stage.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diffusion: Option<DiffusionMetrics>,
}

/// What the corruption did in a step.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DiffusionMetrics {
    /// Largest mask rate that times could reach (below 1 during warmup).
    pub mask_rate_cap: f64,
    /// Mean mask rate drawn.
    pub mask_rate_drawn: f64,
    /// Mean weight of masked tokens.
    pub mean_weight: f64,
    /// Blocks whose draw masked nothing, before the fallback.
    pub zero_mask_fraction: f64,
    /// Blocks in which a mask was forced.
    pub forced_fraction: f64,
    /// Mean cross-entropy by drawn mask rate, ten equal buckets; `null` where a bucket is empty.
    pub loss_by_mask_rate: Vec<Option<f64>>,
    /// Mean cross-entropy by position in the block.
    pub loss_by_position: Vec<Option<f64>>,
}

/// Means over named buckets.
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

/// Appends metrics to a run's `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
}

impl MetricsWriter {
    /// Opens `metrics.jsonl` in the run directory and drops every line past `step`, which a killed run wrote
    /// after its last checkpoint: a resumed run's file is the one an uninterrupted run would have written.
    ///
    /// # Errors
    /// Errors if the file can't be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let mut kept = String::new();
        if step > 0 && path.exists() {
            for metrics in read_metrics(path)?.iter().filter(|m| m.step <= step) {
                kept.push_str(&line(metrics));
            }
        }
        lacuna_data::write_atomic(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).at("opening", path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one step.
    ///
    /// # Errors
    /// Errors if the disk is full or gone.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.file.write_all(line(metrics).as_bytes()).at("writing", &self.path)
    }
}

fn line(metrics: &StepMetrics) -> String {
    let mut line = serde_json::to_string(metrics).expect("metrics are plain numbers and strings");
    line.push('\n');
    line
}

/// Reads a `metrics.jsonl`. A half-written last line (the run was killed) is left out.
///
/// # Errors
/// Errors if the file can't be read or a line other than the last is not metrics.
pub fn read_metrics(path: &Path) -> Result<Vec<StepMetrics>> {
    let file = File::open(path).at("reading", path)?;
    let lines =
        BufReader::new(file).lines().collect::<std::io::Result<Vec<_>>>().at("reading", path)?;
    let n = lines.len();
    let mut metrics = Vec::with_capacity(n);
    for (i, text) in lines.iter().enumerate() {
        match serde_json::from_str(text) {
            Ok(step) => metrics.push(step),
            Err(_) if i + 1 == n => {}
            Err(error) => {
                let reason = format!("line {} is not a step's metrics: {error}", i + 1);
                return Err(TrainError::Run { path: path.to_owned(), reason });
            }
        }
    }
    Ok(metrics)
}
