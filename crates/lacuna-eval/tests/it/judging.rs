//! Holds the judge to right verdicts on honest programs.

use crate::support::{checked, compared, judge, problems, problems_plus, verdict, wrong};
use lacuna_eval::{Benchmark, PromptForm, Python, Task, Tests, answer, sanitize};

#[test]
fn every_solution_passes_and_every_wrong_one_fails() {
    let Some(judge) = judge() else { return };
    let (tasks, wrong) = (problems(), wrong());
    assert_eq!(tasks.len(), 12);
    for (task, wrong) in tasks.iter().zip(&wrong) {
        let right = verdict(&judge, task, &task.solution());
        assert!(right.passed && right.result == "passed", "{}: {}", task.id, right.result);
        for completion in wrong {
            let verdict = verdict(&judge, task, &task.program(completion));
            assert!(!verdict.passed, "{}: {completion}", task.id);
            assert!(verdict.result.starts_with("failed: "), "{}", verdict.result);
        }
    }
}

#[test]
fn the_same_holds_where_results_are_compared() {
    let Some(judge) = judge() else { return };
    let mut refused = 0;
    for (task, wrong) in problems_plus().iter().zip(&wrong()) {
        let right = verdict(&judge, task, &task.solution());
        assert!(right.passed, "{}: {}", task.id, right.result);
        assert_eq!(right.base_passed, Some(true));
        refused += wrong.iter().filter(|w| !verdict(&judge, task, &task.program(w)).passed).count();
    }
    // Errors are not among the inputs: the two wrong halves differ only there.
    assert!(refused >= 20, "{refused}");
}

#[test]
fn base_and_added_tests_are_told_apart() {
    let Some(judge) = judge() else { return };
    let task = compared("square", "def square(x):\n    return x * x\n", "[[2], [0]]", "[[3]]");
    let wrong = verdict(&judge, &task, "def square(x):\n    return 2 * x\n");
    assert_eq!((wrong.passed, wrong.base_passed), (false, Some(true)));
    let wrong = verdict(&judge, &task, "def square(x):\n    return 2\n");
    assert_eq!((wrong.passed, wrong.base_passed), (false, Some(false)));
}

#[test]
fn a_check_whose_calls_depend_on_answers_is_followed() {
    let Some(judge) = judge() else { return };
    let check = "def check(candidate):\n    x = 7\n    for _ in range(16):\n        x = candidate(x)\n    assert x == 1\n";
    let solution = "def step(x):\n    return 3 * x + 1 if x % 2 else x // 2\n";
    let task = checked("step", solution, check);
    assert!(verdict(&judge, &task, solution).passed);
    // Another way to the same end: its calls are others than the solution's.
    assert!(verdict(&judge, &task, "def step(x):\n    return x - 1 if x > 1 else 1\n").passed);
    assert!(!verdict(&judge, &task, "def step(x):\n    return x + 1\n").passed);
}

#[test]
fn a_check_may_use_what_the_prompt_defines_and_no_program_redefines_it() {
    let Some(judge) = judge() else { return };
    let task = Task {
        prompt: "def encode(x):\n    return x + 1\n\n\ndef decode(x):\n".into(),
        canonical: "    return x - 1\n".into(),
        ..checked(
            "decode",
            "",
            "def check(candidate):\n    for x in range(9):\n        assert candidate(encode(x)) == x\n",
        )
    };
    assert!(verdict(&judge, &task, &task.solution()).passed);
    assert!(
        !verdict(&judge, &task, "def encode(x):\n    return x\ndef decode(x):\n    return x\n")
            .passed
    );
}

#[test]
fn assertions_that_call_by_name_are_a_check_too() {
    let Some(judge) = judge() else { return };
    let program =
        "import math\nassert pair((1, 2)) == (2, 1)\nassert math.isclose(pair((0.5, 1))[0], 1)\n";
    let tests = Tests::Check { program: program.into(), takes_candidate: false };
    let task = Task { tests, ..checked("pair", "def pair(p):\n    return (p[1], p[0])\n", "") };
    assert!(verdict(&judge, &task, &task.solution()).passed);
    assert!(!verdict(&judge, &task, "def pair(p):\n    return [p[1], p[0]]\n").passed);
}

#[test]
fn a_task_at_fault_is_an_error_and_no_verdict() {
    let Some(judge) = judge() else { return };
    let fails = |task: &Task, reason: &str| {
        let error = judge.judge(task, &task.solution()).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(&task.id), "{error}");
    };
    let check = "def check(candidate):\n    assert candidate(1) == 2\n";
    fails(
        &checked("same", "def same(x):\n    return x\n", check),
        "its own solution does not pass",
    );
    let check = "def check(candidate):\n    assert candidate(print) == 2\n";
    fails(&checked("call", "def call(f):\n    return 2\n", check), "no plain value");
    fails(
        &compared("broken", "def broken(x):\n    return 1 / x\n", "[[0]]", "[]"),
        "ZeroDivisionError",
    );
    let check = "import os\ndef check(candidate):\n    os._exit(0)\n";
    fails(&checked("ends", "def ends(x):\n    return x\n", check), "ends the process");
}

#[test]
fn an_answer_of_a_chat_has_the_imports_of_its_prompt_as_human_eval_gives_it() {
    let Some(judge) = judge() else { return };
    let check = "def check(candidate):\n    assert candidate(2) == [1, 1]\n";
    let task = Task {
        prompt:
            "from typing import List\n\n\ndef ones(n: int) -> List[int]:\n    \"\"\"Ones.\"\"\"\n"
                .into(),
        canonical: "    return [1] * n\n".into(),
        ..checked("ones", "", check)
    };
    let words = "def ones(n: int) -> List[int]:\n    return [1] * n\n```\nThat is all.";
    let humaneval = Benchmark::named("humaneval").unwrap();
    let made = answer(judge.python(), humaneval, &task, PromptForm::Chat, words).unwrap();
    assert_eq!(made.solution, task.program(&made.completion));
    assert!(verdict(&judge, &task, &made.solution).passed);
    let plus = Benchmark::named("humaneval+").unwrap();
    let task = Task { tests: compared("ones", "", "[[2]]", "[]").tests, ..task };
    let made = answer(judge.python(), plus, &task, PromptForm::Chat, words).unwrap();
    assert!(verdict(&judge, &task, &made.solution).result.contains("NameError"), "as in EvalPlus");
}

#[test]
fn an_answer_is_cut_down_to_what_its_function_needs() {
    let Some(judge) = judge() else { return };
    let python: &Python = judge.python();
    let text = "Here is the code:\n\nimport math\nfrom os import path\n\nLIMIT = 3\nUNUSED = 4\n\n@decorated\ndef helper(x):\n    return x + LIMIT\n\n\
                def other():\n    return 1\n\ndef wanted(x: int) -> int:\n    \"\"\"Doc.\"\"\"\n    return helper(x)\n\nprint(wanted(2))\nassert wanted(1)\n";
    let code = sanitize(python, text, "wanted").unwrap();
    assert_eq!(
        code,
        "import math\nfrom os import path\nLIMIT = 3\n@decorated\ndef helper(x):\n    return x + LIMIT\ndef wanted(x: int) \
         -> int:\n    \"\"\"Doc.\"\"\"\n    return helper(x)"
    );
    let cut = "def wanted(x):\n    return x\n\ndef half(x):\n    return (x +";
    assert_eq!(sanitize(python, cut, "wanted").unwrap(), "def wanted(x):\n    return x");
    assert_eq!(
        sanitize(python, "x = 1", "wanted").unwrap(),
        "x = 1",
        "all that parses, where the function is not there"
    );
    assert_eq!(sanitize(python, "no code (at all", "wanted").unwrap(), "");
}
