//! Reads the files of benchmarks: lines or a list of JSON, plain, compressed or inside a wheel. All of it is a stranger's,
//! and bounded.

use std::io::Read;
use std::path::Path;

use crate::benchmark::{Benchmark, Format};
use crate::error::{Result, data};
use crate::task::Task;

mod exercism;
mod fields;
mod tasks;
mod wheel;

/// Bytes of a file as it lies on the disk.
const LARGEST_FILE: u64 = 512 << 20;

/// Bytes of it when nothing of it is compressed any more.
const LARGEST_TEXT: u64 = 1 << 30;

/// Tasks of a benchmark.
const MOST_TASKS: usize = 50_000;

/// Reads the tasks of a benchmark from a file.
///
/// # Errors
/// If the file can't be read, or a line is not what the benchmark's format has there.
pub fn read_tasks(benchmark: &Benchmark, path: &Path) -> Result<Vec<Task>> {
    if benchmark.format == Format::Exercism {
        return exercism::tasks(path);
    }
    let bytes = lacuna_files::read_file(path, LARGEST_FILE)?;
    let text = text(bytes, benchmark.source.member, path)?;
    tasks_of(benchmark.format, &text, path)
}

/// The lines of a file of JSON, plain or compressed with gzip, each with its number from 1.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    text(lacuna_files::read_file(path, LARGEST_FILE)?, None, path)
}

/// The text of a file's bytes, by how they begin.
fn text(bytes: Vec<u8>, member: Option<&str>, path: &Path) -> Result<String> {
    let bytes = match (&bytes[..], member) {
        ([b'P', b'K', 3, 4, ..], Some(member)) => {
            let inner = wheel::member(&bytes, member, LARGEST_TEXT);
            inner.map_err(|reason| data(path, None, reason))?
        }
        _ => bytes,
    };
    let bytes = match &bytes[..] {
        [0x1f, 0x8b, ..] => {
            let reader = flate2::read::MultiGzDecoder::new(&bytes[..]);
            bounded(reader).map_err(|reason| data(path, None, reason))?
        }
        _ => bytes,
    };
    let text = String::from_utf8(bytes).map_err(|_| data(path, None, "it is no UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// All that a decompressor gives, up to a bound: a small file may stand for an endless one.
fn bounded(reader: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader
        .take(LARGEST_TEXT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("it can't be decompressed: {error}"))?;
    match bytes.len() as u64 > LARGEST_TEXT {
        true => Err(format!("it is more than {LARGEST_TEXT} bytes when decompressed")),
        false => Ok(bytes),
    }
}

fn tasks_of(format: Format, text: &str, path: &Path) -> Result<Vec<Task>> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for (line, object) in objects(text, path)? {
        let fault = |reason: String| data(path, Some(line), reason);
        let task = fields::raw(object).and_then(|fields| tasks::task(format, &fields, tasks.len()));
        let task = task.map_err(fault)?;
        if !names.insert(task.id.clone()) {
            return Err(fault(format!("a second task {}", lacuna_files::short(&task.id))));
        }
        if tasks.len() == MOST_TASKS {
            return Err(fault(format!("more than {MOST_TASKS} tasks")));
        }
        tasks.push(task);
    }
    match tasks.is_empty() {
        true => Err(data(path, None, "no task in it; expected a JSON object a line")),
        false => Ok(tasks),
    }
}

/// The objects of a list or of lines, with the line that each begins on.
fn objects<'a>(text: &'a str, path: &Path) -> Result<Vec<(usize, &'a str)>> {
    if !text.trim_start().starts_with('[') {
        let lines = (1..).zip(text.lines());
        return Ok(lines.filter(|(_, line)| !line.trim().is_empty()).collect());
    }
    let items = fields::items(text).map_err(|reason| data(path, None, reason))?;
    let mut line = 1;
    let mut at = 0;
    Ok(items
        .into_iter()
        .map(|item| {
            let start = item.as_ptr() as usize - text.as_ptr() as usize;
            line += text[at..start].matches('\n').count();
            at = start;
            (line, item)
        })
        .collect())
}

#[cfg(test)]
mod tests;
