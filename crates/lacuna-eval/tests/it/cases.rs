//! Judges by cases of `unittest` that share a module with the program, as BigCodeBench does.

use crate::support::{judge, verdict};
use lacuna_eval::{Benchmark, PromptForm, Question, Task, answer, question, read_tasks};

const HEAD: &str = "import collections\nimport os\ndef task_func(path, text):\n";

/// A task of BigCodeBench's form, with cases that write files and patch a name of the program's module.
fn task() -> Task {
    let prompt =
        format!("{HEAD}    \"\"\"\n    Writes a text, and counts its letters.\n    \"\"\"\n");
    let test = "import unittest\nfrom unittest.mock import patch\nclass TestCases(unittest.TestCase):\n    \
                def test_count(self):\n        self.assertEqual(task_func('a.txt', 'aab')['a'], 2)\n        \
                self.assertTrue(os.path.exists('a.txt'))\n    def test_patched(self):\n        \
                with patch('__test__.collections.Counter', return_value=7):\n            \
                self.assertEqual(task_func('b.txt', 'b'), 7)\n";
    let line = serde_json::json!({
        "task_id": "BigCodeBench/7", "complete_prompt": prompt, "instruct_prompt": "Write it.", "code_prompt": HEAD,
        "canonical_solution": BODY, "test": test, "entry_point": "task_func", "libs": "['os', 'collections']",
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.jsonl");
    std::fs::write(&file, format!("{line}\n")).unwrap();
    read_tasks(benchmark(), &file).unwrap().remove(0)
}

const BODY: &str = "    with open(path, 'w') as file:\n        file.write(text)\n    return collections.Counter(text)\n";

fn benchmark() -> &'static Benchmark {
    Benchmark::named("bigcodebench-hard").unwrap()
}

#[test]
fn cases_may_write_files_and_patch_the_module() {
    let Some(judge) = judge() else { return };
    let task = task();
    let right = verdict(&judge, &task, &task.solution());
    assert!(right.passed && right.is_forgeable, "{}", right.result);
    // An answer without the imports of the prompt.
    let bare = format!("def task_func(path, text):\n{BODY}");
    assert!(verdict(&judge, &task, &bare).passed, "{}", verdict(&judge, &task, &bare).result);
    let wrong = verdict(&judge, &task, &task.program("    return {'a': 1}\n"));
    assert!(!wrong.passed && wrong.result.contains("test_count"), "{}", wrong.result);
    for other in
        ["import os; os._exit(0)", "exit(0)", "", "raise ValueError('no')", "def task_func(:"]
    {
        let other = verdict(&judge, &task, other);
        assert!(!other.passed && other.result.starts_with("failed: "), "{}", other.result);
    }
}

#[test]
fn a_completion_is_asked_for_as_the_authors_do() {
    let Some(judge) = judge() else { return };
    let task = task();
    let Ok(Question::Text(plain)) = question(benchmark(), &task, PromptForm::Plain) else {
        panic!("no text")
    };
    assert_eq!(plain, format!("{}\n", task.prompt.trim()));
    let text = format!("{BODY}\ndef other():\n    pass\n");
    let made = answer(judge.python(), benchmark(), &task, PromptForm::Plain, &text).unwrap();
    assert!(
        made.solution.contains("Counter(text)") && !made.solution.contains("other"),
        "{}",
        made.solution
    );
    assert!(verdict(&judge, &task, &made.solution).passed);
    assert_eq!(Benchmark::of_task(&task.id).unwrap().name, "bigcodebench-hard");
}
