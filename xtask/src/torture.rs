//! Hurts runs in every way that a machine can, as often as asked, and counts what did not survive: `cargo xtask torture`.
//!
//! A tiny model is trained by the program itself, which saves after every step. Nothing here looks into its files but to
//! compare them.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;
use crate::run_files::timeless;

mod flips;

/// The things that are done to the runs, and how often.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kill -9 at random moments
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Flip one bit at random places of the newest checkpoint, the run's records, and packed text
    #[arg(long, default_value_t = 20)]
    flips: usize,
    /// Stop (SIGTERM) at random moments, by turns with one and two threads
    #[arg(long, default_value_t = 4)]
    stops: usize,
    /// The source of the random moments and places
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program; default: the one that the tests have built
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

/// The form that CI runs.
pub(crate) const SHORT: Args = Args { kills: 20, flips: 20, stops: 4, seed: 1, program: None };

pub(crate) fn torture(args: &Args) -> Result<()> {
    let program = match &args.program {
        Some(program) => std::path::absolute(program)?,
        None => cargo::lacuna()?,
    };
    let place = Place::new(program)?;
    let mut random = Random(args.seed);
    let began = Instant::now();
    if args.kills > 0 {
        println!("{}", kills(&place, args.kills, &mut random)?);
    }
    if args.flips > 0 {
        println!("{}", flips::flips(&place, args.flips, &mut random)?);
    }
    if args.stops > 0 {
        println!("{}", stops(&place, args.stops, &mut random)?);
    }
    println!("{:.0} s in all", began.elapsed().as_secs_f64());
    Ok(())
}

/// Numbers that look random and are the same for a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// The program, and a folder that goes at the end.
struct Place {
    program: PathBuf,
    root: PathBuf,
    recipe: PathBuf,
    /// The time that a run takes to which nothing happens.
    took: OnceCell<Duration>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Steps of a run's two stages.
const STEPS: [u64; 2] = [40, 40];

impl Place {
    fn new(program: PathBuf) -> Result<Self> {
        let root = std::env::temp_dir().join(format!("lacuna-torture-{}", std::process::id()));
        fs::create_dir_all(root.join("corpus"))?;
        for file in 0..40 {
            let lines =
                (0..20).map(|n| format!("def f{file}_{n}(a, b):\n    return a * {n} + b\n\n"));
            fs::write(root.join(format!("corpus/f{file}.py")), lines.collect::<String>())?;
        }
        let tokenizer = cargo::root().join("fixtures/tokenizer/tokenizer.json");
        let recipe = root.join("recipe.toml");
        let stage = |name: &str, more: &str, steps: u64| {
            format!(
                "[[stage]]\nname = '{name}'\n{more}\nsteps = {steps}\nbatch_size = 2\nlearning_rate = 1e-3\n\
                 checkpoint_every = 1\n"
            )
        };
        let text = format!(
            "name = 'torture'\nseed = 7\nkeep_checkpoints = 2\ntensorboard = true\n[model]\nhidden_size = 16\n\
             intermediate_size = 16\nlayers = 1\nheads = 2\n[data]\ntokenizer = '{}'\ncorpus = ['corpus']\n\
             window = 16\nheld_out = 0.1\n[optimizer]\nspike_z_score = 3.0\n[evaluation]\nwindows = 1\n\
             evaluate_every = 7\nsample_every = 11\nprompts = ['def f']\nmax_new_tokens = 4\n{}{}",
            tokenizer.display(),
            stage("a", "objective = 'autoregressive'", STEPS[0]),
            stage("b", "objective = 'block-diffusion'\nblock_size = 4", STEPS[1]),
        );
        fs::write(&recipe, text)?;
        Ok(Self { program, root, recipe, took: OnceCell::new() })
    }

    fn training(&self, run: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("train").arg(&self.recipe).arg("--out").arg(run).args(["--resume", "--quiet"]);
        command.args(more).stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    fn finish(&self, run: &Path) -> Result<()> {
        let output = self.training(run, &[]).output()?;
        ensure!(output.status.success(), "a run could not go on: {}", said(&output));
        Ok(())
    }

    /// A run that nothing happens to, and how long it took.
    fn unbroken(&self) -> Result<(PathBuf, Duration)> {
        let run = self.root.join("unbroken");
        if let Some(took) = self.took.get() {
            return Ok((run, *took));
        }
        let began = Instant::now();
        self.finish(&run)?;
        Ok((run, *self.took.get_or_init(|| began.elapsed())))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Names below a run's folder that are those of unfinished files, but not of process `alive`.
fn leftovers(run: &Path, alive: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "checkpoints", "samples", "tensorboard"] {
        let Ok(entries) = fs::read_dir(run.join(folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let own = name.contains(&format!(".{alive}-"));
            if name.starts_with('.') && name != ".lock" && !own {
                found.push(entry.path());
            }
        }
    }
    found
}

/// The numbers of a run that hold no time: weights, losses, scores, samples.
fn results(run: &Path) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    timeless(run, &["metrics.jsonl", "samples.jsonl"])
}

fn compare(run: &Path, unbroken: &Path) -> Result<()> {
    let (found, expected) = (results(run)?, results(unbroken)?);
    for (name, bytes) in &expected {
        ensure!(found.get(name) == Some(bytes), "{name} is not that of an unbroken run");
    }
    Ok(())
}

/// Waits for a process, at most as long as given; `None` if it still runs then.
fn ended(child: &mut Child, wait: Duration) -> Result<Option<std::process::ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= wait {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn kills(place: &Place, wanted: usize, random: &mut Random) -> Result<String> {
    let (unbroken, whole) = place.unbroken()?;
    let (mut killed, mut runs, mut unusable, mut left) = (0, 0, 0, 0);
    while killed < wanted {
        runs += 1;
        let run = place.root.join(format!("killed-{runs}"));
        loop {
            let child =
                place.training(&run, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
            let mut child = child?;
            let moment = Duration::from_micros(random.below(whole.as_micros() as u64 * 2 / 3));
            if let Some(status) = ended(&mut child, moment)? {
                let output = child.wait_with_output()?;
                if !status.success() {
                    unusable += 1;
                    println!("could not go on: {}", said(&output));
                }
                break;
            }
            child.kill()?;
            let id = child.id();
            child.wait()?;
            killed += 1;
            // The leftovers of an earlier process were to be removed by this one, if it came so far as to save.
            let old = leftovers(&run, id);
            if !old.is_empty() && moment > whole / 3 {
                left += 1;
                println!("left behind: {old:?}");
            }
            if killed >= wanted {
                break;
            }
        }
        if let Err(error) = place.finish(&run) {
            unusable += 1;
            println!("{error}");
        }
        let old = leftovers(&run, 0);
        if !old.is_empty() {
            left += 1;
            println!("left behind: {old:?}");
        }
        compare(&run, &unbroken).with_context(|| format!("run {runs}"))?;
        fs::remove_dir_all(&run)?;
    }
    ensure!(unusable == 0 && left == 0, "{unusable} unusable, {left} with leftovers");
    Ok(format!(
        "{killed} kills of {runs} runs: 0 unusable, 0 leftovers, weights, losses and scores equal an unbroken run's"
    ))
}

fn stops(place: &Place, wanted: usize, random: &mut Random) -> Result<String> {
    let (unbroken, whole) = place.unbroken()?;
    let (mut stopped, mut runs) = (0, 0);
    while stopped < wanted {
        runs += 1;
        let run = place.root.join(format!("stopped-{runs}"));
        loop {
            let threads = if stopped % 2 == 0 { "1" } else { "2" };
            let mut command = place.training(&run, &["--threads", threads]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            let moment = Duration::from_micros(random.below(whole.as_micros() as u64));
            let id = child.id().to_string();
            if ended(&mut child, moment)?.is_none() && stopped < wanted {
                let sent = Command::new("kill").args(["-TERM", &id]).status()?;
                ensure!(sent.success(), "a signal could not be sent");
                stopped += 1;
            }
            let output = child.wait_with_output()?;
            match output.status.code() {
                Some(0) => break,
                Some(143) => {}
                // Before the program listens, the signal ends it as any other.
                None => {}
                other => bail!("status {other:?}: {}", said(&output)),
            }
        }
        compare(&run, &unbroken).with_context(|| format!("run {runs}"))?;
        fs::remove_dir_all(&run)?;
    }
    Ok(format!(
        "{stopped} stops of {runs} runs, by turns with 1 and 2 threads: weights, losses and scores equal an unbroken run's"
    ))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
