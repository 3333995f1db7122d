//! Judges exercises by tests in files of their own, in two tries, as Aider's benchmark does.

use std::path::Path;

use crate::support::{judge, verdict};
use lacuna_eval::{
    Benchmark, Earlier, PromptForm, Question, Task, Tests, answer, question, read_tasks,
};

const STUB: &str = "def is_leap(year):\n    pass\n";
const EXAMPLE: &str =
    "def is_leap(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)\n";

fn benchmark() -> &'static Benchmark {
    Benchmark::named("aider").unwrap()
}

/// A folder with one exercise, with a helper beside its test, and another folder that is none.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let exercise = folder.path().join("leap");
    for part in [".meta", ".docs"] {
        std::fs::create_dir_all(exercise.join(part)).unwrap();
    }
    std::fs::create_dir(folder.path().join("no-exercise")).unwrap();
    let config = serde_json::json!({ "authors": [], "files": {
        "solution": ["leap.py"], "test": ["leap_test.py", "years.py"], "example": [".meta/example.py"],
    }});
    let test = "import unittest\nfrom leap import is_leap\nfrom years import YEARS\nclass LeapTest(unittest.TestCase):\n    def \
                test_common(self):\n        self.assertIs(is_leap(2015), False)\n    def test_all(self):\n        for year, \
                leap in YEARS:\n            with self.subTest(year=year):\n                \
                self.assertIs(is_leap(year), leap)\n";
    for (name, text) in [
        (".meta/config.json", &*config.to_string()),
        (".meta/example.py", EXAMPLE),
        (".docs/instructions.md", "# Instructions\n\nIs a year a leap year?\n"),
        (".docs/instructions.append.md", "Answer with True or False.\n"),
        ("leap.py", STUB),
        ("leap_test.py", test),
        ("years.py", "YEARS = [(1996, True), (1900, False), (2000, True)]\n"),
    ] {
        std::fs::write(exercise.join(name), text).unwrap();
    }
    folder
}

fn task() -> Task {
    read_tasks(benchmark(), folder().path()).unwrap().remove(0)
}

#[test]
fn an_exercise_passes_where_all_its_tests_do_and_says_which_fail() {
    let Some(judge) = judge() else { return };
    let task = task();
    assert_eq!((&*task.id, &*task.entry, &*task.prompt), ("leap", "leap", STUB));
    let right = verdict(&judge, &task, &task.solution());
    assert!(right.passed && right.is_forgeable, "{}", right.result);
    let wrong = "def is_leap(year):\n    return year % 4 == 0\n";
    let result = verdict(&judge, &task, wrong).result;
    assert!(result.contains("test_all: AssertionError"), "{result}");
    let told = judge.told(&task, STUB).unwrap();
    assert!(told.contains("test_common: AssertionError: None is not False"), "{told}");
    // Each part of a test that fails has a line.
    assert_eq!(told.lines().count(), 4, "{told}");
    for broken in ["def is_leap(:", "import os; os._exit(0)", "raise SystemExit(0)", ""] {
        assert!(!verdict(&judge, &task, broken).passed, "{broken}");
        assert!(judge.told(&task, broken).unwrap().is_empty(), "no test came to its end");
    }
}

#[test]
fn an_exercise_that_never_ends_is_late() {
    let Some(mut judge) = judge() else { return };
    judge.cases_s = 1.0;
    let endless = "def is_leap(year):\n    while True: pass\n";
    assert_eq!(verdict(&judge, &task(), endless).result, "timed out");
}

#[test]
fn a_second_try_is_told_what_failed() {
    let Some(judge) = judge() else { return };
    let mut task = task();
    let error = question(benchmark(), &task, PromptForm::Plain).unwrap_err().to_string();
    assert!(error.contains("--prompt-form chat"), "{error}");
    let Ok(Question::Chat { message, .. }) = question(benchmark(), &task, PromptForm::Chat) else {
        panic!("no chat")
    };
    for words in
        ["Is a year a leap year?", "True or False.", "leap.py\n```python\ndef is_leap(year):"]
    {
        assert!(message.contains(words), "{message}");
    }
    let text = "leap.py\n```python\ndef is_leap(year):\n    return True\n```\n";
    let made = answer(judge.python(), benchmark(), &task, PromptForm::Chat, text).unwrap();
    assert_eq!(made.solution, "def is_leap(year):\n    return True\n");
    let told = judge.told(&task, &made.solution).unwrap();
    let Tests::Exercise { earlier, .. } = &mut task.tests else { panic!("{task:?}") };
    *earlier = Some(Earlier { answer: text.into(), told });
    let again = question(benchmark(), &task, PromptForm::Chat).unwrap();
    let Question::Again { message: same, answer: words, reply } = again else {
        panic!("{again:?}")
    };
    assert_eq!((same, &*words), (message, text));
    assert!(
        reply.contains("test_common: AssertionError") && reply.contains("Change leap.py"),
        "{reply}"
    );
}

#[test]
fn answers_from_elsewhere_are_read_as_the_models_own() {
    let task = task();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("samples.jsonl");
    let fenced = format!("Sure.\n\nleap.py\n```python\n{EXAMPLE}```\n");
    let block = "<<<<<<< SEARCH\n    pass\n=======\n    return True\n>>>>>>> REPLACE\n";
    for (completion, program) in [
        (EXAMPLE, EXAMPLE.to_owned()),
        (&*fenced, EXAMPLE.to_owned()),
        (block, STUB.replace("pass", "return True")),
    ] {
        let line = serde_json::json!({ "task_id": "leap", "completion": completion });
        std::fs::write(&file, format!("{line}\n")).unwrap();
        let read = lacuna_eval::read_samples(&file, std::slice::from_ref(&task)).unwrap();
        assert_eq!(read[0].program, program);
    }
}

#[test]
fn a_verdict_by_other_tests_is_not_taken_for_one_by_these() {
    let Some(judge) = judge() else { return };
    let mut task = task();
    let folder = tempfile::tempdir().unwrap();
    let (samples, results) = (folder.path().join("s.jsonl"), folder.path().join("r.jsonl"));
    let line = serde_json::json!({ "task_id": "leap", "solution": STUB });
    std::fs::write(&samples, format!("{line}\n")).unwrap();
    let read = lacuna_eval::read_samples(&samples, std::slice::from_ref(&task)).unwrap();
    let judged = |task: &Task| {
        let tasks = std::slice::from_ref(task);
        let one = std::num::NonZeroUsize::MIN;
        lacuna_eval::judge_all(&judge, tasks, &read, &results, one, &mut |_| {})
    };
    assert!(!judged(&task).unwrap()[0].passed);
    assert!(!judged(&task).unwrap()[0].passed, "the verdict is kept");
    let Tests::Exercise { tests, .. } = &mut task.tests else { panic!("{task:?}") };
    tests[0].1 =
        "import unittest\nclass T(unittest.TestCase):\n    def test_it(self): pass\n".into();
    let error = judged(&task).unwrap_err().to_string();
    assert!(error.contains("by other tests") && error.contains("r.jsonl:1"), "{error}");
}

#[test]
fn folders_that_are_no_exercises_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    let error = read_tasks(benchmark(), empty.path()).unwrap_err().to_string();
    assert!(error.contains("no exercise") && error.contains("exercises/practice"), "{error}");
    let file = empty.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = read_tasks(benchmark(), &file).unwrap_err().to_string();
    assert!(error.contains("expected a folder of exercises"), "{error}");
    // The repository's own folder leads to them.
    let practice = empty.path().join("exercises/practice");
    std::fs::create_dir_all(practice.parent().unwrap()).unwrap();
    let folder = folder();
    std::fs::rename(folder.path().join("leap"), empty.path().join("leap")).unwrap();
    std::fs::create_dir(&practice).unwrap();
    std::fs::rename(empty.path().join("leap"), practice.join("leap")).unwrap();
    assert_eq!(read_tasks(benchmark(), empty.path()).unwrap().len(), 1);
    let folder = self::folder();
    let config = folder.path().join("leap/.meta/config.json");
    let files = |solution: &str, test: &str| {
        format!(r#"{{"files": {{"solution": [{solution}], "test": [{test}], "example": ["b"]}}}}"#)
    };
    for (json, says) in [
        ("{".to_owned(), "config.json"),
        ("{}".to_owned(), "`files.solution` is no list of names"),
        (files(r#""../leap.py""#, r#""a""#), "is no list of names"),
        (files(r#""leap.py", 3"#, r#""a""#), "is no list of names"),
        (files(r#""leap.py", "a.py""#, r#""a""#), "names 2 files"),
        (files(r#""leap.rb""#, r#""a""#), "no module of Python"),
        (files(r#""leap.py""#, r#""years.py""#), "ends in _test.py"),
        (files(r#""leap.py""#, r#""leap.py""#), "would not stand beside"),
    ] {
        std::fs::write(&config, &json).unwrap();
        let error = read_tasks(benchmark(), folder.path()).unwrap_err().to_string();
        assert!(error.contains(says), "{json}: {error}");
    }
}

/// The examples of the published exercises: whoever has them runs this.
#[test]
#[ignore = "needs exercises/practice of Exercism's Python track: LACUNA_EXERCISES names the folder"]
fn every_published_example_passes() {
    let judge = judge().expect("a machine with a sandbox");
    let folder = std::env::var_os("LACUNA_EXERCISES").expect("LACUNA_EXERCISES names a folder");
    let tasks = read_tasks(benchmark(), Path::new(&folder)).unwrap();
    let (mut failed, mut refactorings) = (Vec::new(), Vec::new());
    for task in &tasks {
        let own = verdict(&judge, task, &task.solution());
        if !own.passed {
            failed.push(format!("{}: {}", task.id, own.result));
        }
        if verdict(&judge, task, &task.prompt).passed {
            refactorings.push(&*task.id);
        }
    }
    println!("{} exercises; their examples that fail: {failed:#?}", tasks.len());
    assert!(failed.is_empty() && tasks.len() > 100);
    // Its file works, and is to be made better.
    assert_eq!(refactorings, ["markdown"]);
}
