//! Judges many samples, several at once, and keeps every verdict as it comes.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::judge::{Judge, Verdict};
use crate::records::{self, Records};
use crate::sample::Sample;
use crate::task::{CompletionEnd, Task, Tests};

/// Judges samples of these tasks, so many at once, and writes the verdicts that a file lacks, a line each: `task_id`,
/// `sample`, `passed`, `result`. The verdicts come back in the order of the samples.
///
/// # Errors
/// If the file is of other samples, a task is at fault, or nothing can be run contained here.
pub fn judge_all(
    judge: &Judge,
    tasks: &[Task],
    samples: &[Sample],
    file: &Path,
    jobs: NonZeroUsize,
    observe: &mut dyn FnMut(usize),
) -> Result<Vec<Verdict>> {
    judge.python().check()?;
    for task in tasks {
        // Said before anything is written: with all tasks of one language, one look.
        if let Tests::Behind { language, end, .. } = &task.tests {
            language.check()?;
            if *end == CompletionEnd::ClosingLine {
                language.check_packages(judge.python().is_insisted())?;
            }
            break;
        }
    }
    let tasks: HashMap<&str, &Task> = tasks.iter().map(|task| (&*task.id, task)).collect();
    let (mut records, lines) = Records::open(file)?;
    let known = known(&lines, &tasks, samples, file)?;
    let mut verdicts: Vec<Option<Verdict>> =
        samples.iter().map(|sample| known.get(&(&*sample.task, sample.number)).cloned()).collect();
    let open: Vec<usize> = (0..samples.len()).filter(|at| verdicts[*at].is_none()).collect();
    let next = AtomicUsize::new(0);
    let mut done = samples.len() - open.len();
    observe(done);
    std::thread::scope(|scope| -> Result<()> {
        let (sender, receiver) = mpsc::sync_channel(1);
        for _ in 0..jobs.get().min(open.len()) {
            let (sender, next, open, tasks) = (sender.clone(), &next, &open, &tasks);
            scope.spawn(move || {
                while let Some(at) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = one(judge, tasks, &samples[*at]);
                    // Nobody listens any more where another one's error ended it.
                    if sender.send((*at, verdict)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (at, verdict) in receiver {
            let verdict = verdict?;
            records.append(&line(
                &samples[at],
                tasks.get(&*samples[at].task).copied(),
                &verdict,
            ))?;
            verdicts[at] = Some(verdict);
            done += 1;
            observe(done);
        }
        Ok(())
    })?;
    records.sync()?;
    Ok(verdicts.into_iter().flatten().collect())
}

fn one(judge: &Judge, tasks: &HashMap<&str, &Task>, sample: &Sample) -> Result<Verdict> {
    let task = tasks.get(&*sample.task);
    let task = task.ok_or_else(|| Error::Request(format!("no task {}", sample.task)))?;
    if let Some(error) = sample.line.get("error").and_then(Json::as_str) {
        return Ok(Verdict::failed(format_args!("no answer: {error}")));
    }
    judge.judge(task, &sample.program)
}

fn line(sample: &Sample, task: Option<&Task>, verdict: &Verdict) -> Json {
    let mut line = json!({
        "task_id": sample.task,
        "sample": sample.number,
        "passed": verdict.passed,
        "result": verdict.result,
        "program": name(sample),
        "tests": task.map(tests),
    });
    if let Some(base) = verdict.base_passed {
        line["base_passed"] = base.into();
    }
    if verdict.is_forgeable {
        line["forgeable"] = true.into();
    }
    line
}

/// The verdicts that a file holds already.
fn known<'a>(
    lines: &[Map<String, Json>],
    tasks: &HashMap<&str, &Task>,
    samples: &'a [Sample],
    file: &Path,
) -> Result<HashMap<(&'a str, usize), Verdict>> {
    let samples: HashMap<(&str, usize), &'a Sample> =
        samples.iter().map(|sample| ((&*sample.task, sample.number), sample)).collect();
    let mut known = HashMap::new();
    for (number, line) in (1..).zip(lines) {
        let sample = records::count(line, "sample").unwrap_or(usize::MAX);
        let Some(sample) = samples.get(&(records::text(line, "task_id"), sample)) else { continue };
        if records::text(line, "program") != name(sample) {
            let reason = "it is the verdict on another sample of this number";
            return Err(records::foreign(file, number, reason));
        }
        // Lines of before tests were named have none.
        let kept = records::text(line, "tests");
        let task = tasks.get(&*sample.task);
        if !kept.is_empty() && task.is_some_and(|task| tests(task) != kept) {
            let reason = "it is a verdict by other tests than the task has now";
            return Err(records::foreign(file, number, reason));
        }
        let verdict = Verdict {
            passed: line.get("passed") == Some(&Json::Bool(true)),
            result: records::text(line, "result").to_owned(),
            base_passed: line.get("base_passed").and_then(Json::as_bool),
            is_forgeable: line.get("forgeable") == Some(&Json::Bool(true)),
        };
        known.insert((&*sample.task, sample.number), verdict);
    }
    Ok(known)
}

/// A name for a program's text.
fn name(sample: &Sample) -> String {
    lacuna_files::hash(sample.program.as_bytes())[..16].to_owned()
}

/// A name for a task's tests.
fn tests(task: &Task) -> String {
    lacuna_files::hash(format!("{:?} {}", task.tests, task.canonical).as_bytes())[..16].to_owned()
}
