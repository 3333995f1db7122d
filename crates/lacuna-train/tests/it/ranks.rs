//! Tests ranks that share a run: their steps are those of one rank, to the byte, and the first alone writes.

use lacuna_train::{Collective, Event, MomentsForm, Outcome, Recipe, RunOptions, run};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The smoke recipe: a stage of one micro-batch, then one of two.
fn recipe() -> Recipe {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
    Recipe::load(&path, &["evaluation.windows=1".into()]).unwrap()
}

fn run_as(recipe: &Recipe, dir: &Path, collective: Collective, steps: u64) -> Outcome {
    try_run_as(recipe, dir, collective, steps).unwrap()
}

/// Runs as one of some ranks, and stops when it has taken `steps`.
fn try_run_as(
    recipe: &Recipe,
    dir: &Path,
    collective: Collective,
    steps: u64,
) -> lacuna_train::Result<Outcome> {
    let stop = AtomicBool::new(false);
    let is_first = collective.is_first();
    let options = RunOptions { resume: true, collective, ..RunOptions::new(dir, &stop) };
    run(recipe, &options, &mut |event| match event {
        Event::Step { metrics, .. } => {
            assert!(is_first, "the first rank alone tells of steps");
            stop.store(metrics.step >= steps, Ordering::Relaxed);
        }
        Event::Checkpoint(_) | Event::StageEnd { .. } | Event::Recorded { .. } => {
            assert!(is_first, "the first rank alone writes");
        }
        _ => {}
    })
}

#[test]
fn ranks_of_different_recipes_are_refused_before_anything_is_written() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("run");
    let (one, mut other) = (recipe(), recipe());
    other.seed += 1;
    let mut ranks = Collective::threads(2.try_into().unwrap()).into_iter();
    let (first, second) = (ranks.next().unwrap(), ranks.next().unwrap());
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| try_run_as(&one, &dir, first, 1).unwrap_err().to_string());
        let second = scope.spawn(|| try_run_as(&other, &dir, second, 1).unwrap_err().to_string());
        (first.join().unwrap(), second.join().unwrap())
    });
    assert!(second.contains("rank 0 runs another recipe"), "{second}");
    assert!(first.contains("rank 1 runs another recipe"), "{first}");
    assert!(!dir.exists());
}

fn ranks(size: usize, recipe: &Recipe, dir: &Path, steps: u64) -> Vec<Outcome> {
    thread::scope(|scope| {
        let ranks = Collective::threads(size.try_into().unwrap()).into_iter();
        let threads: Vec<_> =
            ranks.map(|rank| scope.spawn(move || run_as(recipe, dir, rank, steps))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Every file below a folder, but for those that hold a time or something that depends on one.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if !["run.json", "manifest.json", "metrics.jsonl"].contains(&name) {
                let bytes = std::fs::read(&path).unwrap();
                found.push((path.strip_prefix(dir).unwrap().to_owned(), bytes));
            }
        }
    }
    found.sort();
    found
}

fn metrics(dir: &Path) -> Vec<serde_json::Value> {
    lacuna_test::timeless(&dir.join("metrics.jsonl"))
}

/// Asserts that two folders hold the same files with the same bytes, but for the checkpoint of a step.
fn assert_same(one: &Path, other: &Path, without: u64) {
    let extra = PathBuf::from(format!("checkpoints/step-{without}"));
    let (one, mut other) = (files(one), files(other));
    other.retain(|(path, _)| !path.starts_with(&extra));
    let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
        files.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&one), names(&other));
    for ((path, one), (_, other)) in one.iter().zip(&other) {
        assert!(one == other, "{}", path.display());
    }
}

#[test]
fn two_ranks_of_one_micro_batch_each_write_the_bytes_of_one_rank_of_two() {
    let folder = tempfile::tempdir().unwrap();
    let (alone, shared) = (folder.path().join("alone"), folder.path().join("shared"));
    let recipe = recipe();
    let outcome = run_as(&recipe, &alone, Collective::Alone, u64::MAX);
    assert!(!outcome.interrupted);
    // Once over, stopped in the second stage: both ranks end after the same step, and both go on.
    let stopped = ranks(2, &recipe, &shared, 17);
    assert!(stopped.iter().all(|outcome| outcome.interrupted));
    let finished = ranks(2, &recipe, &shared, u64::MAX);
    assert!(finished.iter().all(|outcome| !outcome.interrupted));
    assert_eq!(metrics(&alone), metrics(&shared));
    assert_same(&alone, &shared, 17);
    let again = ranks(2, &recipe, &shared, u64::MAX);
    assert!(again.iter().all(|outcome| outcome.finished_before));
}

#[test]
fn any_number_of_ranks_writes_the_same_bytes_and_goes_on_from_any_other_s_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe();
    recipe.stage.truncate(1);
    let stage = &mut recipe.stage[0];
    // Five micro-batches: no number of ranks has equal shares, and that of eight has ranks without one.
    (stage.steps, stage.batch_size, stage.micro_batch_size) = (4, 5, Some(1));
    for moments in [MomentsForm::F32, MomentsForm::EightBit] {
        recipe.optimizer.moments = moments;
        compare_ranks(&recipe, &folder.path().join(format!("{moments:?}")));
    }
}

fn compare_ranks(recipe: &Recipe, folder: &Path) {
    let alone = folder.join("alone");
    run_as(recipe, &alone, Collective::Alone, u64::MAX);
    for size in [2, 3, 4, 8] {
        let dir = folder.join(size.to_string());
        ranks(size, recipe, &dir, 2);
        // Moments that several ranks kept are one rank's, and the reverse.
        match size {
            3 => drop(run_as(recipe, &dir, Collective::Alone, u64::MAX)),
            _ => drop(ranks(7 - size.min(6), recipe, &dir, u64::MAX)),
        }
        assert_eq!(metrics(&alone), metrics(&dir), "{size} ranks");
        assert_same(&alone, &dir, 2);
    }
}
