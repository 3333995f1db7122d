//! Judges by cases of `unittest` that share a module with the program, as BigCodeBench does.

use crate::support::{judge, verdict};
use lacuna_eval::{Benchmark, PromptForm, Question, Task, Tests, answer, question, read_tasks};

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
    // Libraries start programs, and ask for a place and a name.
    let busy = "    import getpass, subprocess, tempfile\n    subprocess.run(['/bin/true'], check=True)\n    \
                os.rmdir(tempfile.mkdtemp())\n    getpass.getuser()\n";
    let busy = verdict(&judge, &task, &task.program(&[busy, BODY].concat()));
    assert!(busy.passed, "{}", busy.result);
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
fn a_verdict_says_which_case_failed_and_why_or_that_time_was_up() {
    let Some(mut judge) = judge() else { return };
    let with = |cases: &str| {
        let program = format!("import unittest\nclass TestCases(unittest.TestCase):\n{cases}");
        Task { tests: Tests::Cases { program, head: HEAD.into() }, ..task() }
    };
    let multiline =
        with("    def test_lists(self):\n        self.assertEqual([1] * 30, [2] * 30)\n");
    let result = verdict(&judge, &multiline, "").result;
    assert!(result.starts_with("failed: test_lists: AssertionError: Lists differ"), "{result}");
    let sub = with(
        "    def test_parts(self):\n        for x in (1.5, 2.5):\n            with self.subTest(x=x):\n                \
         self.assertEqual(x, 1.5)\n",
    );
    assert!(verdict(&judge, &sub, "").result.contains("test_parts: AssertionError: 2.5 != 1.5"));
    let skipped = with("    @unittest.skip('no network')\n    def test_it(self): pass\n");
    assert!(verdict(&judge, &skipped, "").passed);
    assert!(verdict(&judge, &with("    pass\n"), "").result.contains("no case in it"));
    judge.cases_s = 1.0;
    let endless = with(
        "    def test_a(self):\n        while True: pass\n    def test_b(self):\n        self.fail('later')\n",
    );
    assert_eq!(verdict(&judge, &endless, "").result, "timed out");
}

#[test]
fn a_library_that_is_not_there_is_no_fault_of_the_program() {
    let Some(judge) = judge() else { return };
    let task = Task { canonical: format!("    import no_such_library\n{BODY}"), ..task() };
    let lacking = task.program("    import no_such_library\n");
    let error = judge.judge(&task, &lacking).unwrap_err().to_string();
    assert!(error.contains("no_such_library") && error.contains("--python"), "{error}");
    // Another library is the program's own mistake.
    let right = self::task();
    assert!(!verdict(&judge, &right, &right.program("    import no_such_library\n")).passed);
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
    // The whole benchmark names its tasks alike.
    assert!(Benchmark::of_task(&task.id).is_none());
}
