//! Compares what a candidate returns with what the data set's own solution returns, as EvalPlus 0.3.1 does.

use serde_json::Value as Json;

use super::oracle::{Oracle, is_some_only};
use super::{Judge, Verdict, kept, without_replies};
use crate::error::{Result, faulty};
use crate::functions::{Call, Replies, Reply, kind, replies, text};
use crate::python::{Script, request};
use crate::task::{Dataset, Task};
use crate::value::Value;

/// Seconds for a task's own solution on all of its inputs.
const SOLUTION_S: f64 = 120.0;

/// All calls of a task together take no longer, whatever each may take.
const LONGEST_S: f64 = 60.0;

/// The calls of a task, and what its own solution returns for them.
#[derive(Debug)]
pub(super) struct Reference {
    calls: Vec<Call>,
    expected: Vec<Value>,
}

impl Judge {
    /// The verdict on a program by the original inputs, then by those that were added.
    pub(super) fn differential(
        &self,
        task: &Task,
        inputs: [&str; 2],
        atol: f64,
        dataset: Dataset,
        program: &str,
    ) -> Result<Verdict> {
        let references = kept(&self.references, task, || {
            let [base, plus] = inputs.map(|inputs| self.reference(task, dataset, inputs));
            Ok([base?, plus?])
        })?;
        let oracle = Oracle { dataset, entry: &task.entry };
        let base = self.compare(task, &references[0], oracle, atol, program)?;
        if !base.passed {
            return Ok(Verdict { base_passed: Some(false), ..base });
        }
        let plus = self.compare(task, &references[1], oracle, atol, program)?;
        Ok(Verdict { base_passed: Some(true), ..plus })
    }

    fn compare(
        &self,
        task: &Task,
        reference: &Reference,
        oracle: Oracle<'_>,
        mut atol: f64,
        program: &str,
    ) -> Result<Verdict> {
        if reference.calls.is_empty() {
            return Ok(Verdict::passed());
        }
        let seconds: f64 = reference.calls.iter().map(|call| call.limit_s).sum();
        let seconds = seconds.min(LONGEST_S) + 1.0;
        let given = replies(&self.python, program, &task.entry, &reference.calls, seconds)?;
        let Replies::All(given) = given else { return Ok(without_replies(&given)) };
        let tests = given.iter().zip(&reference.expected).zip(&reference.calls);
        for (number, ((reply, expected), call)) in tests.enumerate() {
            if *reply == Reply::Late {
                return Ok(Verdict::late());
            }
            let input = || {
                let arguments = Value::from_json(&call.arguments).ok();
                arguments.and_then(|arguments| arguments.items()).unwrap_or_default()
            };
            if !oracle.accepts(reply, expected, &input, &mut atol) {
                let why = match reply {
                    Reply::Raised(class, words) => format!("{class}: {words}"),
                    Reply::Odd(what) => format!("a value that is not plain: {what}"),
                    _ => "another value".into(),
                };
                return Ok(Verdict::failed(format_args!("input {number}: {why}")));
            }
        }
        Ok(Verdict::passed())
    }

    /// Runs the task's own solution.
    fn reference(&self, task: &Task, dataset: Dataset, inputs: &str) -> Result<Reference> {
        let number = match dataset {
            Dataset::Mbpp => task.number().map_or(Json::Null, Json::from),
            Dataset::HumanEval => Json::Null,
        };
        let request = request([
            ("code", task.solution().into()),
            ("entry", task.entry.clone().into()),
            ("inputs", inputs.into()),
            ("mbpp", number),
            ("is_some", (dataset == Dataset::Mbpp && is_some_only(&task.entry)).into()),
        ]);
        let mut answer = self.python.run(Script::Reference, request, SOLUTION_S, None)?;
        let last = answer.lines.pop().filter(|_| !answer.is_disturbed).unwrap_or_default();
        if kind(&last) != "end" {
            let reason = match kind(&last) {
                "err" => format!("{}: {}", text(&last, "v"), text(&last, "m")),
                _ => "it does not come to an end".into(),
            };
            return Err(faulty(
                &task.id,
                format!("its own solution fails on its inputs: {reason}"),
            ));
        }
        let mut reference = Reference { calls: Vec::new(), expected: Vec::new() };
        for line in &answer.lines {
            let value = |key: &str| {
                let value = line.get(key).map_or(Err("missing".into()), Value::from_json);
                value.map_err(|reason| faulty(&task.id, format!("a test's `{key}`: {reason}")))
            };
            let (arguments, expected) = (value("a")?, value("v")?);
            let took = line.get("s").and_then(Json::as_f64).unwrap_or(0.0);
            let limit_s = self.call_s.max(self.call_factor * took);
            reference.calls.push(Call::new(arguments.to_json(), limit_s));
            reference.expected.push(expected);
        }
        Ok(reference)
    }
}
