//! Holds the judge to right verdicts on programs in other languages, of which this machine has some.

use std::path::Path;

use crate::support::{judge, verdict};
use lacuna_eval::{
    Benchmark, CompletionEnd, Language, PromptForm, Task, Tests, answer, read_tasks,
};

/// A sum in a language: how it begins, its right and its wrong end, and the tests behind it.
struct Sum {
    benchmark: &'static str,
    language: Language,
    prompt: &'static str,
    right: &'static str,
    wrong: &'static str,
    test: &'static str,
}

const SUMS: [Sum; 7] = [
    Sum {
        benchmark: "mbxp-javascript",
        language: Language::JavaScript,
        prompt: "// Adds.\nfunction add(a, b) {\n",
        right: "  return a + b;\n}\n",
        wrong: "  return a - b;\n}\n",
        test: "if (add(2, 3) !== 5) {\n  throw 'Error at 1th assert statement.';\n}\n",
    },
    Sum {
        benchmark: "mbxp-java",
        language: Language::Java,
        prompt: "class Add {\n    public static int add(int a, int b) {\n",
        right: "        return a + b;\n    }\n}\n",
        wrong: "        return a - b;\n    }\n}\n",
        test: "class Main {\n    public static void main(String[] args) throws Exception {\n        if (Add.add(2, 3) != 5) \
               throw new java.lang.Exception(\"test case 0 did not pass\");\n    }\n}\n",
    },
    Sum {
        benchmark: "mbxp-cpp",
        language: Language::Cpp,
        prompt: "#include <stdexcept>\nusing namespace std;\nint add(int a, int b) {\n",
        right: "  return a + b;\n}\n",
        wrong: "  return a - b;\n}\n",
        test: "int main() {\n  if (add(2, 3) != 5) throw runtime_error(\"test case 0 did not pass.\");\n  return 0;\n}\n",
    },
    Sum {
        benchmark: "mbxp-go",
        language: Language::Go,
        prompt: "package main\n\n// Adds.\nfunc add(a int, b int) int {\n",
        right: "\treturn a + b\n}\n",
        wrong: "\treturn a - b\n}\n",
        test: "func main() {\n\tif add(2, 3) != 5 {\n\t\tpanic(\"Exception --- test case 0 failed to pass\")\n\t}\n}\n",
    },
    Sum {
        benchmark: "mbxp-php",
        language: Language::Php,
        prompt: "<?php\nfunction add($a, $b) {\n",
        right: "    return $a + $b;\n}\n",
        wrong: "    return $a - $b;\n}\n",
        test: "if (add(2, 3) != 5) {\n    throw new Exception(\"Error at 1th assert statement.\");\n}\n",
    },
    Sum {
        benchmark: "mbxp-perl",
        language: Language::Perl,
        prompt: "# Adds.\nsub add\n{\n  my ($a, $b) = @_;\n",
        right: "  return $a + $b;\n}\n",
        wrong: "  return $a - $b;\n}\n",
        test: "die \"Exception -- test case 0 did not pass.\" unless add(2, 3) == 5;\n",
    },
    Sum {
        benchmark: "mbxp-ruby",
        language: Language::Ruby,
        prompt: "# Adds.\ndef add(a, b)\n",
        right: "  a + b\nend\n",
        wrong: "  a - b\nend\n",
        test: "raise StandardError, \"Error at test case 1\" if add(2, 3) != 5\n",
    },
];

fn task(sum: &Sum) -> Task {
    let line = serde_json::json!({
        "task_id": format!("{}/1", sum.benchmark), "prompt": sum.prompt, "entry_point": "add",
        "canonical_solution": sum.right, "test": sum.test, "language": sum.benchmark,
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.jsonl");
    std::fs::write(&file, format!("{line}\n")).unwrap();
    read_tasks(Benchmark::named(sum.benchmark).unwrap(), &file).unwrap().remove(0)
}

#[test]
fn right_programs_pass_and_others_fail_with_a_reason_in_every_language_that_is_here() {
    let Some(judge) = judge() else { return };
    for sum in SUMS {
        if let Err(error) = sum.language.check().and_then(|()| sum.language.check_packages(false)) {
            eprintln!("SKIPPED {}: {error}", sum.benchmark);
            continue;
        }
        let task = task(&sum);
        assert!(matches!(&task.tests, Tests::Behind { language, .. } if *language == sum.language));
        let right = verdict(&judge, &task, &task.solution());
        assert!(right.passed && right.is_forgeable, "{}: {}", sum.benchmark, right.result);
        let wrong = verdict(&judge, &task, &task.program(sum.wrong));
        assert!(
            !wrong.passed && wrong.result.contains("1") | wrong.result.contains("0"),
            "{wrong:?}"
        );
        let broken = verdict(&judge, &task, &task.program("  return (((\n"));
        assert!(broken.result.starts_with("failed: "), "{broken:?}");
    }
}

/// A task of MultiPL-E's form: how the authors translate a sum, with the tests that go on where a completion ends.
fn translated(language: &str) -> (&'static Benchmark, Task, [&'static str; 2]) {
    let (prompt, tests, stops, ends): (_, _, &[&str], _) = match language {
        "cpp" => (
            "#include<assert.h>\n#include<bits/stdc++.h>\n// Add two numbers.\nlong add(long x, long y) {\n",
            "}\nint main() {\n    auto candidate = add;\n    assert(candidate((2), (3)) == (5));\n}\n",
            &["\n}"],
            ["    return x + y;", "    return x - y;"],
        ),
        "javascript" => (
            "//Add two numbers.\nfunction add(x, y){\n",
            "const assert = require('node:assert');\n\n\nfunction test() {\n  let candidate = add;\n  \
             assert.deepEqual(candidate(2, 3),5);\n}\n\ntest();",
            &["\nfunction ", "\n/*", "\n//", "\nconsole.log"],
            ["  return x + y;\n}\n", "  return x - y;\n}\n"],
        ),
        "php" => (
            "<?php\n// Add two numbers.\nfunction add($x, $y) {\n",
            "function candidate(...$args) {\n    return add(...$args);\n}\n\nfunction test(): void {\n    if \
             (candidate(2, 3) !== 5) { throw new Exception(\"Test failed!\"); }\n}\n\ntest();",
            &["\nfunction", "\n?>", "\n//", "\n#"],
            ["    return $x + $y;\n}\n", "    return $x - $y;\n}\n"],
        ),
        _ => (
            "#!/bin/bash\n# Add two numbers.\n#\n# $1 is an integer\n# $2 is an integer\nadd() {\n",
            "}\n\ncandidate() {\n    add \"$@\"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate \"2\" \"3\") = \"5\" ]]\n}\n\n\
             run_test",
            &["\n}"],
            ["    echo $(($1 + $2))", "    echo $(($1 - $2))"],
        ),
    };
    let short = match language {
        "javascript" => "js",
        "bash" => "sh",
        other => other,
    };
    let object = serde_json::json!([{
        "name": "HumanEval_53_add", "language": short, "prompt": prompt, "tests": tests, "stop_tokens": stops,
        "doctests": "transform", "prompt_terminology": "reworded",
    }]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.json");
    std::fs::write(&file, serde_json::to_string_pretty(&object).unwrap()).unwrap();
    let benchmark = Benchmark::named(&format!("multipl-e-{language}")).unwrap();
    (benchmark, read_tasks(benchmark, &file).unwrap().remove(0), ends)
}

#[test]
fn translated_tests_go_on_where_a_completion_ends() {
    let Some(judge) = judge() else { return };
    for language in ["cpp", "javascript", "php", "bash"] {
        let (benchmark, task, [right, wrong]) = translated(language);
        assert_eq!((&*task.id, &*task.entry), ("HumanEval_53_add", "add"));
        let Tests::Behind { language: tools, end: CompletionEnd::Before(stops), .. } = &task.tests
        else {
            panic!("{task:?}")
        };
        if let Err(error) = tools.check() {
            eprintln!("SKIPPED {}: {error}", benchmark.name);
            continue;
        }
        let answered = |end: &str| {
            // A model that goes on behind its function is cut.
            let text = format!("{}{} and more", end, stops[0]);
            answer(judge.python(), benchmark, &task, PromptForm::Plain, &text).unwrap()
        };
        assert_eq!(answered(right).completion, right, "{language}");
        let verdict = |end: &str| verdict(&judge, &task, &answered(end).solution);
        let (right, wrong) = (verdict(right), verdict(wrong));
        assert!(right.passed && right.is_forgeable, "{right:?}");
        // It runs, and its result is wrong.
        assert!(!wrong.passed && !wrong.result.contains("not compile"), "{wrong:?}");
        assert!(!verdict("    return (((").passed, "{language}");
    }
}

#[test]
fn a_file_of_another_language_is_refused_and_completions_of_others_are_cut() {
    let (_, task, [right, _]) = translated("bash");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.jsonl");
    let line = serde_json::json!({
        "name": "HumanEval_53_add", "language": "sh", "prompt": task.prompt, "tests": "}", "stop_tokens": ["\n}"],
    });
    std::fs::write(&file, format!("\u{feff}{line}\n")).unwrap();
    assert_eq!(read_tasks(Benchmark::named("multipl-e-bash").unwrap(), &file).unwrap().len(), 1);
    let error =
        read_tasks(Benchmark::named("multipl-e-cpp").unwrap(), &file).unwrap_err().to_string();
    assert!(error.contains("`language` is `sh`, expected `cpp`"), "{error}");
    let samples = folder.path().join("samples.jsonl");
    let sample = serde_json::json!({
        "task_id": task.id, "completion": format!("{right}\n}}\n\necho done\n"),
    });
    std::fs::write(&samples, format!("{sample}\n")).unwrap();
    let read = lacuna_eval::read_samples(&samples, std::slice::from_ref(&task)).unwrap();
    assert_eq!(read[0].program, task.program(right));
}

#[test]
fn an_answer_is_its_function_alone() {
    let Some(judge) = judge() else { return };
    let (benchmark, task) = (Benchmark::named("mbxp-ruby").unwrap(), task(&SUMS[6]));
    let text = "  a + b\nend\n\nputs add(1, 2)\n";
    let cut = answer(judge.python(), benchmark, &task, PromptForm::Plain, text).unwrap();
    assert_eq!(cut.completion, "  a + b\nend\n");
    assert_eq!(cut.solution, "# Adds.\ndef add(a, b)\n  a + b\nend\n");
}

/// The published files, each under its own name: whoever has them in a folder runs this. Forty solutions of each are judged;
/// some of MBXP's do not pass their own tests (they name a parameter as no parameter is named, say), so many as are told.
#[test]
#[ignore = "needs the published files: LACUNA_BENCHMARKS names their folder"]
fn every_published_file_is_read_whole_and_its_solutions_pass() {
    let judge = judge().expect("a machine with a sandbox");
    let folder = std::env::var_os("LACUNA_BENCHMARKS").expect("LACUNA_BENCHMARKS names a folder");
    for (name, count, flawed) in [
        ("infilling-single-line", 1033, 0),
        ("infilling-multi-line", 5815, 0),
        ("infilling-random-span", 1640, 0),
        ("cruxeval-o", 800, 0),
        ("cruxeval-i", 800, 0),
        ("mbxp-javascript", 966, 7),
        ("mbxp-java", 966, 0),
        ("mbxp-cpp", 848, 0),
        ("mbxp-go", 939, 0),
        ("mbxp-php", 966, 5),
        ("mbxp-perl", 966, 0),
        ("mbxp-ruby", 966, 0),
    ] {
        let benchmark = Benchmark::named(name).unwrap();
        let file = benchmark.source.url.unwrap().rsplit('/').next().unwrap();
        let tasks = read_tasks(benchmark, &Path::new(&folder).join(file)).unwrap();
        assert_eq!(tasks.len(), count, "{name}");
        if let Tests::Behind { language, .. } = tasks[0].tests
            && let Err(error) = language.check().and_then(|()| language.check_packages(false))
        {
            eprintln!("SKIPPED {name}: {error}");
            continue;
        }
        let asked: Vec<_> = tasks.iter().filter(|task| !task.canonical.is_empty()).collect();
        let every = asked.len().div_ceil(40).max(1);
        let mut failed = Vec::new();
        let some: Vec<_> = asked.into_iter().step_by(every).collect();
        for task in &some {
            let verdict = verdict(&judge, task, &task.solution());
            if !verdict.passed {
                failed.push(format!("{}: {}", task.id, verdict.result));
            }
        }
        println!("{name}: {} of {} solutions pass", some.len() - failed.len(), some.len());
        assert_eq!(failed.len(), flawed, "{name}: {failed:#?}");
    }
}
