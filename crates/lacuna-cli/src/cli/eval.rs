//! `lacuna eval` scores a model on a benchmark by running what it writes, and judges what others wrote.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lacuna_eval::{BENCHMARKS, Benchmark, Judge, Python, Task, read_tasks};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::Usage;
use super::ranges;
use super::user_file::shown;

mod judge;
mod run;
mod show;

/// Score a model on a benchmark by running what it writes.
///
/// Programs run in a sandbox, or not at all. The tests' verdict comes from a process that they have no part in.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna eval list
  lacuna eval fetch humaneval
  lacuna eval run humaneval --model M --out runs/humaneval
  lacuna eval run humaneval --model M --samples 20 --temperature 0.8
  lacuna eval judge samples.jsonl --benchmark humaneval

`lacuna eval BENCHMARK …` is short for `lacuna eval run BENCHMARK …`, and with
--completions FILE for `judge`. Ended at any moment, the same command goes on
where it was.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Judge(judge::Args),
    /// Get a benchmark's data from where its authors publish it.
    ///
    /// It is held to the hash that is known, else to that of the first fetch.
    Fetch {
        /// Its name
        #[arg(value_name = "BENCHMARK")]
        benchmark: String,
        /// Folder that data is kept in; default: the user's cache
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
    },
    /// List the benchmarks.
    List {
        /// Folder that data is kept in; default: the user's cache
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    #[command(external_subcommand)]
    Short(Vec<OsString>),
}

/// Flags that say which benchmark, and how its programs are run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Judge")]
struct JudgeArgs {
    /// A local copy of the benchmark's data
    #[arg(long, value_name = "FILE")]
    benchmark_file: Option<PathBuf>,
    /// Folder that data is kept in; default: the user's cache
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Only the first K tasks
    #[arg(long, value_name = "K", allow_hyphen_values = true, value_parser = ranges::size)]
    limit: Option<NonZeroUsize>,
    /// Programs that are judged at once; default: one a core
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = ranges::size)]
    jobs: Option<NonZeroUsize>,
    /// Seconds for the calls of a check; those that EvalPlus times have its limits
    #[arg(long, value_name = "S", default_value = "3", allow_hyphen_values = true, value_parser = ranges::positive)]
    time: f64,
    /// The Python interpreter; default: the system's
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Run programs even where this machine can't contain them: for machines that may be lost
    #[arg(long)]
    unsafe_execution: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing but the result
    #[arg(long, short)]
    quiet: bool,
}

impl JudgeArgs {
    /// The judge; an error where nothing can be run contained, before anything is written.
    fn judge(&self) -> Result<Judge> {
        let python = match &self.python {
            Some(path) => Python::at(path),
            None => Python::find()?,
        };
        let python = if self.unsafe_execution { python.unsafe_execution() } else { python };
        python.check().context(
            "programs of a model are only run contained; --unsafe-execution runs them all the same, with all rights of \
             this user",
        )?;
        let mut judge = Judge::new(python);
        judge.check_s = self.time;
        Ok(judge)
    }

    /// All tasks of a benchmark, and those of them that are wanted.
    fn tasks(&self, benchmark: &Benchmark) -> Result<(Vec<Task>, usize)> {
        let file = match &self.benchmark_file {
            Some(file) => file.clone(),
            None => fetched(benchmark, self.cache.as_deref())?,
        };
        let tasks = read_tasks(benchmark, &file)?;
        let wanted = self.limit.map_or(tasks.len(), NonZeroUsize::get).min(tasks.len());
        Ok((tasks, wanted))
    }

    fn jobs(&self) -> NonZeroUsize {
        self.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Run(args) => run::run(args),
        Command::Judge(args) => judge::run(args),
        Command::Fetch { benchmark, cache } => fetch(benchmark, cache.as_deref()),
        Command::List { cache, json } => list(cache.as_deref(), *json),
        Command::Short(words) => short(words),
    }
}

/// The short form: a benchmark's name where a command's would stand.
fn short(words: &[OsString]) -> Result<()> {
    #[derive(Debug, Parser)]
    #[command(name = "lacuna eval run")]
    struct Run {
        #[command(flatten)]
        args: run::Args,
    }
    #[derive(Debug, Parser)]
    #[command(name = "lacuna eval judge")]
    struct Completions {
        #[command(flatten)]
        args: judge::Args,
    }
    let name = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    Benchmark::named(name).map_err(|error| {
        Usage(format!("{error}; or one of the commands run, judge, fetch and list"))
    })?;
    let mut words = words.to_vec();
    let completions = words.iter().position(|word| word == "--completions");
    let Some(at) = completions else {
        words.insert(0, "lacuna eval run".into());
        return match Run::try_parse_from(words) {
            Ok(Run { args }) => {
                quieten(&args.judge);
                run::run(&args)
            }
            Err(error) => Err(said(&error)),
        };
    };
    if at + 1 == words.len() {
        return Err(Usage("--completions: expected a FILE".into()).into());
    }
    let file = words.remove(at + 1);
    words[at] = file;
    let benchmark = words.remove(0);
    words.splice(0..0, ["lacuna eval judge".into(), "--benchmark".into(), benchmark]);
    match Completions::try_parse_from(words) {
        Ok(Completions { args }) => {
            quieten(&args.judge);
            judge::run(&args)
        }
        Err(error) => Err(said(&error)),
    }
}

/// As `--quiet` does where the words were parsed with the program's own.
fn quieten(args: &JudgeArgs) {
    if args.quiet {
        super::progress::be_quiet();
    }
}

/// A fault of the short form, as the parser words it.
fn said(error: &clap::Error) -> anyhow::Error {
    let text = error.to_string();
    Usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()).into()
}

/// The folder of fetched data.
fn cache_folder(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(folder.to_owned());
    }
    let folder =
        dirs::cache_dir().context("there is no folder for caches here; give --cache DIR")?;
    Ok(folder.join("lacuna").join("benchmarks"))
}

/// The file of a benchmark that was fetched.
fn fetched(benchmark: &Benchmark, cache: Option<&Path>) -> Result<PathBuf> {
    let found = lacuna_eval::cached(benchmark, &cache_folder(cache)?)?;
    let name = benchmark.name;
    let found = found.with_context(|| {
        format!("the data of {name} is not here: `lacuna eval fetch {name}` gets it, --benchmark-file FILE uses a copy")
    })?;
    Ok(found.path)
}

#[cfg(feature = "hub")]
fn fetch(name: &str, cache: Option<&Path>) -> Result<()> {
    let benchmark = Benchmark::named(name).map_err(|error| Usage(error.to_string()))?;
    let fetching = super::progress::Progress::spinning(format!("fetching {name}"));
    let fetched = lacuna_eval::fetch(benchmark, &cache_folder(cache)?)?;
    drop(fetching);
    let tasks = read_tasks(benchmark, &fetched.path)?;
    note!("{name}: {} tasks, licence {}", tasks.len(), benchmark.licence);
    if fetched.is_recorded {
        note!(
            "note: no hash of this file was known; that of the first fetch is kept beside it, and it is held to that: {}",
            fetched.sha256
        );
    }
    out!("{}", fetched.path.display());
    Ok(())
}

#[cfg(not(feature = "hub"))]
fn fetch(name: &str, _: Option<&Path>) -> Result<()> {
    Benchmark::named(name).map_err(|error| Usage(error.to_string()))?;
    anyhow::bail!(
        "this program is built without a network; give a local copy with --benchmark-file"
    )
}

fn list(cache: Option<&Path>, as_json: bool) -> Result<()> {
    let cache = cache_folder(cache);
    for benchmark in BENCHMARKS {
        let there = match &cache {
            Ok(cache) => lacuna_eval::cached(benchmark, cache).ok().flatten(),
            Err(_) => None,
        };
        if as_json {
            out!(
                "{}",
                serde_json::json!({
                    "name": benchmark.name, "about": benchmark.about, "licence": benchmark.licence,
                    "url": benchmark.source.url, "sha256": benchmark.source.sha256,
                    "file": there.map(|there| shown(&there.path)),
                })
            );
        } else {
            let mark = if there.is_some() { "fetched" } else { "" };
            out!("{:<22} {mark:<8} {} ({})", benchmark.name, benchmark.about, benchmark.licence);
        }
    }
    Ok(())
}
