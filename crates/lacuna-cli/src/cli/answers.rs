//! Keeps a file of JSON lines, one for each of many things that were asked, in their order: a command that was ended is run
//! again and goes on behind the lines that are there.

use anyhow::{Context, Result};
use lacuna::Model;
use lacuna_files::{Log, printable};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::show::read_text;
use super::user_file::shown;

/// The things that a file has a line for.
pub(crate) struct Asked<'a> {
    /// The word for one of them: `prompt`.
    pub(crate) noun: &'static str,
    /// Their ids, in order.
    pub(crate) ids: &'a [Value],
    /// A name for everything that the line of one of them depends on.
    pub(crate) key: &'a dyn Fn(usize) -> Result<String>,
}

/// The lines of an earlier run: how many there are, and how many of them are failures.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    pub(crate) done: usize,
    pub(crate) failed: usize,
}

/// The file, which this process has for itself.
pub(crate) struct Answers {
    log: Log,
    path: PathBuf,
    pub(crate) known: Known,
    synced: Instant,
}

impl Answers {
    /// Compares what is there with what is asked, hands each line that is there to `take`, and goes on behind them. A
    /// file of anything else stays as it is.
    pub(crate) fn open(
        path: &Path,
        asked: &Asked<'_>,
        take: &mut dyn FnMut(usize, &Value),
    ) -> Result<Self> {
        let mut known = Known::default();
        let log = Log::hold(path).with_context(|| format!("opening {}", shown(path)))?;
        if path.is_file() {
            let there = read_text(path)?;
            let whole = there.rfind('\n').map_or(0, |at| at + 1);
            let (lines, torn) = there.split_at(whole);
            known = compare(path, lines, asked, take)?;
            let expected = asked.ids.get(known.done).map(begin);
            let agrees = |begin: String| torn.starts_with(&begin) || begin.starts_with(torn);
            if !torn.is_empty() && !expected.is_some_and(agrees) {
                let line = known.done + 1;
                return Err(foreign(path, line, "no line of an earlier run".into()));
            }
            if !torn.is_empty() {
                note!("note: {}: a line that was cut off is written again", shown(path));
            }
        }
        let (log, _) = log.cut().with_context(|| format!("opening {}", shown(path)))?;
        Ok(Self { log, path: path.to_owned(), known, synced: Instant::now() })
    }

    /// Appends a line; from time to time all of them are made to survive a power cut.
    pub(crate) fn append(&mut self, id: &Value, line: &Value) -> Result<()> {
        let line = with_id(id, line);
        self.log
            .append(line.as_bytes())
            .with_context(|| format!("writing {}", shown(&self.path)))?;
        if self.synced.elapsed() > SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.log.sync().with_context(|| format!("writing {}", shown(&self.path)))
    }
}

const SYNC_EVERY: Duration = Duration::from_secs(5);

/// The beginning of every line: by it a line that was cut off is told from another program's.
fn begin(id: &Value) -> String {
    format!("{{\"id\":{id},")
}

/// A line with its line break, the id in front of an object that is not empty.
pub(crate) fn with_id(id: &Value, line: &Value) -> String {
    let rest = line.to_string();
    format!("{}{}\n", begin(id), &rest[1..])
}

/// The path of a model, links followed: a part of every key.
pub(crate) fn place(model: &Model) -> PathBuf {
    model.path().canonicalize().unwrap_or_else(|_| model.path().to_owned())
}

/// The name of everything in `all`.
pub(crate) fn key(all: Vec<Value>) -> String {
    lacuna_files::hash(Value::from(all).to_string().as_bytes())[..16].to_owned()
}

fn foreign(path: &Path, line: usize, reason: String) -> anyhow::Error {
    let path = shown(path);
    anyhow::anyhow!("{path}:{line}: {reason}; give another --out, or remove {path}")
}

/// Compares the lines that are there with those that would be written.
fn compare(
    path: &Path,
    lines: &str,
    asked: &Asked<'_>,
    take: &mut dyn FnMut(usize, &Value),
) -> Result<Known> {
    let Asked { noun, ids, key } = asked;
    let mut known = Known::default();
    for (number, line) in (1..).zip(lines.lines()) {
        let line: Value = serde_json::from_str(line).map_err(|error| {
            foreign(path, number, format!("no line of an earlier run ({error})"))
        })?;
        let id = ids.get(known.done).ok_or_else(|| {
            foreign(path, number, format!("a line more than there are {noun}s ({})", ids.len()))
        })?;
        if line["id"] != *id {
            let (found, id) = (line["id"].to_string(), id.to_string());
            let (found, id) = (printable(&found), printable(&id));
            return Err(foreign(path, number, format!("it has the id {found}, the {noun} {id}")));
        }
        if line.get("error").is_some() {
            known.failed += 1;
        } else if line["request"] != key(known.done)? {
            let reason =
                format!("it is of another {noun} with this id, another model, or other flags");
            return Err(foreign(path, number, reason));
        }
        take(known.done, &line);
        known.done += 1;
    }
    Ok(known)
}

/// The objects of a file of JSON lines, each with its id and read by `parse`; faults are named with their lines. `expected`
/// says what a line looks like. An object without an id has that of its line, if `numbered`.
pub(crate) fn objects<T>(
    (text, file): (&str, &str),
    (noun, expected): (&str, &str),
    numbered: bool,
    parse: impl Fn(Map<String, Value>) -> Result<T, String>,
) -> Result<Vec<(Value, T)>> {
    let read = |line: &str, number: usize| -> Result<(Value, T), String> {
        let value: Value =
            serde_json::from_str(line).map_err(|error| format!("{error}; expected {expected}"))?;
        let Value::Object(mut object) = value else {
            return Err(format!("no JSON object; expected {expected}"));
        };
        let id = match object.remove("id") {
            Some(id @ (Value::String(_) | Value::Number(_))) => id,
            Some(_) => return Err("the id is neither a text nor a number".into()),
            None if numbered => number.into(),
            None => return Err(format!("no id; expected {expected}")),
        };
        Ok((id, parse(object)?))
    };
    let mut objects = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let one =
            read(line, number).map_err(|reason| anyhow::anyhow!("{file}:{number}: {reason}"))?;
        if let Some(first) = lines.insert(one.0.to_string(), number) {
            let id = printable(&one.0.to_string()).into_owned();
            anyhow::bail!("{file}:{number}: the id {id} is that of line {first}; expected another");
        }
        objects.push(one);
    }
    match objects.is_empty() {
        true => anyhow::bail!("{file}: no {noun} in it; expected {expected} a line"),
        false => Ok(objects),
    }
}

/// The token ids of a field.
pub(crate) fn ids_of(field: &str, value: Value) -> Result<Vec<u32>, String> {
    let Value::Array(ids) = value else { return Err(format!("{field} is no list of token ids")) };
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
    ids.ok_or_else(|| format!("{field} holds something else than token ids"))
}

/// The input's name as an error has it.
pub(crate) fn name(from: &Path) -> String {
    if from == Path::new("-") { "stdin".into() } else { shown(from) }
}

/// Tells whether two paths lead to one file.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b && a.is_file(),
        _ => false,
    }
}
