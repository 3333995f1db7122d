//! Keeps what a model wrote while it was trained: `samples.jsonl`, and a trace of every decode in `samples/`.

use serde::Serialize;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::metrics::MetricsWriter;

/// The folder for traces in a run's folder.
const FOLDER: &str = "samples";

/// A text that the model wrote. Whoever runs the training decodes it: this crate does not.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The text that was written behind it.
    pub text: String,
    /// New tokens.
    pub tokens: usize,
    /// Passes that they took.
    pub forwards: usize,
    /// The trace of the decode, whole lines: the header first.
    pub trace: String,
}

/// A sample's line in `samples.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    stage: &'a str,
    prompt: &'a str,
    text: &'a str,
    tokens: usize,
    forwards: usize,
    /// The file of its trace, and its number there.
    trace: &'a str,
    request: usize,
}

/// The samples of a run.
#[derive(Debug)]
pub(crate) struct SampleWriter {
    run: PathBuf,
    lines: MetricsWriter,
}

impl SampleWriter {
    /// Goes on with a run's samples; what a killed process wrote of later steps is removed. Returns sentences for the
    /// user, too.
    pub(crate) fn open(run: &Path, step: u64) -> (Self, Vec<String>) {
        let (lines, mut notices) = MetricsWriter::open(&run.join("samples.jsonl"), step);
        if let Err(reason) = remove_later(&run.join(FOLDER), step) {
            notices.push(format!("{reason}; older traces stay among the samples"));
        }
        (Self { run: run.to_owned(), lines }, notices)
    }

    /// Adds the samples of a step. Returns sentences for the user if they can't be written.
    pub(crate) fn add(&mut self, step: u64, stage: &str, samples: &[Sample]) -> Vec<String> {
        let mut notices = Vec::new();
        let trace = format!("{FOLDER}/step-{step}.jsonl");
        let traces: String = samples.iter().map(|sample| sample.trace.as_str()).collect();
        let written = lacuna_files::create_folder(&self.run.join(FOLDER))
            .and_then(|()| lacuna_files::write_file(&self.run.join(&trace), traces.as_bytes()));
        if let Err(reason) = written {
            notices.push(format!("{reason}; the samples of step {step} have no trace"));
        }
        for (request, sample) in samples.iter().enumerate() {
            let Sample { prompt, text, tokens, forwards, .. } = sample;
            let (tokens, forwards) = (*tokens, *forwards);
            let trace = trace.as_str();
            let line = Line { step, stage, prompt, text, tokens, forwards, trace, request };
            notices.extend(self.lines.append(&line));
        }
        notices
    }

    pub(crate) fn sync(&mut self) {
        self.lines.sync();
    }
}

/// Removes traces of steps after `step`.
fn remove_later(folder: &Path, step: u64) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    lacuna_files::remove_all_leftovers(folder);
    let failed = |action, source| crate::TrainError::Io { action, path: folder.into(), source };
    for path in lacuna_files::list(folder).map_err(|error| failed("reading", error))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("step-").and_then(|name| name.strip_suffix(".jsonl"));
        if number.and_then(|number| number.parse().ok()).is_some_and(|at: u64| at > step) {
            lacuna_files::remove_file(&path).map_err(|error| failed("clearing", error))?;
        }
    }
    Ok(())
}
