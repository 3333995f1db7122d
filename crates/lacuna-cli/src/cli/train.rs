//! `lacuna train` runs a recipe, and resumes a run.

use anyhow::Result;
use lacuna::select_device;
use lacuna::train::{Collective, Event, Recipe, RunOptions, run as run_recipe};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

mod board;
mod display;
mod pace;
mod plan;
pub(super) mod plot;
mod redraw;
pub(super) mod report;
mod results;
mod samples;
mod stop;
mod surroundings;
use super::Usage;
use super::progress::{Progress as Waiting, be_quiet, downloads};
use display::Display;
use redraw::Redraw;
use samples::Sampler;
use stop::Stop;

/// Run a recipe: train, measure, write checkpoints.
///
/// Ctrl-C, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGXCPU finish the step, write a checkpoint and end with
/// status 128 plus the signal's number (130, 143, …), so that a scheduler runs the command again; with --resume it
/// goes on from there, and starts from the beginning where nothing was saved. A second signal ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna train recipes/tiny.toml
  lacuna train recipes/tiny.toml --plan
  lacuna train my.toml --set stage.1.steps=2000 --set seed=7 --out runs/longer
  lacuna train my.toml --out runs/longer --resume
  lacuna train my.toml --resume --accept-changes --set stage.1.steps=3000
  lacuna train my.toml --tui

Exit status: 0 finished, 1 failed, 2 wrong usage, 130, 143, 129, … stopped by a signal and saved.")]
pub(crate) struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Override a value of the recipe; stages are counted from 0
    #[arg(long, value_name = "key.path=value")]
    set: Vec<String>,
    /// The run's directory; default: runs/NAME, or the next free runs/NAME-2, …
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the newest complete checkpoint; from the beginning if there is none
    #[arg(long)]
    resume: bool,
    /// Resume although learning rates, steps or the like differ from what the run began with; run.json records it
    #[arg(long)]
    accept_changes: bool,
    /// Go on from the checkpoint of this step; newer ones are set aside
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    resume_step: Option<u64>,
    /// Device that the model trains on
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda", "metal"])]
    device: String,
    /// Say what the run will take, in memory, operations, tokens and time, and end; writes nothing
    #[arg(long, conflicts_with_all = ["out", "resume", "resume_step", "accept_changes", "tui"])]
    plan: bool,
    /// Print the plan as one JSON object
    #[arg(long, requires = "plan")]
    json: bool,
    /// Show a dashboard in the terminal
    #[arg(long, conflicts_with = "quiet")]
    tui: bool,
    /// Write events for TensorBoard into the run's directory
    #[arg(long)]
    tensorboard: bool,
    /// No progress, only the results
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.tui && !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        let message = "--tui needs a terminal for its input and its output; leave it out elsewhere";
        return Err(Usage(message.into()).into());
    }
    let mut recipe = Recipe::load(&args.recipe, &args.set)?;
    recipe.tensorboard |= args.tensorboard;
    if let Some(from) = &mut recipe.model.from {
        *from = lacuna::locate(from, &downloads(!args.quiet && std::io::stderr().is_terminal()))?;
    }
    let device = select_device(&args.device)?;
    if args.quiet {
        be_quiet();
    }
    if args.plan {
        return plan::run(&recipe, &device, args.json);
    }
    let dir = match &args.out {
        Some(dir) => dir.clone(),
        None => default_directory(&recipe.name, args.resume || args.resume_step.is_some()),
    };
    let stop = Stop::listen()?;
    let options = RunOptions {
        dir: dir.clone(),
        resume: args.resume,
        resume_step: args.resume_step,
        accept_changes: args.accept_changes,
        surroundings: surroundings::of(&args.device, &device),
        device,
        stop: stop.flag(),
        collective: Collective::Alone,
    };
    let mut display = Display::new(args.quiet, args.tui, &recipe)?;
    let (mut sampler, mut redraw) = (Sampler::default(), Redraw::new(&dir));
    // The dashboard says it itself.
    let mut opening = (!args.tui).then(|| Waiting::spinning("reading and packing text"));
    let outcome = run_recipe(&recipe, &options, &mut |event| {
        opening = None;
        stop.hear(&event);
        for notice in redraw.hear(&event) {
            display.warn(&notice);
        }
        if let Event::SamplesDue { step, model, data, wanted, written } = event {
            match sampler.write(model, data, wanted) {
                Ok(samples) => *written = samples,
                Err(reason) => display.warn(&format!("no samples after step {step}: {reason:#}")),
            }
            return display.samples(step, written);
        }
        display.show(&event);
    });
    drop(opening);
    drop(display);
    let outcome = outcome?;
    if outcome.interrupted {
        let model = outcome.model.display();
        // Whoever read it may be gone with the terminal; the status is told all the same.
        let saved = match outcome.model.join("progress.json").exists() {
            true => format!("stopped; checkpoint: {model}"),
            false => "stopped before the first step".to_owned(),
        };
        let told = format!(
            "{saved}\ngo on with: lacuna train {} --out {} --resume\n",
            args.recipe.display(),
            dir.display()
        );
        let _ = std::io::stdout().write_all(told.as_bytes());
        stop.exit();
    }
    // From here on everything is saved: a signal ends the program at once.
    stop.nothing_to_save();
    if outcome.finished_before {
        out!(
            "{} is finished: nothing was done, the model is {}\nto go on with it, raise the steps of its last stage \
             or add a [[stage]] to the recipe, and resume with --accept-changes",
            dir.display(),
            outcome.model.display()
        );
        return Ok(());
    }
    out!("{}", results::results(&recipe, &dir, &outcome)?.trim_end());
    Ok(())
}

/// runs/NAME, or the next free number; to resume, the highest that exists.
fn default_directory(name: &str, resume: bool) -> PathBuf {
    let numbered = |n: u32| match n {
        1 => Path::new("runs").join(name),
        n => Path::new("runs").join(format!("{name}-{n}")),
    };
    let begun = |dir: PathBuf| dir.join("recipe.toml").exists() || dir.join("checkpoints").exists();
    let number = |entry: &PathBuf| -> Option<u32> {
        let rest = entry.file_name()?.to_str()?.strip_prefix(name)?;
        let n = if rest.is_empty() { 1 } else { rest.strip_prefix('-')?.parse().ok()? };
        (n > 0 && begun(numbered(n))).then_some(n)
    };
    let entries = lacuna_files::list("runs".as_ref()).unwrap_or_default();
    let newest = entries.iter().filter_map(number).max();
    numbered(if resume { newest.unwrap_or(1) } else { newest.map_or(1, |n| n.saturating_add(1)) })
}
