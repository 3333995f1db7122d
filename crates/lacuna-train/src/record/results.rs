//! Keeps `results.json`, the scores of each stage as they were measured.

use lacuna_likelihood::Likelihood;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::checkpoint::{Best, Progress};
use crate::evaluation::{Evaluation, ScoreName};
use crate::run::Event;

/// One score.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Score {
    name: ScoreName,
    nats_per_token: f64,
    bits_per_byte: f64,
    nats: f64,
    tokens: usize,
    passes: usize,
    standard_error: Option<f64>,
}

/// A score of the model on held-out text.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOutPoint {
    /// Steps taken when it was measured.
    pub step: u64,
    /// The measure: `exact block NELBO`, …
    pub label: &'static str,
    /// Its value.
    pub nats_per_token: f64,
}

/// The scores at a stage's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StageResult {
    stage: String,
    /// The stage's number, from 0.
    index: usize,
    /// Steps that the whole run had taken.
    step: u64,
    /// The number of held-out windows scored; like the bytes it is 0 if none were asked for.
    windows: usize,
    bytes: u64,
    scores: Vec<Score>,
}

impl StageResult {
    /// Its first score, as one that may be the best.
    fn as_best(&self) -> Option<Best> {
        let score = self.scores.first().filter(|score| !score.name.is_baseline())?;
        let Score { name: measure, nats_per_token, .. } = *score;
        Some(Best { step: self.step, stage: self.index, measure, nats_per_token })
    }
}

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stages {
    stages: Vec<StageResult>,
    /// The best score of the run's last stage so far, and the checkpoint that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best: Option<Best>,
}

/// A run's scores, kept in its folder.
#[derive(Debug)]
pub(crate) struct Results {
    path: PathBuf,
    stages: Stages,
    /// True if the best score is kept in mind.
    finds_best: bool,
}

impl Results {
    /// The scores in a run's folder that are older than the run's place; if the file is damaged, all are measured
    /// anew. With `finds_best`, the best of them is kept in mind.
    pub(crate) fn open(dir: &Path, at: &Progress, finds_best: bool) -> Self {
        let path = dir.join("results.json");
        let text = lacuna_files::read_text(&path, super::LONGEST).unwrap_or_default();
        let mut stages: Stages = serde_json::from_str(&text).unwrap_or_default();
        stages.stages.retain(|stage| stage.index < at.stage && stage.step <= at.step);
        stages.best = at.best.clone().filter(|_| finds_best);
        let mut results = Self { path, stages, finds_best };
        // The checkpoint of a stage's end was written before its score was known.
        let ends: Vec<_> = results.stages.stages.iter().filter_map(StageResult::as_best).collect();
        let now = at.stage.saturating_sub(usize::from(at.stage_step == 0));
        for end in ends.into_iter().filter(|end| end.stage == now) {
            results.rival(end);
        }
        results
    }

    /// The best score so far, with its checkpoint.
    pub(crate) fn best(&self) -> Option<&Best> {
        self.stages.best.as_ref()
    }

    /// Takes a score if it is the best so far, and tells whether it is.
    pub(crate) fn rival(&mut self, score: Best) -> bool {
        self.finds_best && score.rival(&mut self.stages.best)
    }

    /// Tells whether a stage was measured.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.stages.stages.iter().any(|stage| stage.index == index)
    }

    /// Adds a stage's scores; returns the line of them for `metrics.jsonl`.
    pub(crate) fn add(
        &mut self,
        (index, stage): (usize, &str),
        step: u64,
        evaluation: Option<&Evaluation>,
    ) -> serde_json::Value {
        let bytes = evaluation.map_or(0, |e| e.bytes);
        let score = |(name, l): &(ScoreName, Likelihood)| Score {
            name: *name,
            nats_per_token: l.nats_per_token(),
            bits_per_byte: l.bits_per_byte(bytes),
            nats: l.nats,
            tokens: l.tokens,
            passes: l.passes,
            standard_error: l.standard_error,
        };
        self.stages.stages.retain(|stage| stage.index != index);
        self.stages.stages.push(StageResult {
            stage: stage.to_owned(),
            index,
            step,
            windows: evaluation.map_or(0, |e| e.windows),
            bytes,
            scores: evaluation.map_or(Vec::new(), |e| e.scores.iter().map(score).collect()),
        });
        if let Some(best) = self.stages.stages.last().and_then(StageResult::as_best) {
            self.rival(best);
        }
        scores_line(step, stage, evaluation)
    }

    /// Writes the file as it stands. If it can't be written, the user is told and the run goes on: scores are a
    /// record of it, and no part of its state.
    pub(crate) fn keep(&self, observe: &mut dyn FnMut(Event<'_>)) {
        let mut json = serde_json::to_string_pretty(&self.stages).expect("numbers serialize");
        json.push('\n');
        if let Err(reason) = lacuna_files::write_file(&self.path, json.as_bytes()) {
            let told = format!("{reason}; the scores are kept in metrics.jsonl alone");
            observe(Event::Notice(told));
        }
    }

    /// The scores of the model, for the plot of the losses.
    pub(crate) fn points(&self) -> Vec<HeldOutPoint> {
        let of_model = |score: &&Score| !score.name.is_baseline();
        let point = |step: u64, score: &Score| HeldOutPoint {
            step,
            label: score.name.label(),
            nats_per_token: score.nats_per_token,
        };
        let stages = self.stages.stages.iter();
        stages
            .flat_map(|s| s.scores.iter().filter(of_model).map(|score| point(s.step, score)))
            .collect()
    }

    /// The names of all stages that were measured, with their scores.
    pub(crate) fn evaluations(&self) -> Vec<(String, Evaluation)> {
        let likelihood = |score: &Score| {
            let &Score { nats, tokens, passes, standard_error, .. } = score;
            (score.name, Likelihood { nats, tokens, passes, standard_error })
        };
        let measured = self.stages.stages.iter().filter(|stage| stage.windows > 0);
        measured
            .map(|stage| {
                let scores = stage.scores.iter().map(likelihood).collect();
                let (windows, bytes) = (stage.windows, stage.bytes);
                (stage.stage.clone(), Evaluation { scores, windows, bytes })
            })
            .collect()
    }
}

/// The line of `metrics.jsonl` for held-out scores.
pub(crate) fn scores_line(
    step: u64,
    stage: &str,
    evaluation: Option<&Evaluation>,
) -> serde_json::Value {
    let scores = evaluation.map_or(&[][..], |e| &e.scores);
    let nats = |(name, l): &(ScoreName, Likelihood)| {
        let name = serde_json::to_value(name).ok()?.as_str()?.to_owned();
        Some((name, l.nats_per_token().into()))
    };
    let scores: serde_json::Map<_, _> = scores.iter().filter_map(nats).collect();
    serde_json::json!({ "step": step, "stage": stage, "nats_per_token": scores })
}

#[cfg(test)]
mod tests {
    use super::{Event, Progress, Results};

    #[test]
    fn scores_that_cannot_be_written_are_told_and_end_no_run() {
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir(run.path().join("results.json")).unwrap();
        let mut told = Vec::new();
        let results = Results::open(run.path(), &Progress::default(), false);
        results.keep(&mut |event| match event {
            Event::Notice(notice) => told.push(notice),
            other => panic!("{other:?}"),
        });
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("results.json") && told[0].contains("metrics.jsonl"), "{told:?}");
    }
}
