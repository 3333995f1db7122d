//! Ranks under mpirun: the same run with 1, 2 and 4 of them gives the same bits, and one that is killed ends the job.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, is_there, run};
use crate::run_files::timeless;

/// A recipe of seconds, with eight micro-batches a step.
const RECIPE: &str = "recipes/smoke.toml";
const CHANGES: [&str; 6] = [
    "stage.0.batch_size=8",
    "stage.0.micro_batch_size=1",
    "stage.1.batch_size=8",
    "stage.1.micro_batch_size=1",
    "evaluation.windows=2",
    "evaluation.prompts=[]",
];
/// The longest time in which a job whose rank was killed may go on.
const PATIENCE: Duration = Duration::from_secs(20);

/// The reason why MPI can't be tried here, with what to install, if it can't.
fn obstacle() -> Option<String> {
    let missing: Vec<_> = ["mpirun", "mpicc"].into_iter().filter(|one| !is_there(one)).collect();
    (!missing.is_empty()).then(|| {
        let debian = "Debian's openmpi-bin, libopenmpi-dev and libclang-dev";
        format!("missing: {} ({debian})", missing.join(", "))
    })
}

/// Runs it all, in a folder that is taken away again.
pub(crate) fn check() -> Result<()> {
    if let Some(why) = obstacle() {
        bail!("{why}");
    }
    let program = cargo::build("lacuna", &["--locked", "-p", "lacuna-cli", "--features", "mpi"])?;
    let folder = std::env::temp_dir().join(format!("lacuna-mpi-{}", std::process::id()));
    let checked = check_in(&program, &folder);
    // After a failure the runs are looked at.
    if checked.is_ok() {
        std::fs::remove_dir_all(&folder)?;
    }
    checked
}

fn check_in(program: &Path, folder: &Path) -> Result<()> {
    let one = folder.join("1");
    finish(&mut job(program, 1, &one))?;
    let expected = written(&one)?;
    ensure!(expected.len() > 2, "one rank wrote {} files", expected.len());
    for ranks in [2, 4] {
        let dir = folder.join(ranks.to_string());
        finish(&mut job(program, ranks, &dir))?;
        let found = written(&dir)?;
        for (name, bytes) in &expected {
            ensure!(
                found.get(name) == Some(bytes),
                "{ranks} ranks: {name} differs from one rank's"
            );
        }
        println!("{ranks} ranks write the bytes of one: {} files", expected.len());
    }
    lost(program, &folder.join("lost"))
}

fn job(program: &Path, ranks: usize, dir: &Path) -> Command {
    let mut command = Command::new("mpirun");
    command.current_dir(cargo::root());
    // A container's user is root as a rule, and its cores are fewer than the ranks here.
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", &ranks.to_string()]);
    command.arg(program).args(["train", RECIPE, "--quiet", "--resume", "--out"]).arg(dir);
    command.args(CHANGES.iter().flat_map(|change| ["--set", change]));
    command
}

fn finish(job: &mut Command) -> Result<()> {
    let output = job.output().context("starting mpirun")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mpirun ended with {}:\n{told}", output.status);
    Ok(())
}

/// The numbers of a run that hold no time: weights, losses, scores. It writes no samples.
fn written(dir: &Path) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    timeless(dir, &["metrics.jsonl"])
}

/// Kills one of two ranks in the middle of a run: the job ends by itself, and goes on from its checkpoint.
fn lost(program: &Path, dir: &Path) -> Result<()> {
    let mut command = job(program, 2, dir);
    command.args(["--set", "stage.0.steps=100000", "--set", "stage.0.checkpoint_every=5"]);
    command.args(["--set", "keep_checkpoints=0"]);
    let mut job = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let began = Instant::now();
    while !dir.join("checkpoints/step-5").exists() {
        ensure!(job.try_wait()?.is_none(), "the job ended before its first checkpoint");
        ensure!(began.elapsed() < Duration::from_secs(120), "no checkpoint within two minutes");
        thread::sleep(Duration::from_millis(100));
    }
    let rank = ranks_of(&job)?.pop().context("a rank to kill")?;
    run(Command::new("kill").args(["-9", &rank.to_string()]))?;
    let killed = Instant::now();
    let status = loop {
        if let Some(status) = job.try_wait()? {
            break status;
        }
        if killed.elapsed() > PATIENCE {
            let _ = job.kill();
            bail!("the job still runs {} s after a rank was killed", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    };
    ensure!(!status.success(), "the job ended well although a rank was killed");
    println!("a killed rank ends the job in {:.1} s, {status}", killed.elapsed().as_secs_f64());
    let goes_on = goes_on(program, dir)?;
    ensure!(goes_on, "the folder can't be gone on with");
    Ok(())
}

/// Goes on with the run alone for a step: its lock is free, and its checkpoint is whole.
fn goes_on(program: &Path, dir: &Path) -> Result<bool> {
    let mut command = Command::new(program);
    command.current_dir(cargo::root());
    command.args(["train", RECIPE, "--quiet", "--resume-step", "5", "--accept-changes"]);
    command.arg("--out").arg(dir).args(["--set", "keep_checkpoints=0"]);
    command.args(CHANGES.iter().flat_map(|change| ["--set", change]));
    command.args(["--set", "stage.0.checkpoint_every=5"]);
    Ok(command.stdout(Stdio::null()).status()?.success())
}

/// The processes that a job's mpirun has started.
fn ranks_of(job: &Child) -> Result<Vec<u32>> {
    let children = PathBuf::from(format!("/proc/{0}/task/{0}/children", job.id()));
    let children = std::fs::read_to_string(&children).context("the ranks of a job")?;
    Ok(children.split_whitespace().filter_map(|id| id.parse().ok()).collect())
}
