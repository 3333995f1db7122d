//! Calls a candidate's function in a process of its own, which knows the arguments and nothing else.

use serde_json::{Map, Value as Json, json};

use crate::error::Result;
use crate::python::{Answer, Python, Script, request};
use crate::value::Value;

/// One call, as a check made it or a data set lists it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// The arguments by place, a list in the scripts' spelling.
    pub(crate) arguments: Json,
    /// The arguments by name, a dictionary in the scripts' spelling.
    pub(crate) named: Json,
    /// The time that it may take, in seconds.
    pub(crate) limit_s: f64,
}

impl Call {
    /// A call of arguments by place.
    pub(crate) fn new(arguments: Json, limit_s: f64) -> Call {
        Call { arguments, named: json!({ "d": [] }), limit_s }
    }
}

/// A candidate's reply to one call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// A plain value.
    Value(Value),
    /// A value of this type, which is not plain.
    Odd(String),
    /// An exception, by the name of its class, and its words.
    Raised(String, String),
    /// No reply in time.
    Late,
}

/// The replies of a candidate, or the reason why there are none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Replies {
    /// One for each call.
    All(Vec<Reply>),
    /// The code can't be loaded: class and words of the exception.
    Broken(String, String),
    /// Time was up before the last reply.
    Late,
    /// The process ended before the last reply, or said something else.
    Silent(&'static str),
}

/// Loads `code` and calls its function `entry`, one call after the other, for so many seconds at most.
pub(crate) fn replies(
    python: &Python,
    code: &str,
    entry: &str,
    calls: &[Call],
    seconds: f64,
) -> Result<Replies> {
    let listed =
        calls.iter().map(|call| json!({ "a": call.arguments, "k": call.named, "s": call.limit_s }));
    let request = request([
        ("code", code.into()),
        ("entry", entry.into()),
        ("calls", listed.collect::<Json>()),
    ]);
    let answer = python.run(Script::Server, request, seconds, None)?;
    Ok(read(&answer, calls.len()))
}

/// Whoever sits in the process can write any line: it gains a reply of its own, no more.
fn read(answer: &Answer, calls: usize) -> Replies {
    if answer.is_disturbed {
        return Replies::Silent("something else than replies was written to the judge");
    }
    if answer.is_late() {
        return Replies::Late;
    }
    if let [line] = &*answer.lines {
        match kind(line) {
            "bad" => return Replies::Broken(text(line, "v"), text(line, "m")),
            "late" if calls != 1 => return Replies::Late,
            _ => {}
        }
    }
    if answer.lines.len() != calls || answer.limit.is_some() {
        return Replies::Silent("the program ended before it had replied to every call");
    }
    Replies::All(answer.lines.iter().map(reply).collect())
}

fn reply(line: &Map<String, Json>) -> Reply {
    match kind(line) {
        "ok" => match line.get("v").map_or(Err("no value".into()), Value::from_json) {
            Ok(value) => Reply::Value(value),
            Err(reason) => Reply::Odd(reason),
        },
        "odd" => Reply::Odd(text(line, "v")),
        "err" => Reply::Raised(text(line, "v"), text(line, "m")),
        "late" => Reply::Late,
        _ => Reply::Odd("a reply of no kind".into()),
    }
}

/// The kind of a script's line.
pub(crate) fn kind(line: &Map<String, Json>) -> &str {
    line.get("k").and_then(Json::as_str).unwrap_or_default()
}

/// A text of a script's line.
pub(crate) fn text(line: &Map<String, Json>, key: &str) -> String {
    line.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
}
