//! `lacuna sandbox` runs one program contained, as the programs of `lacuna eval` are run.

use anyhow::{Context, Result};
use lacuna_files::WholeFolder;
use lacuna_sandbox::{End, Limit, Policy, Program, Report, run as run_contained};
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::sizes::ByteSize;
use super::{Usage, ranges};

/// The user and group of a program that root starts.
const NOBODY: u32 = 65534;
/// The most bytes of standard input that are handed on.
const MOST_INPUT: u64 = 64 << 20;
/// The statuses of programs that were ended, as `timeout` and shells have them.
const TOO_LONG: u8 = 124;
const KILLED: u8 = 137;

/// Run one program contained, as an evaluation runs what a model wrote.
///
/// The program is an ordinary user under Landlock, seccomp and limits: no network, no file of yours but those that its
/// command line names, nothing left running. Its output, errors and status are its own. A machine that can't contain
/// all of it runs nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna sandbox -- python3 -I answer.py
  lacuna sandbox --profile files --folder work -- python3 -I writes.py
  lacuna sandbox --profile spawn --time 60 -- sh -c 'cc -o a main.c && ./a'
  lacuna sandbox --json -- python3 -c 'while True: pass'

Exit status: the program's; 124 it took too long, 137 another limit ended it, 128 plus
the number of the signal that did; 125 nothing was run, 2 wrong usage.")]
pub(crate) struct Args {
    /// Rights of the program: `function` computes, `files` also writes into its folder, `spawn` also starts others
    #[arg(long, default_value = "function", value_parser = ["function", "files", "spawn"])]
    profile: String,
    /// Seconds on the clock; default: 10, for spawn 60
    #[arg(long, value_name = "S", allow_hyphen_values = true, value_parser = ranges::positive)]
    time: Option<f64>,
    /// Memory in bytes, or as 512MB, 2GiB; default: 1GiB, for spawn 2GiB
    #[arg(long, value_name = "BYTES")]
    memory: Option<ByteSize>,
    /// Folder that the program works in and may write, with files and spawn; default: an empty one, removed afterwards
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A file or folder that it may read besides; may be given several times
    #[arg(long, value_name = "PATH")]
    readable: Vec<PathBuf>,
    /// Hand standard input on
    #[arg(long)]
    stdin: bool,
    /// Run it even where this machine can't contain it: for machines that may be lost
    #[arg(long)]
    unsafe_execution: bool,
    /// Print one JSON object in place of the program's output
    #[arg(long)]
    json: bool,
    /// The program and its arguments; those that name a file are files that it may read
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// The status that the program ends with, for a command that has one of its own.
pub(crate) fn run(args: &Args) -> ExitCode {
    match contained(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) if error.is::<Usage>() => super::report(&error),
        Err(error) => {
            super::report(&error);
            ExitCode::from(125)
        }
    }
}

fn contained(args: &Args) -> Result<u8> {
    let [name, arguments @ ..] = args.command.as_slice() else {
        return Err(Usage("name a program".into()).into());
    };
    let path = found(name)?;
    if args.profile == "function" && args.folder.is_some() {
        let reason =
            "--folder: the profile `function` writes nowhere; give --profile files or spawn";
        return Err(Usage(reason.into()).into());
    }
    let mut own = None;
    let mut folder = || -> Result<PathBuf> {
        match &args.folder {
            Some(folder) => std::path::absolute(folder).context("--folder"),
            None => Ok(own.insert(scratch()?).path().to_owned()),
        }
    };
    let mut policy = match args.profile.as_str() {
        "files" => Policy::files(folder()?),
        "spawn" => Policy::spawn(folder()?),
        _ => Policy::function(),
    };
    for named in args.readable.iter().chain([&path]) {
        policy = policy.readable(std::path::absolute(named)?);
    }
    // The program is elsewhere: what is named from here is named from the root.
    let here = |argument: &OsString| {
        let file = Path::new(argument);
        let is_file = file.is_file() && !argument.as_encoded_bytes().starts_with(b"-");
        is_file.then(|| std::path::absolute(file)).transpose()
    };
    let mut given = Vec::with_capacity(arguments.len());
    for argument in arguments {
        given.push(match here(argument)? {
            Some(file) => {
                policy = policy.readable(file.clone());
                file.into()
            }
            None => argument.clone(),
        });
    }
    if let Some(seconds) = args.time {
        policy.limits.wall_time = Duration::try_from_secs_f64(seconds)
            .map_err(|_| Usage(format!("--time {seconds}: longer than any program runs")))?;
        policy.limits.cpu_time = policy.limits.cpu_time.max(policy.limits.wall_time);
    }
    if let Some(ByteSize(bytes)) = args.memory {
        policy.limits.memory_bytes = bytes;
    }
    if args.unsafe_execution {
        policy = policy.unsafe_execution();
    }
    let mut program = Program::new(path).args(given);
    for (name, value) in std::env::vars_os().filter(|(name, _)| is_harmless(name)) {
        program = program.env(name, value);
    }
    if args.stdin {
        let mut input = Vec::new();
        let read = std::io::stdin().lock().take(MOST_INPUT + 1).read_to_end(&mut input);
        read.context("reading standard input")?;
        anyhow::ensure!(input.len() as u64 <= MOST_INPUT, "standard input is longer than 64 MiB");
        program = program.stdin(input);
    }
    let report = run_contained(&program, &policy)?;
    show(&report, args.json)?;
    Ok(status(&report))
}

/// Variables that programs need to speak and compute as they do outside, and that say nothing of this user.
fn is_harmless(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["PATH", "LANG", "TZ", "PYTHONHASHSEED"].contains(&&*name) || name.starts_with("LC_")
}

/// The file of a program, looked up as a shell does.
fn found(name: &OsStr) -> Result<PathBuf> {
    if Path::new(name).components().count() > 1 {
        return Ok(std::path::absolute(name)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
    let program = places.find(|place| place.is_file());
    program.with_context(|| {
        format!("there is no program `{}` on the search path", Path::new(name).display())
    })
}

/// An empty folder that the program's user may write, which is removed when it is dropped.
fn scratch() -> Result<WholeFolder> {
    let folder = WholeFolder::beside(&std::env::temp_dir().join("lacuna-sandbox"))?;
    // A program that root starts is somebody else.
    lacuna_files::give_if_root(folder.path(), NOBODY)?;
    Ok(folder)
}

fn show(report: &Report, as_json: bool) -> Result<()> {
    let limit = report.limit.map(limit);
    if as_json {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (exited, signal) = match report.end {
            End::Exited(status) => (Some(status), None),
            End::Signalled(number) => (None, Some(number)),
        };
        let object = json!({
            "status": exited,
            "signal": signal,
            "limit": limit,
            "stdout": text(&report.stdout),
            "stderr": text(&report.stderr),
            "seconds": report.wall_time.as_secs_f64(),
            "processor_seconds": report.cpu_time.as_secs_f64(),
            "peak_memory_bytes": report.peak_memory_bytes,
        });
        out!("{object}");
        return Ok(());
    }
    // Bytes as they are: the program's output may be anything, and whoever reads a terminal has asked for it.
    let mut out = super::console::Out::new();
    out.write_all(&report.stdout)?;
    out.finish()?;
    super::console::message(format_args!("{}", String::from_utf8_lossy(&report.stderr)));
    if let Some(limit) = limit {
        note!("the program was ended: {limit}");
    }
    for missing in &report.not_enforced {
        note!("not contained: {missing}");
    }
    Ok(())
}

fn limit(limit: Limit) -> &'static str {
    match limit {
        Limit::WallTime => "it took too long (--time)",
        Limit::CpuTime => "it computed too long (--time)",
        Limit::Memory => "it held too much memory (--memory)",
        Limit::Output => "it wrote too much to its output or its errors",
        Limit::FileSize => "it wrote a file that is too large",
        Limit::Folder => "its folder grew too large, or holds too many files",
        Limit::Tasks => "it had too many threads and processes",
        _ => "a limit was hit",
    }
}

fn status(report: &Report) -> u8 {
    match (report.limit, report.end) {
        (Some(Limit::WallTime | Limit::CpuTime), _) => TOO_LONG,
        (Some(_), _) => KILLED,
        (None, End::Exited(status)) => status.to_le_bytes()[0],
        (None, End::Signalled(number)) => 128u8.wrapping_add(number.to_le_bytes()[0]),
    }
}
