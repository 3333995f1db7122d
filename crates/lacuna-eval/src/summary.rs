//! Sums a run up: pass@k with its interval, what it cost, which tasks failed and why.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::estimate::{Estimate, estimate, usual_ks};
use crate::judge::Verdict;
use crate::sample::Sample;
use crate::task::{Task, Tests};

/// The seed of the intervals, so that the same verdicts have the same ones.
const INTERVAL_SEED: u64 = 0;

/// A benchmark's samples with their verdicts, summed up.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The benchmark's name.
    pub benchmark: String,
    /// The facts of the run that a reader wants with its numbers, by name: model, form of prompt, settings.
    pub facts: Vec<(String, String)>,
    /// Each task with a sample, in the benchmark's order.
    pub tasks: Vec<TaskScore>,
    /// Tasks of the benchmark.
    pub all_tasks: usize,
    /// pass@k for each k.
    pub pass_at: Vec<(usize, Estimate)>,
    /// The same by the tests of the original benchmark, where others were added.
    pub base_pass_at: Vec<(usize, Estimate)>,
    /// The cost of what a model wrote, if the samples say it.
    pub cost: Option<Cost>,
    /// True if the tests shared their process with the programs.
    pub is_forgeable: bool,
    /// Samples that could not be written at all, which count as wrong.
    pub without_answer: usize,
}

/// A task's samples, counted.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskScore {
    /// The task's name.
    pub id: String,
    /// Samples.
    pub samples: usize,
    /// Those that passed.
    pub passed: usize,
    /// Those that passed the original tests.
    pub base_passed: usize,
    /// The first failure's reason, or nothing.
    pub reason: String,
}

/// The cost of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// New tokens.
    pub tokens: u64,
    /// Passes of the model that they took, each sample's counted as if it had been alone.
    pub forwards: u64,
}

impl Cost {
    /// New tokens per pass.
    #[must_use]
    pub fn tokens_per_forward(&self) -> f64 {
        self.tokens as f64 / self.forwards.max(1) as f64
    }
}

impl Summary {
    /// Sums up samples of a benchmark's tasks.
    #[must_use]
    pub fn new(
        benchmark: &str,
        facts: Vec<(String, String)>,
        tasks: &[Task],
        samples: &[Sample],
        verdicts: &[Verdict],
    ) -> Summary {
        let mut scores: BTreeMap<&str, TaskScore> = BTreeMap::new();
        for (sample, verdict) in samples.iter().zip(verdicts) {
            let score = scores.entry(&sample.task).or_insert_with(|| TaskScore {
                id: sample.task.clone(),
                samples: 0,
                passed: 0,
                base_passed: 0,
                reason: String::new(),
            });
            score.samples += 1;
            score.passed += usize::from(verdict.passed);
            score.base_passed += usize::from(verdict.base_passed.unwrap_or(verdict.passed));
            if !verdict.passed && score.reason.is_empty() {
                score.reason.clone_from(&verdict.result);
            }
        }
        let scores: Vec<TaskScore> =
            tasks.iter().filter_map(|task| scores.remove(&*task.id)).collect();
        let fewest = scores.iter().map(|score| score.samples).min().unwrap_or(0);
        let at = |passed: fn(&TaskScore) -> usize| -> Vec<(usize, Estimate)> {
            let counts: Vec<_> =
                scores.iter().map(|score| (score.samples, passed(score))).collect();
            let ks = usual_ks(fewest).into_iter();
            ks.filter_map(|k| Some((k, estimate(&counts, k, INTERVAL_SEED)?))).collect()
        };
        let pass_at = at(|score| score.passed);
        let has_base = tasks.iter().any(|task| matches!(task.tests, Tests::Differential { .. }));
        let base_pass_at = if has_base { at(|score| score.base_passed) } else { Vec::new() };
        Summary {
            benchmark: benchmark.to_owned(),
            facts,
            all_tasks: tasks.len(),
            pass_at,
            base_pass_at,
            cost: cost(samples),
            is_forgeable: verdicts.iter().any(|verdict| verdict.is_forgeable),
            without_answer: samples
                .iter()
                .filter(|sample| sample.line.contains_key("error"))
                .count(),
            tasks: scores,
        }
    }

    /// Samples of all tasks.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.tasks.iter().map(|task| task.samples).sum()
    }

    /// It as one object: `pass@k` by name, each with the ends of its interval.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut object = json!({
            "benchmark": self.benchmark,
            "tasks": self.tasks.len(),
            "tasks_of_benchmark": self.all_tasks,
            "samples": self.samples(),
            "passed": self.tasks.iter().map(|task| task.passed).sum::<usize>(),
            "facts": self.facts.iter().cloned().collect::<BTreeMap<_, _>>(),
        });
        for (prefix, all) in [("", &self.pass_at), ("base_", &self.base_pass_at)] {
            for (k, Estimate { mean, low, high }) in all {
                object[format!("{prefix}pass@{k}")] = (*mean).into();
                object[format!("{prefix}pass@{k}_interval")] = json!([low, high]);
            }
        }
        if let Some(cost) = self.cost {
            object["tokens"] = cost.tokens.into();
            object["forwards"] = cost.forwards.into();
            object["tokens_per_forward"] = cost.tokens_per_forward().into();
        }
        if self.is_forgeable {
            object["forgeable"] = true.into();
        }
        if self.without_answer > 0 {
            object["without_answer"] = self.without_answer.into();
        }
        object
    }

    /// It as Markdown: a table of scores, and what they hold for.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "# {}\n\n| score | estimate | 95 % of draws of tasks |\n|---|---|---|\n",
            self.benchmark
        );
        for (name, Estimate { mean, low, high }) in self.scores() {
            text += &format!(
                "| {name} | {:.1} % | {:.1} to {:.1} % |\n",
                100.0 * mean,
                100.0 * low,
                100.0 * high
            );
        }
        text += &format!("\n{}\n", self.scope());
        if let Some(cost) = self.cost {
            text += &format!(
                "{} new tokens in {} passes, {:.2} a pass.\n",
                cost.tokens,
                cost.forwards,
                cost.tokens_per_forward()
            );
        }
        text.push('\n');
        for (name, value) in &self.facts {
            text += &format!("- {name}: {}\n", lacuna_files::printable(value));
        }
        text
    }

    /// The names of the scores, with their estimates.
    pub(crate) fn scores(&self) -> Vec<(String, Estimate)> {
        let named = |tests: &str, all: &[(usize, Estimate)]| -> Vec<(String, Estimate)> {
            all.iter().map(|(k, estimate)| (format!("pass@{k}{tests}"), *estimate)).collect()
        };
        match self.base_pass_at.is_empty() {
            true => named("", &self.pass_at),
            false => {
                let all = named(" (base and added tests)", &self.pass_at);
                [all, named(" (base tests)", &self.base_pass_at)].concat()
            }
        }
    }

    /// The words for what the scores hold for, and what they do not.
    pub(crate) fn scope(&self) -> String {
        let samples = self.samples();
        let mut text = match self.tasks.len() {
            tasks if tasks < self.all_tasks => format!(
                "{samples} samples of {tasks} of {} tasks: **a part of the benchmark, no score of it**.",
                self.all_tasks
            ),
            tasks => format!("{samples} samples of {tasks} tasks."),
        };
        if self.without_answer > 0 {
            text += &format!(
                " {} of them could not be written (`error` in samples.jsonl says why) and count as wrong.",
                self.without_answer
            );
        }
        if self.is_forgeable {
            text += " The tests look into the programs and share their process: a program that is made to could forge \
                     its verdict.";
        }
        text
    }
}

/// The cost of samples that all say theirs.
fn cost(samples: &[Sample]) -> Option<Cost> {
    let mut cost = Cost { tokens: 0, forwards: 0 };
    for sample in samples.iter().filter(|sample| !sample.line.contains_key("error")) {
        let number = |key: &str| sample.line.get(key).and_then(Json::as_u64);
        cost.tokens += number("tokens")?;
        cost.forwards += number("forwards")?;
    }
    (cost.forwards > 0).then_some(cost)
}
