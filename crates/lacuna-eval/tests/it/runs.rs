//! Runs a model on a benchmark from its prompts to its score, and ends such runs in between.

use lacuna_engine::{EngineOptions, GenerateOptions, Model, OpenOptions, Sampling};
use lacuna_eval::{
    Benchmark, Judge, PromptForm, Question, Summary, Task, Writing, Written, export, judge_all,
    question, read_samples,
};
use serde_json::Value;
use std::num::NonZeroUsize;
use std::path::Path;

use crate::support::{checked, judge};

/// A model that answers every prompt with a sum.
fn model(folder: &Path) -> Model {
    lacuna_test::checkpoints::scripted(folder, &["    return", " a", " +", " b"]);
    Model::open(folder, &OpenOptions::default()).unwrap()
}

fn tasks() -> Vec<Task> {
    let task = |name: &str, operator: &str, result: i32| Task {
        id: format!("HumanEval/{name}"),
        prompt: format!("def {name}(a, b):\n    \"\"\"Say it.\"\"\"\n"),
        ..checked(
            name,
            &format!("    return a {operator} b\n"),
            &format!("def check(candidate):\n    assert candidate(7, 3) == {result}\n"),
        )
    };
    vec![task("add", "+", 10), task("minus", "-", 4), task("xor", "^", 4), task("either", "|", 7)]
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Answers as they are apart from their times and their order.
fn answers(path: &Path) -> Vec<Value> {
    let mut lines = lines(path);
    lines.iter_mut().for_each(|line| line["seconds"] = Value::Null);
    lines.sort_by_key(|line| (line["task_id"].to_string(), line["sample"].as_u64()));
    lines
}

struct Setting<'a> {
    model: &'a Model,
    judge: &'a Judge,
    tasks: &'a [Task],
    options: GenerateOptions,
    samples: usize,
}

impl Setting<'_> {
    fn write(&self, file: &Path) -> lacuna_eval::Result<Written> {
        let writing = Writing {
            model: self.model,
            benchmark: Benchmark::named("humaneval").unwrap(),
            tasks: self.tasks,
            python: self.judge.python(),
            form: PromptForm::Plain,
            samples: self.samples,
            options: &self.options,
            engine: EngineOptions::default(),
        };
        writing.run(file, &mut |_| {})
    }
}

#[test]
fn a_run_goes_from_prompts_to_a_score_in_the_forms_of_all_harnesses() {
    let Some(judge) = judge() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder.path().join("model"));
    let tasks = tasks();
    let options = GenerateOptions { max_new_tokens: 8, ..GenerateOptions::default() };
    let setting = Setting { model: &model, judge: &judge, tasks: &tasks, options, samples: 1 };
    let file = folder.path().join("samples.jsonl");
    let written = setting.write(&file).unwrap();
    assert_eq!((written.done, written.all), (4, 4));
    let line = &answers(&file)[0];
    assert_eq!(line["completion"], "    return a + b");
    for key in ["tokens", "forwards", "seed", "decoder", "finish_reason", "prompt_tokens"] {
        assert!(!line[key].is_null(), "{key}: {line}");
    }
    assert!(line["decoder"]["sampling"]["temperature"].is_number(), "{line}");
    let samples = read_samples(&file, &tasks).unwrap();
    let verdicts = judge_all(
        &judge,
        &tasks,
        &samples,
        &folder.path().join("results.jsonl"),
        NonZeroUsize::new(2).unwrap(),
        &mut |_| {},
    )
    .unwrap();
    let summary = Summary::new(
        "humaneval",
        vec![("model".into(), "<scripted>".into())],
        &tasks,
        &samples,
        &verdicts,
    );
    assert_eq!(summary.to_json()["pass@1"], 0.25);
    export(folder.path(), &tasks, &samples, &verdicts, &summary, "2026-01-01 00:00").unwrap();
    // The files that were written are read again as the same programs.
    let programs = |samples: Vec<lacuna_eval::Sample>| {
        let mut all: Vec<_> =
            samples.into_iter().map(|sample| (sample.task, sample.program)).collect();
        all.sort();
        all
    };
    let expected = programs(samples);
    for name in [
        "samples.jsonl",
        "generations.json",
        "samples_humaneval.jsonl",
        "samples.jsonl_results.jsonl",
    ] {
        let again = read_samples(&folder.path().join(name), &tasks).unwrap();
        assert_eq!(programs(again), expected, "{name}");
    }
    let results = lines(&folder.path().join("results.jsonl"));
    assert_eq!(results.iter().filter(|line| line["passed"] == true).count(), 1);
    let evalplus: Value = serde_json::from_str(
        &std::fs::read_to_string(folder.path().join("samples_eval_results.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(evalplus["eval"]["HumanEval/add"][0]["base_status"], "pass");
    assert_eq!(evalplus["eval"]["HumanEval/minus"][0]["base_status"], "fail");
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(
        page.contains("<svg") && page.contains("&lt;scripted&gt;") && !page.contains("<scripted>")
    );
    let summary = std::fs::read_to_string(folder.path().join("summary.md")).unwrap();
    assert!(summary.contains("| pass@1 | 25.0 % |"), "{summary}");
}

#[test]
fn a_run_that_was_ended_anywhere_goes_on_to_the_same_answers() {
    let Some(judge) = judge() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder.path().join("model"));
    let tasks = tasks();
    let options = GenerateOptions {
        max_new_tokens: 6,
        sampling: Sampling { temperature: 1.0, seed: 3, ..Sampling::default() },
        ..GenerateOptions::default()
    };
    let setting = Setting { model: &model, judge: &judge, tasks: &tasks, options, samples: 2 };
    let file = folder.path().join("samples.jsonl");
    setting.write(&file).unwrap();
    let (whole, expected) = (std::fs::read(&file).unwrap(), answers(&file));
    assert_eq!(expected.len(), 8);
    let seeds: std::collections::HashSet<_> =
        expected.iter().map(|line| line["seed"].to_string()).collect();
    assert_eq!(seeds.len(), 8, "every sample has a seed of its own");
    for cut in (0..whole.len()).step_by(211).chain([whole.len() - 1]) {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let before = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let kept = whole[..cut].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        setting.write(&file).unwrap();
        assert_eq!(answers(&file), expected, "cut at {cut}");
        let now = std::fs::read(&file).unwrap();
        assert_eq!(now[..kept], whole[..kept], "{before} whole lines stay as they are");
    }
    // Verdicts as well.
    let samples = read_samples(&file, &tasks).unwrap();
    let results = folder.path().join("results.jsonl");
    let jobs = NonZeroUsize::new(2).unwrap();
    let all = judge_all(&judge, &tasks, &samples, &results, jobs, &mut |_| {}).unwrap();
    let whole = std::fs::read(&results).unwrap();
    for cut in [0, whole.len() / 2, whole.len() - 3] {
        std::fs::write(&results, &whole[..cut]).unwrap();
        let kept = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let mut first = None;
        let again = judge_all(&judge, &tasks, &samples, &results, jobs, &mut |done| {
            let _ = first.get_or_insert(done);
        });
        assert_eq!(again.unwrap(), all);
        assert_eq!(first, Some(kept), "what was judged is not judged again");
    }
}

#[test]
fn answers_of_another_run_are_not_gone_on_with() {
    let Some(judge) = judge() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder.path().join("model"));
    let tasks = tasks();
    let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let mut setting =
        Setting { model: &model, judge: &judge, tasks: &tasks[..2], options, samples: 1 };
    let file = folder.path().join("samples.jsonl");
    setting.write(&file).unwrap();
    let before = std::fs::read(&file).unwrap();
    setting.options.max_new_tokens = 7;
    let error = setting.write(&file).unwrap_err().to_string();
    assert!(error.contains("other settings") && error.contains(":1:"), "{error}");
    std::fs::write(&file, "somebody's words").unwrap();
    assert!(setting.write(&file).is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's words");
    std::fs::write(&file, before).unwrap();
    setting.options.max_new_tokens = 6;
    setting.tasks = &tasks;
    assert_eq!(setting.write(&file).unwrap().done, 4, "more tasks are");
    setting.samples = 2;
    let error = setting.write(&file).unwrap_err().to_string();
    assert!(error.contains("temperature 0"), "{error}");
}

#[test]
fn prompts_are_the_benchmarks_own() {
    let task = &tasks()[0];
    let humaneval = Benchmark::named("humaneval").unwrap();
    let plain = question(humaneval, task, PromptForm::Plain).unwrap();
    assert_eq!(plain, Question::Text("def add(a, b):\n    \"\"\"Say it.\"\"\"\n".into()));
    let Question::Chat { message, answer } = question(humaneval, task, PromptForm::Chat).unwrap()
    else {
        panic!()
    };
    assert_eq!(
        message,
        "Please provide a self-contained Python script that solves the following problem in a markdown code \
         block:\n```\ndef add(a, b):\n    \"\"\"Say it.\"\"\"\n```\n"
    );
    assert_eq!(
        answer,
        "Below is a Python script with a self-contained function that solves the problem and passes corresponding \
         tests:\n```python\n"
    );
    let hole = Task { suffix: Some("\nend".into()), ..task.clone() };
    let infilling = Benchmark::named("infilling-single-line").unwrap();
    assert!(matches!(question(infilling, &hole, PromptForm::Plain), Ok(Question::Hole { .. })));
    assert!(question(infilling, &hole, PromptForm::Chat).is_err());
}
