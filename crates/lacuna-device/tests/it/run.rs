//! Runs a recipe with every step taken by plans on the emulation, and compares the run with the CPU's.

use candle_core::{Device, safetensors};
use lacuna_device::Card;
use lacuna_train::{Event, OnMachine, Outcome, Recipe, RunOptions, StepMetrics, run, run_on};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::emulation::Emulation;
use crate::model::error;

/// The smoke recipe with heads that there are kernels for: three steps of next tokens, then four of block diffusion in
/// two micro-batches each.
fn recipe(more: &[&str]) -> Recipe {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
    let set = [
        "model.hidden_size=64",
        "model.heads=1",
        "model.kv_heads=1",
        "stage.0.steps=3",
        "stage.1.steps=4",
        "stage.1.corruption.warmup_steps=2",
        "stage.1.autoregressive_loss_every=2",
        "evaluation.windows=1",
    ];
    let set: Vec<String> = set.iter().chain(more).map(|key| (*key).to_owned()).collect();
    Recipe::load(&path, &set).unwrap()
}

/// A run, and the figures of its steps; it stops behind step `last`.
fn run_to(
    recipe: &Recipe,
    dir: &Path,
    machine: Option<&mut Emulation>,
    last: u64,
) -> lacuna_train::Result<(Outcome, Vec<StepMetrics>)> {
    let stop = AtomicBool::new(false);
    let options = RunOptions { resume: true, ..RunOptions::new(dir, &stop) };
    let mut steps = Vec::new();
    let mut observe = |event: Event<'_>| {
        if let Event::Step { metrics, .. } = event {
            steps.push(metrics.clone());
            stop.store(metrics.step >= last, Ordering::Relaxed);
        }
    };
    let outcome = match machine {
        None => run(recipe, &options, &mut observe),
        Some(machine) => {
            let on = OnMachine { machine, card: Card::Small, peak_operations: Some(1e12) };
            run_on(recipe, &options, on, &mut observe)
        }
    };
    Ok((outcome?, steps))
}

fn weights(folder: &Path) -> HashMap<String, Vec<f32>> {
    let tensors = safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let values = |x: candle_core::Tensor| x.flatten_all().unwrap().to_vec1().unwrap();
    tensors.into_iter().map(|(name, x)| (name, values(x))).collect()
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn a_recipe_runs_on_planned_launches_as_on_the_cpu_and_goes_on_with_the_same_bytes() {
    let (recipe, folder) = (recipe(&[]), tempfile::tempdir().unwrap());
    let [cpu, whole, parts] = ["cpu", "whole", "parts"].map(|name| folder.path().join(name));
    let (expected, of_cpu) = run_to(&recipe, &cpu, None, u64::MAX).unwrap();
    let mut machine = Emulation::new(0);
    let (found, steps) = run_to(&recipe, &whole, Some(&mut machine), u64::MAX).unwrap();

    assert_eq!((steps.len(), of_cpu.len()), (7, 7));
    for (found, cpu) in steps.iter().zip(&of_cpu) {
        assert_eq!((found.supervised, found.mask_rate), (cpu.supervised, cpu.mask_rate));
        // Of both numbers 0 in a step without a masked token, which the warmup has.
        let off = |found: f64, cpu: f64| if found == cpu { 0. } else { (found / cpu - 1.).abs() };
        assert!(off(found.loss, cpu.loss) < 3e-3, "{found:?}\n{cpu:?}");
        assert!(off(found.grad_norm, cpu.grad_norm) < 1e-2, "{found:?}\n{cpu:?}");
        let clean = found.autoregressive_loss.zip(cpu.autoregressive_loss);
        assert_eq!(clean.is_some(), cpu.autoregressive_loss.is_some());
        assert!(clean.is_none_or(|(found, cpu)| off(found, cpu) < 3e-3), "{clean:?}");
        let machine = found.machine.as_ref().unwrap();
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(machine.share_of_peak.unwrap() > 0., found.supervised > 0);
        assert!(cpu.machine.is_none());
    }
    // Whatever the size of a gradient, the first updates move a number by the learning rate, in the direction that its
    // gradient tells; where that is rounding they may differ. Over all numbers that is little.
    let (found, expected) = (weights(&found.model), weights(&expected.model));
    assert_eq!(found.len(), expected.len());
    let pairs: Vec<_> = found.iter().map(|(name, found)| (found, &expected[name])).collect();
    let found: Vec<f32> = pairs.iter().flat_map(|(found, _)| found.iter().copied()).collect();
    let expected: Vec<f32> = pairs.iter().flat_map(|(_, cpu)| cpu.iter().copied()).collect();
    assert!(error(&found, &expected) < 1e-2, "weights: {:.1e}", error(&found, &expected));

    // Ended within the second stage and gone on with by another process, on another machine.
    let (outcome, _) = run_to(&recipe, &parts, Some(&mut machine), 5).unwrap();
    assert!(outcome.interrupted);
    drop(machine);
    let (_, rest) = run_to(&recipe, &parts, Some(&mut Emulation::new(6)), u64::MAX).unwrap();
    let losses = |steps: &[StepMetrics]| steps.iter().map(|s| s.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&rest), losses(&steps[5..]));
    for name in ["model.safetensors", "config.json"] {
        let bytes = |run: &Path| std::fs::read(run.join("final").join(name)).unwrap();
        assert!(bytes(&parts) == bytes(&whole), "{name}");
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn a_model_without_kernels_and_a_loss_that_is_no_number_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Emulation::new(0);
    let small = recipe(&["model.heads=8"]);
    let refused = run_to(&small, &folder.path().join("small"), Some(&mut machine), 1).unwrap_err();
    assert!(refused.to_string().contains("heads of 8 numbers"), "{refused}");
    let wild = recipe(&["stage.0.learning_rate=1e30", "stage.0.learning_rate_warmup=0"]);
    let diverged = run_to(&wild, &folder.path().join("wild"), Some(&mut machine), 3).unwrap_err();
    assert!(diverged.to_string().contains("is NaN"), "{diverged}");
}
