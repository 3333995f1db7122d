//! Writes a run's numbers as TensorBoard reads them: `tensorboard --logdir runs`.
//!
//! A file of events is records one after the other: the length of an event and a checksum of it, the event, its
//! checksum. An event is a message of `tensorflow/core/util/event.proto`, of which a number needs three fields; they are
//! written here, and no library for the format is linked.

use crc::{CRC_32_ISCSI, Crc};
use lacuna_files::Log;
use std::path::{Path, PathBuf};

use crate::evaluation::Evaluation;
use crate::metrics::StepMetrics;

/// The folder for files of events in a run's folder.
pub(crate) const FOLDER: &str = "tensorboard";

/// A file of events, one for each process of a run.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    log: Option<Log>,
    /// The time in seconds since 1970.
    now: fn() -> f64,
    failing: bool,
    /// The step before which this process began, until that is written.
    begins_after: Option<u64>,
}

impl EventFile {
    /// The events of a process that goes on after `step`, in a run's folder. The file is made with the first number.
    pub(crate) fn new(run: &Path, step: u64, now: fn() -> f64) -> Self {
        // Readers take files in the order of their names.
        let name = format!("events.out.tfevents.{:010}.lacuna.{step:09}", now() as u64);
        let path = run.join(FOLDER).join(name);
        Self { path, log: None, now, failing: false, begins_after: Some(step) }
    }

    /// Adds the numbers of a step. Returns a sentence for the user when writing begins to fail.
    pub(crate) fn step(&mut self, metrics: &StepMetrics) -> Option<String> {
        let m = metrics;
        let mut scalars = vec![
            ("train/loss_weighted", m.loss),
            ("train/grad_norm", m.grad_norm),
            ("train/learning_rate", m.lr),
            ("data/tokens", m.tokens as f64),
        ];
        // A step that supervised nothing was over at once.
        if m.supervised > 0 {
            scalars.push(("train/loss", m.loss_unweighted));
            scalars.push(("speed/tokens_per_second", m.tokens_per_second));
        }
        let diffusion = m.diffusion.as_ref();
        let machine = m.machine.unwrap_or_default();
        let others = [
            ("train/mask_rate", m.mask_rate),
            ("train/autoregressive_loss", m.autoregressive_loss),
            ("train/mean_weight", diffusion.map(|d| d.mean_weight)),
            ("train/skipped_steps", Some(m.skipped as f64).filter(|n| *n > 0.0)),
            ("data/epoch", m.epoch),
            ("speed/share_of_peak", machine.share_of_peak),
            ("speed/memory_bytes", machine.memory_bytes.map(|bytes| bytes as f64)),
        ];
        scalars.extend(others.into_iter().filter_map(|(tag, value)| Some((tag, value?))));
        self.add(m.step, scalars)
    }

    /// Adds held-out scores.
    pub(crate) fn scores(&mut self, step: u64, evaluation: &Evaluation) -> Option<String> {
        let scores = evaluation.scores.iter().filter(|(name, _)| !name.is_baseline());
        let scores: Vec<_> = scores
            .map(|(name, score)| {
                (format!("held_out/{}", name.label().replace(' ', "_")), score.nats_per_token())
            })
            .collect();
        self.add(step, scores.iter().map(|(tag, value)| (tag.as_str(), *value)).collect())
    }

    fn add(&mut self, step: u64, scalars: Vec<(&str, f64)>) -> Option<String> {
        let time = (self.now)();
        let mut bytes = Vec::new();
        if let Some(after) = self.begins_after {
            bytes.extend(record(&version_event(time)));
            // A reader forgets what another process wrote of the steps that are taken again.
            bytes.extend(record(&start_event(time, after + 1)));
        }
        bytes.extend(record(&scalars_event(time, step, &scalars)));
        match self.append(&bytes) {
            Ok(()) => {
                (self.failing, self.begins_after) = (false, None);
                None
            }
            Err(_) if std::mem::replace(&mut self.failing, true) => None,
            Err(error) => Some(format!(
                "{}: cannot be written: {error}; the training goes on without these events",
                self.path.display()
            )),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                let folder = self.path.parent().unwrap_or(Path::new("."));
                lacuna_files::create_folder(folder).map_err(lacuna_files::Error::into_source)?;
                self.log.insert(Log::create(&self.path)?)
            }
        };
        log.append(bytes)
    }
}

/// An event between its length and its checksums.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked_checksum(&length).to_le_bytes());
    bytes.extend(event);
    bytes.extend(masked_checksum(event).to_le_bytes());
    bytes
}

/// The format's checksum: CRC-32C, turned and moved, so that the checksum of bytes that hold one differs from it.
fn masked_checksum(bytes: &[u8]) -> u32 {
    static CRC_32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC_32C.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The kinds of fields that events are made of, with their numbers in the format.
enum Wire<'a> {
    Varint(u64),
    Fixed64(f64),
    Bytes(&'a [u8]),
    Fixed32(f32),
}

fn field(into: &mut Vec<u8>, number: u64, value: Wire<'_>) {
    let kind = match value {
        Wire::Varint(_) => 0,
        Wire::Fixed64(_) => 1,
        Wire::Bytes(_) => 2,
        Wire::Fixed32(_) => 5,
    };
    varint(into, number << 3 | kind);
    match value {
        Wire::Varint(value) => varint(into, value),
        Wire::Fixed64(value) => into.extend(value.to_le_bytes()),
        Wire::Fixed32(value) => into.extend(value.to_le_bytes()),
        Wire::Bytes(bytes) => {
            varint(into, bytes.len() as u64);
            into.extend(bytes);
        }
    }
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn version_event(time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    field(&mut event, 1, Wire::Fixed64(time));
    field(&mut event, 3, Wire::Bytes(b"brain.Event:2"));
    event
}

/// The event with which a process says that all steps from `step` on are its own.
fn start_event(time: f64, step: u64) -> Vec<u8> {
    const START: u64 = 1;
    let mut log = Vec::new();
    field(&mut log, 1, Wire::Varint(START));
    let mut event = Vec::new();
    field(&mut event, 1, Wire::Fixed64(time));
    field(&mut event, 2, Wire::Varint(step));
    field(&mut event, 7, Wire::Bytes(&log));
    event
}

fn scalars_event(time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in scalars {
        let mut value = Vec::new();
        field(&mut value, 1, Wire::Bytes(tag.as_bytes()));
        field(&mut value, 2, Wire::Fixed32(*number as f32));
        field(&mut summary, 1, Wire::Bytes(&value));
    }
    let mut event = Vec::new();
    field(&mut event, 1, Wire::Fixed64(time));
    field(&mut event, 2, Wire::Varint(step));
    field(&mut event, 5, Wire::Bytes(&summary));
    event
}

#[cfg(test)]
mod tests;
