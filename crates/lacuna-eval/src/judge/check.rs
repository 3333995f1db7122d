//! Runs a task's own check against a candidate, each in a process of its own.
//!
//! First the check is run with the task's own solution, and the arguments of its calls are noted down. Then the
//! candidate's process answers those calls. Then the check is run again, and each call gets the candidate's reply: a plain
//! value, read and spelt out anew on the way. So the check, its assertions and its verdict share nothing with a candidate.

use serde_json::{Map, Value as Json, json};

use super::{Judge, Verdict, kept, without_replies};
use crate::error::{Result, faulty};
use crate::functions::{Call, Replies, Reply, kind, replies, text};
use crate::python::{Script, request};
use crate::task::Task;

/// A check whose calls depend on replies is run again with each new one, so many times at most.
const MOST_ROUNDS: usize = 32;

/// Calls of one check.
const MOST_CALLS: usize = 20_000;

/// Seconds for a check itself, which is the benchmark's and not the candidate's.
const CHECK_S: f64 = 30.0;

impl Judge {
    /// The verdict of a task's check on a program.
    pub(super) fn check(
        &self,
        task: &Task,
        test: &str,
        takes_candidate: bool,
        program: &str,
    ) -> Result<Verdict> {
        let check = Check { judge: self, task, test, takes_candidate };
        let mut calls = kept(&self.checks, task, || check.calls_of_solution())?.to_vec();
        for _ in 0..MOST_ROUNDS {
            for call in &mut calls {
                call.limit_s = self.check_s;
            }
            let given = replies(&self.python, program, &task.entry, &calls, self.check_s)?;
            let Replies::All(given) = given else { return Ok(without_replies(&given)) };
            if given.contains(&Reply::Late) {
                return Ok(Verdict::late());
            }
            let line = check.run(Some((&calls, &given)))?;
            if kind(&line) != "more" {
                return Ok(verdict(&line));
            }
            calls = check.calls(&line)?;
        }
        Ok(Verdict::failed("the check goes on asking, each time something else"))
    }
}

/// A task's check with what it needs.
struct Check<'a> {
    judge: &'a Judge,
    task: &'a Task,
    test: &'a str,
    takes_candidate: bool,
}

impl Check<'_> {
    /// The calls that the check makes, each as the task's own solution answers it.
    fn calls_of_solution(&self) -> Result<Vec<Call>> {
        let line = self.run(None)?;
        match kind(&line) {
            "passed" => self.calls(&line),
            "odd" => Err(faulty(
                &self.task.id,
                format!(
                    "its check passes a {} to the function, which is no plain value",
                    text(&line, "v")
                ),
            )),
            _ => Err(faulty(
                &self.task.id,
                format!("its own solution does not pass its check: {}", verdict(&line).result),
            )),
        }
    }

    /// Runs the check with the solution, or with replies of a candidate; its one line.
    fn run(&self, replies: Option<(&[Call], &[Reply])>) -> Result<Map<String, Json>> {
        let spelled = |(calls, replies): (&[Call], &[Reply])| {
            let calls = calls.iter().map(|call| json!({ "a": call.arguments, "k": call.named }));
            (calls.collect::<Json>(), replies.iter().map(spelled).collect::<Json>())
        };
        let (calls, replies) = replies.map_or((Json::Null, Json::Null), spelled);
        let request = request([
            ("setup", self.task.solution().into()),
            ("test", self.test.into()),
            ("entry", self.task.entry.clone().into()),
            ("as_argument", self.takes_candidate.into()),
            ("calls", calls),
            ("replies", replies),
        ]);
        let mut answer = self.judge.python.run(Script::Check, request, CHECK_S, None)?;
        match (answer.lines.pop(), answer.lines.len(), answer.is_disturbed) {
            (Some(line), 0, false) => Ok(line),
            _ if answer.is_late() => Ok(super::request([("k", "late".into())])),
            _ => Err(faulty(&self.task.id, "its check ends the process that it runs in")),
        }
    }

    /// The calls that a line of the check lists.
    fn calls(&self, line: &Map<String, Json>) -> Result<Vec<Call>> {
        let listed = line.get("calls").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        if listed.len() > MOST_CALLS {
            let reason =
                format!("its check makes {} calls; expected at most {MOST_CALLS}", listed.len());
            return Err(faulty(&self.task.id, reason));
        }
        let call = |call: &Json| Call {
            arguments: call["a"].clone(),
            named: call["k"].clone(),
            limit_s: self.judge.check_s,
        };
        Ok(listed.iter().map(call).collect())
    }
}

/// A reply as the check's script reads it.
fn spelled(reply: &Reply) -> Json {
    match reply {
        Reply::Value(value) => json!({ "k": "ok", "v": value.to_json() }),
        Reply::Raised(class, words) => json!({ "k": "err", "v": class, "m": words }),
        Reply::Odd(what) => {
            json!({ "k": "err", "v": "TypeError", "m": format!("not plain: {what}") })
        }
        Reply::Late => json!({ "k": "err", "v": "TimeoutError", "m": "" }),
    }
}

/// The verdict that a script's last line says.
pub(super) fn verdict(line: &Map<String, Json>) -> Verdict {
    match kind(line) {
        "passed" => Verdict::passed(),
        "late" => Verdict::late(),
        _ => {
            let (class, words) = (text(line, "v"), text(line, "m"));
            let colon = if words.is_empty() { "" } else { ": " };
            Verdict::failed(format_args!("{class}{colon}{words}"))
        }
    }
}
