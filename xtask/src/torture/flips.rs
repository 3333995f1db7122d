//! Flips one bit at a time of everything that a run relies on, and counts what was not named before training went on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Place, Random, STEPS, compare, copy, said};
use crate::cargo;

/// A file whose bits are flipped, by what the program is to do about it.
enum Target {
    /// The run's checkpoint, or its record: training stops before its first step.
    Run(PathBuf),
    /// Shards that somebody packed: a run on them stops before its first step.
    Shards(PathBuf),
    /// There is a whole copy of it, or it can be made again: training says so, and ends as if nothing had been.
    Mended(PathBuf),
}

impl Target {
    fn path(&self) -> &Path {
        let (Self::Run(path) | Self::Shards(path) | Self::Mended(path)) = self;
        path
    }
}

/// A run whose last step is still to be taken, which is put back where a flip has changed it.
struct Unfinished<'a> {
    place: &'a Place,
    whole: PathBuf,
    run: PathBuf,
}

impl<'a> Unfinished<'a> {
    fn of(place: &'a Place, unbroken: &Path) -> Result<Self> {
        let whole = place.root.join("unfinished");
        copy(unbroken, &whole)?;
        fs::remove_dir_all(whole.join("final"))?;
        fs::remove_dir_all(whole.join(format!("checkpoints/step-{}", STEPS[0] + STEPS[1])))?;
        let run = place.root.join("flipped");
        copy(&whole, &run)?;
        Ok(Self { place, whole, run })
    }

    fn put_back(&self) -> Result<()> {
        fs::remove_dir_all(&self.run)?;
        copy(&self.whole, &self.run)
    }

    /// Tells whether a step was taken.
    fn moved(&self) -> Result<bool> {
        let metrics = |run: &Path| fs::read(run.join("metrics.jsonl"));
        Ok(metrics(&self.run)? != metrics(&self.whole)?)
    }

    /// Goes on with the run; the reason why the flip was not dealt with as it should be, if so.
    fn fault(&self, path: &Path, mended: Option<&Path>) -> Result<Option<String>> {
        let output = self.place.training(&self.run, &[]).output()?;
        let (told, moved) = (said(&output), self.moved()?);
        let named = told.contains(&path.display().to_string());
        let is_right = match mended {
            None => !output.status.success() && !moved,
            Some(unbroken) => output.status.success() && compare(&self.run, unbroken).is_ok(),
        };
        if moved || output.status.success() {
            self.put_back()?;
        }
        Ok((!named || !is_right).then_some(told))
    }
}

/// The files of a folder, in order. The proof of a checkpoint's loss is written after it and is no part of it.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() && path.file_name().is_some_and(|name| name != "proof.json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The files of a packing's two parts.
fn packed(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok([files(&folder.join("train"))?, files(&folder.join("held-out"))?].concat())
}

/// The corpus as `lacuna pack` packs it.
fn pack(place: &Place) -> Result<PathBuf> {
    let shards = place.root.join("shards");
    let packed = Command::new(&place.program)
        .args(["pack", "--quiet", "--window", "16", "--held-out", "0.1", "--tokenizer"])
        .arg(cargo::root().join("fixtures/tokenizer/tokenizer.json"))
        .arg("--out")
        .arg(&shards)
        .arg(place.root.join("corpus"))
        .output()?;
    ensure!(packed.status.success(), "packing: {}", said(&packed));
    Ok(shards)
}

/// Everything whose bits are flipped.
fn targets(run: &Unfinished<'_>, shards: &Path) -> Result<Vec<Target>> {
    let checkpoint = run.run.join(format!("checkpoints/step-{}", STEPS[0] + STEPS[1] - 1));
    let mut targets: Vec<_> = files(&checkpoint)?.into_iter().map(Target::Run).collect();
    targets.push(Target::Run(run.run.join("run.json")));
    targets.push(Target::Mended(run.run.join("recipe.toml")));
    targets.extend(packed(shards)?.into_iter().map(Target::Shards));
    for entry in fs::read_dir(run.place.root.join(".packed"))? {
        let folder = entry?.path();
        if folder.is_dir() {
            targets.extend(packed(&folder)?.into_iter().map(Target::Mended));
        }
    }
    Ok(targets)
}

pub(super) fn flips(place: &Place, wanted: usize, random: &mut Random) -> Result<String> {
    let (unbroken, _) = place.unbroken()?;
    let run = Unfinished::of(place, &unbroken)?;
    let shards = pack(place)?;
    let targets = targets(&run, &shards)?;
    let shards_set = format!("data.shards={:?}", shards.display().to_string());
    let more = ["--set", "data.corpus=[]", "--set", &shards_set];
    // Whole shards are taken: what is refused below is refused for its flipped bit.
    let output = place.training(&place.root.join("from-whole-shards"), &more).output()?;
    ensure!(output.status.success(), "whole shards were refused: {}", said(&output));
    let mut unnamed = 0;
    for flip in 0..wanted {
        // By turns, so that small files have their share.
        let target = &targets[flip % targets.len()];
        let path = target.path();
        let whole = fs::read(path)?;
        ensure!(!whole.is_empty(), "{}: is empty", path.display());
        let mut bytes = whole.clone();
        let place_of = random.below(bytes.len() as u64) as usize;
        bytes[place_of] ^= 1u8 << random.below(8);
        fs::write(path, bytes)?;
        let fault = match target {
            Target::Run(path) => run.fault(path, None)?,
            Target::Mended(path) => run.fault(path, Some(&unbroken))?,
            Target::Shards(path) => {
                let begun = place.root.join("from-shards");
                let output = place.training(&begun, &more).output()?;
                let told = said(&output);
                let named = told.contains(&path.display().to_string());
                let began = begun.join("metrics.jsonl").exists();
                let is_right = named && !output.status.success() && !began;
                // A run that took them would be finished before the next flip.
                if begun.exists() {
                    fs::remove_dir_all(&begun)?;
                }
                (!is_right).then_some(told)
            }
        };
        if let Some(told) = fault {
            unnamed += 1;
            println!("byte {place_of} of {}: {told}", path.display());
        }
        fs::write(path, whole)?;
    }
    place.finish(&run.run)?;
    compare(&run.run, &unbroken)?;
    ensure!(
        unnamed == 0,
        "{unnamed} of {wanted} flipped bits were not named before training went on"
    );
    let count = |is: fn(&Target) -> bool| targets.iter().filter(|target| is(target)).count();
    Ok(format!(
        "{wanted} flipped bits of {} files of a checkpoint and its record, {} of shards, and {} that there is a copy of: each \
         named before a step was taken",
        count(|target| matches!(target, Target::Run(_))),
        count(|target| matches!(target, Target::Shards(_))),
        count(|target| matches!(target, Target::Mended(_))),
    ))
}
