//! `lacuna train` runs a recipe, and resumes a run.

use anyhow::{Context, Result};
use candle_core::Device;
use lacuna::data::cache::Step;
use lacuna::train::{
    Collective, Event, Launch, Launcher, OnMachine, Recipe, RunOptions, TrainError,
    run as run_recipe, run_on,
};
use lacuna::{MemoryLimit, select_device};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

mod board;
mod display;
pub(super) mod pace;
mod plan;
pub(super) mod plot;
mod redraw;
pub(super) mod report;
mod results;
mod samples;
mod stop;
mod surroundings;
use super::Usage;
use super::init::quoted;
use super::model_args::memory_limit;
use super::progress::{At, Progress as Waiting, be_quiet, downloads};
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
#[command(group = clap::ArgGroup::new("resumed").args(["resume", "resume_step"]).multiple(true))]
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
    /// With --resume or --resume-step: go on although learning rates, steps or the like differ from what the run began with; run.json records it
    #[arg(long, requires = "resumed")]
    accept_changes: bool,
    /// Go on from the checkpoint of this step; newer ones are set aside
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    resume_step: Option<u64>,
    /// Device that the model trains on
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda", "metal"])]
    device: String,
    /// Memory to plan with: 8GB, or unlimited for no check; default: what the machine has available
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = memory_limit)]
    memory: Option<MemoryLimit>,
    /// Say what the run will take, in memory, operations, tokens and time, and end; writes nothing
    #[arg(long, conflicts_with_all = ["out", "resume", "resume_step", "accept_changes", "tui"])]
    plan: bool,
    /// With --plan: print it as one JSON object
    #[arg(long)]
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
    // If another flag conflicts with --plan, the parser asks nobody for it.
    if args.json && !args.plan {
        return Err(Usage("--json prints a plan: give --plan with it".into()).into());
    }
    let mut recipe = Recipe::load(&args.recipe, &args.set)?;
    recipe.tensorboard |= args.tensorboard;
    if let Some(from) = &mut recipe.model.from {
        *from = lacuna::locate(from, &downloads(!args.quiet && std::io::stderr().is_terminal()))?;
    }
    let launch = Launch::from_environment();
    // With kernels of our own in this build a card takes the steps, and tensors stay on the CPU.
    let mut card = (args.device == "cuda" && lacuna_device::has_kernels() && !args.plan)
        .then(|| lacuna_device::open(gpu_of(launch.as_ref())))
        .transpose()?;
    let tensors = if card.is_some() { "cpu" } else { &args.device };
    let device = device(tensors, launch.as_ref())?;
    let collective = Collective::launched(launch.as_ref(), &device)?;
    // The first rank alone speaks, but for why another ends.
    let quiet = args.quiet || !collective.is_first();
    if quiet {
        be_quiet();
    }
    if args.plan {
        return plan::run(&recipe, &device, args.memory.unwrap_or_default().bytes(), args.json);
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
        collective,
        memory: args.memory.unwrap_or_default().bytes(),
    };
    let tui = args.tui && options.collective.is_first();
    let mut display = Display::new(quiet, tui, &recipe)?;
    let (mut sampler, mut redraw) = (Sampler::default(), Redraw::new(&dir));
    let at = Arc::new(Mutex::new(At { what: "reading text".to_owned(), part: None }));
    let shown = Arc::clone(&at);
    let known = move || shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // The dashboard says it itself.
    let mut opening = (!tui).then(|| Waiting::watching(known));
    let mut observe = |event: Event<'_>| {
        match &event {
            Event::Packing(step) => {
                *at.lock().unwrap_or_else(PoisonError::into_inner) = packing(step);
            }
            _ => opening = None,
        }
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
    };
    let outcome = match &mut card {
        None => run_recipe(&recipe, &options, &mut observe),
        Some(card) => {
            let on = OnMachine {
                machine: card.machine.as_mut(),
                card: card.card,
                peak_operations: lacuna_device::peak_operations(&card.name),
            };
            run_on(&recipe, &options, on, &mut observe)
        }
    };
    drop(opening);
    drop(display);
    let outcome = outcome.inspect_err(|error| end_all(&options.collective, error))?;
    if !options.collective.is_first() {
        return Ok(());
    }
    if outcome.interrupted {
        let model = outcome.model.display();
        // Whoever read it may be gone with the terminal; the status is told all the same.
        let saved = match outcome.model.join("progress.json").exists() {
            true => format!("stopped; checkpoint: {model}"),
            false => "stopped before the first step".to_owned(),
        };
        let told = format!(
            "{saved}\ngo on with: lacuna train {} --out {} --resume\n",
            // The one as it was run, with what --set has changed.
            quoted(&recipe_to_resume(&args.recipe, &dir)),
            quoted(&dir)
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

/// The run's own recipe, which has every value that it is run with; the user's before there is one.
fn recipe_to_resume(given: &Path, dir: &Path) -> PathBuf {
    let own = dir.join("recipe.toml");
    if own.exists() { own } else { given.to_owned() }
}

/// The GPU of a rank, by its number: of several that are started on a machine, each has one of its own.
fn gpu_of(launch: Option<&Launch>) -> usize {
    launch.filter(|launch| launch.size > 1).map_or(0, |launch| launch.local_rank)
}

/// The device of a rank: of several that torchrun starts on a machine, each has a GPU of its own.
fn device(name: &str, launch: Option<&Launch>) -> Result<Device> {
    match launch {
        Some(Launch { launcher: Launcher::Torchrun, size: 2.., .. }) if name == "cuda" => {
            let gpu = gpu_of(launch);
            Device::new_cuda(gpu).with_context(|| format!("--device cuda, GPU {gpu}"))
        }
        _ => Ok(select_device(name)?),
    }
}

/// Says why this rank ends, and ends the others: one that waits for it would wait for ever.
fn end_all(ranks: &Collective, error: &TrainError) {
    if ranks.size() > 1 {
        note!("error: rank {}: {error}", ranks.rank());
        ranks.end_all(1);
    }
}

/// The progress of the text on its way into windows.
fn packing(step: &Step) -> At {
    let (what, part) = match step {
        Step::Hashing(at) => ("reading the corpus", Some((at.bytes, at.bytes_total))),
        Step::Waiting => ("another run packs the same corpus", None),
        Step::Packing(at) => {
            ("packing the corpus", Some((at.reading.bytes, at.reading.bytes_total)))
        }
        Step::Verifying(done, all) => ("checking shards", Some((*done, *all))),
        _ => ("reading text", None),
    };
    At { what: what.to_owned(), part }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_of_a_machine_has_a_gpu_of_its_own() {
        let started = |variables: [(&'static str, &'static str); 3]| {
            let value = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            gpu_of(Launch::from_variables(value).as_ref())
        };
        assert_eq!(started([("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")]), 1);
        let slurm = [("SLURM_PROCID", "6"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_LOCALID", "2")];
        assert_eq!(started(slurm), 2);
        assert_eq!(started([("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "3")]), 0, "alone");
        assert_eq!(gpu_of(None), 0);
    }
}
