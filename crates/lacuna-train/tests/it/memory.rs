//! Counts the memory of what recipes train, and refuses runs that would take more than they may.

use candle_core::Device;
use lacuna_checkpoint::TrainingMemory;
use lacuna_train::{Recipe, RunOptions, plan, run};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The smoke recipe with a model that its data is small beside.
const SHAPE: &[&str] = &[
    "model.hidden_size=128",
    "model.intermediate_size=256",
    "model.layers=6",
    "model.heads=4",
    "stage.0.steps=2",
    "stage.0.learning_rate_warmup=0",
    "stage.1.steps=2",
    "stage.1.corruption.warmup_steps=0",
    "stage.0.batch_size=4",
    "stage.1.batch_size=4",
    "stage.1.micro_batch_size=4",
    "evaluation.windows=0",
    "evaluation.prompts=[]",
];

fn recipe(set: &[&str]) -> Recipe {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
    let set: Vec<_> = SHAPE.iter().chain(set).map(|item| (*item).to_owned()).collect();
    Recipe::load(&path, &set).unwrap()
}

fn planned(recipe: &Recipe, place: &Path) -> TrainingMemory {
    plan(recipe, (&Device::Cpu, &place.join("packed")), &mut |_| false).unwrap().memory
}

#[test]
fn copies_of_what_is_trained_are_counted_to_the_byte() {
    let place = tempfile::tempdir().unwrap();
    let counted = |set: &[&str]| planned(&recipe(set), place.path());
    let plain = counted(&[]);
    assert_eq!((plain.gradients, plain.moments), (plain.weights, 2 * plain.weights));
    assert_eq!(plain.copies, 0);
    // A running mean is a copy, and the model that is made of it at the end another.
    assert_eq!(counted(&["optimizer.ema_decay=0.9"]).copies, 2 * plain.weights);
    assert_eq!(counted(&["model.precision=bf16"]).copies, plain.weights);
    let both = counted(&["model.precision=bf16", "optimizer.ema_decay=0.9"]);
    assert_eq!(both.copies, 3 * plain.weights);
    let eight_bit = counted(&["optimizer.moments=8-bit"]);
    // A byte in place of four, and four bytes for each 256 that are begun.
    let numbers = plain.moments / 8;
    assert_eq!(eight_bit.moments, 2 * (numbers + 4 * numbers.div_ceil(256)));
    let frozen = counted(&["model.frozen=[\"attention\", \"feed-forward\"]"]);
    // Six layers: two norms each, of 128, and the last; the embedding.
    let left = frozen.moments / 8 - 13 * 128;
    assert_eq!((left % 128, frozen.weights), (0, plain.weights));
    assert!(frozen.gradients < plain.gradients);
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_starts_with_what_would_make_it_fit() {
    let place = tempfile::tempdir().unwrap();
    let recipe = recipe(&["stage.1.batch_size=64", "stage.1.micro_batch_size=64"]);
    let needed = planned(&recipe, place.path()).total();
    let dir = place.path().join("run");
    let stop = AtomicBool::new(false);
    let try_with = |memory: u64| {
        let options = RunOptions { memory: Some(memory), ..RunOptions::new(&dir, &stop) };
        run(&recipe, &options, &mut |_| {}).map(drop).map_err(|error| error.to_string())
    };
    let error = try_with(needed - 1).unwrap_err();
    for part in [
        "stage.1 (`block-diffusion`) needs about",
        "of weights",
        "of activations",
        "stage.1.recompute_activations = true needs about",
        "--memory unlimited",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!dir.join("metrics.jsonl").exists() && !dir.join("checkpoints").exists());
    let none = try_with(1).unwrap_err();
    assert!(none.contains("stage.0 (`autoregressive`)") && !none.contains("recompute"), "{none}");
    try_with(needed).unwrap();
}
