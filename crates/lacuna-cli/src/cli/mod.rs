//! Defines the command line, with one file per subcommand.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};
use lacuna_files::{is_moving, printable};
use std::io::Write;
use std::process::ExitCode;

#[macro_use]
mod console;

mod answers;
mod average;
mod bench;
mod canvas;
mod chat;
mod convert;
mod corpus_args;
mod decode_args;
mod diff;
mod edit;
mod eval;
mod fill;
mod flags;
mod generate;
mod guidance_args;
mod init;
mod inspect;
mod kernels;
mod logits;
mod man;
mod model_args;
mod pack;
mod plot;
mod progress;
mod ranges;
mod replay;
mod sandbox;
mod score;
mod screen;
mod serve;
mod show;
mod signals;
mod sizes;
mod tokenizer;
mod train;
mod user_file;
mod verify;
mod watch;

/// Block-diffusion code language models: train, measure, write, fill in and edit code.
#[derive(Debug, Parser)]
#[command(name = "lacuna", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  lacuna train recipes/tiny.toml                     train on the shipped corpus
  lacuna plot runs/tiny runs/tiny-2                  compare two runs
  lacuna generate --model runs/tiny/final 'def '     continue a text
  lacuna fill --model M f.py --at 12:5               fill in the middle
  lacuna edit --model M f.py --instruction '…'       rewrite a file
  lacuna serve --model M                             answer editors over HTTP
  lacuna score --model runs/tiny/final --text f.py --method exact
  lacuna eval run humaneval --model M                pass@1, by running answers
  lacuna inspect runs/tiny/final                     what a checkpoint is
  lacuna convert runs/tiny/final tiny.gguf           the same in another format

Exit status: 0 done, 1 failed, 2 wrong usage; `lacuna kernels` without a card: 3.")]
struct Cli {
    /// CPU threads to compute with; default: all cores. Results don't depend on it
    #[arg(
        long,
        global = true,
        value_name = "N",
        help_heading = "Machine",
        allow_hyphen_values = true
    )]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Train(train::Args),
    Plot(plot::Args),
    Pack(pack::Args),
    Tokenizer(tokenizer::Args),
    Generate(generate::Args),
    Chat(chat::Args),
    Fill(fill::Args),
    Edit(edit::Args),
    Replay(replay::Args),
    Serve(serve::Args),
    Score(score::Args),
    Eval(Box<eval::Args>),
    Sandbox(sandbox::Args),
    Bench(bench::Args),
    Logits(logits::Args),
    Inspect(inspect::Args),
    Convert(convert::Args),
    Average(average::Args),
    Kernels(kernels::Args),
    Man(man::Args),
    /// Print a completion script for a shell.
    #[command(after_help = "\
Example:
  lacuna completions bash > ~/.local/share/bash-completion/completions/lacuna")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// No text is longer that a command reads whole.
const LONGEST_TEXT: u64 = 1 << 30;

/// Parses, runs, reports; the exit status.
pub(crate) fn main() -> ExitCode {
    if let Some(args) = sandboxed(std::env::args_os()) {
        survive_file_limits();
        return sandbox::run(&args);
    }
    let (cli, quiet) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return report_usage(&error),
    };
    lacuna::kernels::keep_freed_memory();
    survive_file_limits();
    if quiet {
        progress::be_quiet();
    }
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        if let Err(error) = pool.build_global() {
            return report(&anyhow::Error::new(error).context(format!("--threads {threads}")));
        }
    }
    let done = match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Tokenizer(args) => tokenizer::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Fill(args) => fill::run(&args),
        Command::Edit(args) => edit::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Sandbox(args) => return sandbox::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Average(args) => average::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Completions { shell } => completions(shell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// A write beyond `ulimit -f` becomes an error that names the file: unhandled, the signal ends the process.
fn survive_file_limits() {
    #[cfg(unix)]
    {
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        // Best effort: without it, the limit is as deadly as it was.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, seen);
    }
}

/// The arguments of `lacuna sandbox`, read without the definitions of all other commands: those take about as long to make
/// as a program to start. Whatever is no call of it in its simplest form, a wrong one or a wish for help, is left to the
/// parser of them all.
fn sandboxed(mut args: impl Iterator<Item = std::ffi::OsString>) -> Option<sandbox::Args> {
    if args.nth(1)? != "sandbox" {
        return None;
    }
    let command = clap::Command::new("sandbox").no_binary_name(true);
    let command = sandbox::Args::augment_args(command).mut_args(takes_value);
    let matches = command.try_get_matches_from(args).ok()?;
    sandbox::Args::from_arg_matches(&matches).ok()
}

/// After a flag that has a value, `-1` is one: out of range perhaps, and no flag.
fn takes_value(arg: clap::Arg) -> clap::Arg {
    match arg.get_action() {
        clap::ArgAction::Set | clap::ArgAction::Append if !arg.is_positional() => {
            arg.allow_negative_numbers(true)
        }
        _ => arg,
    }
}

/// All commands and their flags.
fn program() -> clap::Command {
    Cli::command().mut_subcommands(|command| command.mut_args(takes_value))
}

/// The command line, and whether it says `--quiet`.
fn parse() -> Result<(Cli, bool), clap::Error> {
    let matches = program().try_get_matches().map_err(named_both_ways)?;
    // Commands may have commands of their own.
    let mut quiet = false;
    let mut innermost = &matches;
    while let Some((_, command)) = innermost.subcommand() {
        quiet |= command.try_get_one("quiet").ok().flatten().copied().unwrap_or(false);
        innermost = command;
    }
    Ok((Cli::from_arg_matches(&matches)?, quiet))
}

/// A model that is missing can be given in two ways.
fn named_both_ways(mut error: clap::Error) -> clap::Error {
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.iter().any(|arg| arg.contains("--model")),
        _ => false,
    };
    if missing && error.kind() == ErrorKind::MissingRequiredArgument {
        let tip = "give --model M, or set LACUNA_MODEL to the model that is meant without it";
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// A completion script on stdout.
fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    // It panics where a write fails, so it writes into memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lacuna", &mut script);
    let mut out = console::Out::new();
    out.write_all(&script)?;
    Ok(out.finish()?)
}

/// Prints what the parser has to say: help and version on stdout, wrong usage on stderr.
fn report_usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if error.use_stderr() {
        // An argument may have come from a file's name. Styles are lost with it where it would command the terminal;
        // the plain text has lost escape sequences already, so the arguments are looked at.
        let moves = |arg: std::ffi::OsString| arg.to_string_lossy().contains(is_moving);
        match std::env::args_os().skip(1).any(moves) {
            true => console::message(format_args!("{}", printable(&text))),
            false => drop(error.print()),
        }
        return ExitCode::from(2);
    }
    match error.print().and_then(|()| std::io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&console::unwritten(error).into()),
    }
}

/// The error and its causes on stderr. A reader that closed our stdout (`| head`) is no failure.
fn report(error: &anyhow::Error) -> ExitCode {
    // A signal that ends the program has its files removed: that they are gone is no error to tell.
    lacuna_files::wait_if_ending();
    let broken_pipe = error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    // Spelt out in a file too: logs are read on terminals.
    note!("error: {}", printable(&said(error)));
    ExitCode::from(match () {
        () if error.is::<Usage>() => 2,
        () if error.is::<NoCard>() => 3,
        () => 1,
    })
}

/// An error and its causes in one line.
fn said(error: &anyhow::Error) -> String {
    let one = |cause: &(dyn std::error::Error + 'static)| match (
        cause.downcast_ref(),
        cause.downcast_ref::<lacuna::Error>(),
    ) {
        (Some(tensor), _) => lacuna::kernels::message(tensor),
        (_, Some(error)) => error.spelled(flags::flag),
        _ => cause.to_string(),
    };
    let mut text = String::new();
    for cause in error.chain().map(one) {
        // A transparent wrapper repeats what it wraps, and some errors tell their cause in their own sentence.
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text
}

/// A command that was used wrongly: exit status 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The reason for which nothing can be done on a card: exit status 3.
#[derive(Debug)]
pub(crate) struct NoCard(pub(crate) String);

impl std::fmt::Display for NoCard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoCard {}

#[cfg(test)]
mod tests;
