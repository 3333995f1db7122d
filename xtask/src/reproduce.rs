//! `cargo xtask reproduce` trains an experiment's arms with several seeds, and writes its page: table and figures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::cargo::{self, run};
use crate::train;

mod addition;
mod figure;
mod measures;
mod page;
mod task;

use measures::Measured;
use task::Measure;

/// The experiment that is asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The experiment; without it, the list
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// A few steps of every arm with one seed: the same path in minutes. Writes no page into the repository
    #[arg(long, requires = "name")]
    smoke: bool,
    /// Only so many of its seeds
    #[arg(long, value_name = "N", requires = "name")]
    seeds: Option<usize>,
    /// The folder of its runs, which a second call goes on with
    #[arg(long, value_name = "DIR", requires = "name")]
    out: Option<PathBuf>,
    /// This program in place of one that is built for speed
    #[arg(long, value_name = "PATH", requires = "name")]
    program: Option<PathBuf>,
}

/// The folder of the experiments.
const EXPERIMENTS: &str = "reproduce";

/// An experiment, as its `experiment.toml` says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Experiment {
    /// The claim that is looked at, in a line.
    title: String,
    /// The question, the arms and what is expected, as paragraphs.
    about: String,
    /// The published figures that the outcome is compared with.
    published: String,
    /// Hours on two cores.
    hours: f64,
    /// The model that every arm starts from: a recipe, trained once for each seed. None: from nothing.
    base: Option<PathBuf>,
    /// The recipe that the arms change.
    recipe: PathBuf,
    seeds: Vec<u64>,
    /// The arm that the others are compared with, pair by pair of a seed.
    reference: String,
    /// The scores of the table, the first of which is drawn: a score of `results.json`, the name of a measure, or `own`,
    /// the one of the objective that was trained last.
    scores: Vec<String>,
    /// Text that is made for this experiment, into the folder that `{data}` names in what arms and recipes are set to.
    #[serde(default)]
    prepare: Option<Prepare>,
    /// Changes of every arm, before its own.
    #[serde(default)]
    set: Vec<String>,
    /// Changes of the models that arms start from.
    #[serde(default)]
    set_base: Vec<String>,
    /// Questions to the program about a trained model, beside the scores that training ends with.
    #[serde(default)]
    measure: Vec<Measure>,
    /// Draw the held-out score on the way as well, from recipes with `evaluate_every`.
    #[serde(default)]
    track: bool,
    /// The numbers of every step that are drawn over the steps.
    #[serde(default)]
    curves: Vec<String>,
    /// Changes that make every run short, and more that the arms alone need.
    smoke: Vec<String>,
    smoke_arms: Vec<String>,
    arm: Vec<Arm>,
}

/// Text that an experiment needs and no repository has.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Prepare {
    /// Sums of two numbers, by [`addition`].
    Addition,
}

/// One of the things that are compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arm {
    name: String,
    /// Its own recipe, in place of the one that all others change.
    recipe: Option<PathBuf>,
    /// Changes of the recipe, as `lacuna train --set` takes them.
    #[serde(default)]
    set: Vec<String>,
    /// Changes that make it short, beside those that make all arms short.
    #[serde(default)]
    smoke: Vec<String>,
}

impl Experiment {
    /// The files of all its recipes.
    fn recipes<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        let own = self.arm.iter().filter_map(|arm| arm.recipe.as_ref());
        self.base.iter().chain([&self.recipe]).chain(own).map(|recipe| folder.join(recipe))
    }
}

impl Arm {
    /// Its name as a folder's.
    fn folder(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.name.chars().map(plain).collect();
        name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    }
}

/// Runs an experiment, or lists all.
pub(crate) fn reproduce(args: &Args) -> Result<()> {
    let Some(name) = &args.name else { return list() };
    let folder = cargo::root().join(EXPERIMENTS).join(name);
    let experiment = read(&folder).with_context(|| {
        let known = names().unwrap_or_default().join(", ");
        format!("no experiment `{name}` that can be read; there are {known}")
    })?;
    let program = match &args.program {
        Some(program) => std::path::absolute(program)?,
        None => {
            cargo::build("lacuna", &["--release", "--package", "lacuna-cli", "--bin", "lacuna"])?
        }
    };
    let kind = if args.smoke { "smoke" } else { "whole" };
    let default = cargo::root().join("runs/reproduce").join(name).join(kind);
    let runs = args.out.as_deref().map(std::path::absolute).transpose()?.unwrap_or(default);
    let count = if args.smoke { 1 } else { args.seeds.unwrap_or(experiment.seeds.len()) };
    let seeds = experiment.seeds.get(..count).context("--seeds: more than the experiment has")?;
    let data = runs.join("data");
    match experiment.prepare {
        None => {}
        Some(Prepare::Addition) => addition::write(&data)?,
    }
    for recipe in experiment.recipes(&folder) {
        train::prepare(&recipe, &program)?;
    }
    let trainer =
        Trainer { program, folder: folder.clone(), runs: runs.clone(), data, smoke: args.smoke };
    let measured = trainer.all(&experiment, seeds)?;
    let target = if args.smoke { runs } else { folder };
    page::write(&target, name, &experiment, seeds, &measured)?;
    println!("\n{}", target.join("README.md").display());
    Ok(())
}

fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(cargo::root().join(EXPERIMENTS))? {
        let path = entry?.path();
        if path.join("experiment.toml").exists() {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn list() -> Result<()> {
    for name in names()? {
        let experiment = read(&cargo::root().join(EXPERIMENTS).join(&name))?;
        let runs = experiment.arm.len() * experiment.seeds.len();
        println!(
            "{name:<14}{}; {runs} runs, {} h on two cores",
            experiment.title, experiment.hours
        );
    }
    Ok(())
}

fn read(folder: &Path) -> Result<Experiment> {
    let text = std::fs::read_to_string(folder.join("experiment.toml"))?;
    let experiment: Experiment = toml::from_str(&text)?;
    let is_arm = |name: &String| experiment.arm.iter().any(|arm| arm.name == *name);
    ensure!(is_arm(&experiment.reference), "`{}` is no arm", experiment.reference);
    ensure!(!experiment.scores.is_empty(), "an experiment has a score");
    for measure in &experiment.measure {
        measure.check(&experiment)?;
    }
    Ok(experiment)
}

/// Trains the models of an experiment. What is there already is left as it is.
struct Trainer {
    program: PathBuf,
    folder: PathBuf,
    runs: PathBuf,
    /// Text that was made for the experiment.
    data: PathBuf,
    smoke: bool,
}

impl Trainer {
    fn all(&self, experiment: &Experiment, seeds: &[u64]) -> Result<Vec<Vec<Measured>>> {
        let mut measured = vec![Vec::new(); experiment.arm.len()];
        let (began, all) = (Instant::now(), seeds.len() * experiment.arm.len());
        for (i, seed) in seeds.iter().enumerate() {
            let base = experiment.base.as_ref().map(|recipe| self.base(experiment, recipe, *seed));
            let base = base.transpose()?;
            for (j, arm) in experiment.arm.iter().enumerate() {
                let number = i * experiment.arm.len() + j + 1;
                let minutes = began.elapsed().as_secs_f64() / 60.0;
                println!("\n[{number}/{all}, {minutes:.0} min] {}, seed {seed}", arm.name);
                let out = self.runs.join(format!("{}-{seed}", arm.folder()));
                let mut changes = Vec::new();
                if self.smoke {
                    changes.extend(experiment.smoke_arms.iter().chain(&arm.smoke).cloned());
                }
                changes.extend(experiment.set.iter().chain(&arm.set).cloned());
                changes.extend(base.iter().map(|base| format!("model.from={}", base.display())));
                let recipe = arm.recipe.as_ref().unwrap_or(&experiment.recipe);
                self.train(experiment, recipe, *seed, &changes, &out)?;
                let mut run = Measured::read(&out)?;
                for measure in experiment.measure.iter().filter(|one| one.is_of(&arm.name)) {
                    run.scores.extend(measure.take(&self.program, &out, &self.data)?);
                }
                measured[j].push(run);
            }
        }
        Ok(measured)
    }

    /// The model that the arms of a seed start from.
    fn base(&self, experiment: &Experiment, recipe: &Path, seed: u64) -> Result<PathBuf> {
        println!("\nthe model that all arms start from, seed {seed}");
        let out = self.runs.join(format!("base-{seed}"));
        self.train(experiment, recipe, seed, &experiment.set_base, &out)?;
        Ok(out.join("final"))
    }

    fn train(
        &self,
        experiment: &Experiment,
        recipe: &Path,
        seed: u64,
        changes: &[String],
        out: &Path,
    ) -> Result<()> {
        if out.join("final").exists() && out.join("results.json").exists() {
            return Ok(());
        }
        let mut command = Command::new(&self.program);
        command.arg("train").arg(self.folder.join(recipe)).arg("--quiet");
        command.arg("--out").arg(out).args(out.exists().then_some("--resume"));
        command.args(["--set", &format!("seed={seed}")]);
        let smoke = if self.smoke { experiment.smoke.as_slice() } else { &[] };
        let data = self.data.display().to_string();
        for change in changes.iter().chain(smoke) {
            command.arg("--set").arg(change.replace("{data}", &data));
        }
        // The report of a finished run is that of many here.
        run(command.stdout(std::process::Stdio::null()))?;
        if !out.join("final").exists() {
            bail!("{} ended without a model", out.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_experiment_can_be_read_and_names_its_recipes() {
        for name in names().unwrap() {
            let folder = cargo::root().join(EXPERIMENTS).join(&name);
            let experiment = read(&folder).unwrap();
            for recipe in experiment.recipes(&folder) {
                assert!(recipe.exists(), "{name}: {}", recipe.display());
            }
            let mut folders: Vec<_> = experiment.arm.iter().map(Arm::folder).collect();
            folders.sort();
            folders.dedup();
            assert_eq!(folders.len(), experiment.arm.len(), "{name}: two arms share a folder");
            assert!(experiment.seeds.len() >= 3, "{name}: three seeds at least");
        }
    }

    #[test]
    fn a_folder_has_a_plain_name() {
        let name = "clip + forced mask (the paper's)".into();
        let arm = Arm { name, recipe: None, set: Vec::new(), smoke: Vec::new() };
        assert_eq!(arm.folder(), "clip-forced-mask-the-paper-s");
    }
}
