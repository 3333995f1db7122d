//! Judges samples with a line of progress, and shows what came of it.

use anyhow::Result;
use lacuna_eval::{Benchmark, Judge, Sample, Summary, Task, export, judge_all};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::JudgeArgs;
use crate::cli::progress::{At, Progress, count};
use crate::cli::user_file::shown;

/// Judges samples, writes every form of the result into a folder, and prints the scores.
pub(super) fn judged(
    args: &JudgeArgs,
    judge: &Judge,
    benchmark: &Benchmark,
    (all_tasks, wanted): (&[Task], usize),
    samples: &[Sample],
    facts: Vec<(String, String)>,
    folder: &Path,
) -> Result<()> {
    let tasks = &all_tasks[..wanted];
    let done = Arc::new(AtomicUsize::new(0));
    let line = {
        let (done, all) = (Arc::clone(&done), samples.len());
        Progress::watching(move || {
            let n = done.load(Relaxed);
            let what = format!("judged {} of {} programs", count(n), count(all));
            At { what, part: Some((n as u64, all as u64)) }
        })
    };
    let file = folder.join("results.jsonl");
    let verdicts = judge_all(judge, tasks, samples, &file, args.jobs(), &mut |n| {
        done.store(n, Relaxed);
    })?;
    drop(line);
    let mut summary = Summary::new(benchmark.name, facts, tasks, samples, &verdicts);
    summary.all_tasks = all_tasks.len();
    export(folder, tasks, samples, &verdicts, &summary, &now())?;
    match args.json {
        true => out!("{}", summary.to_json()),
        false => out!("{}", summary.to_markdown().trim_end()),
    }
    if !args.quiet {
        note!(
            "{}: results.jsonl, summary.md, report.html and the files of other harnesses",
            shown(folder)
        );
    }
    Ok(())
}

/// The time (UTC), as EvalPlus writes it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M").to_string()
}
