//! Plants faults in a plan, one at a time: the comparison with the CPU must find every one.

use lacuna_device::{Launch, Step};

use crate::emulation::Emulation;
use crate::model::{Planned, Supervised, differences, on_the_cpu, state, tied_and_normed};
use crate::step::options;

/// A plan whose step has something wrong: the step's number, the fault in words, the steps.
type Fault = (usize, String, Vec<Step>);

/// Plans without one of their steps.
fn left_out(steps: &[Step]) -> Vec<Fault> {
    let without = |i: usize| [&steps[..i], &steps[i + 1..]].concat();
    let fault = |(i, step): (usize, &Step)| match step {
        Step::Launch(launch) => Some((i, format!("{} is left out", launch.kernel), without(i))),
        Step::Zero { .. } => Some((i, "memory is not zeroed".into(), without(i))),
        Step::Fresh { .. } | Step::Copy { .. } => None,
    };
    steps.iter().enumerate().filter_map(fault).collect()
}

/// Plans in which `change` has changed a launch, wherever it can.
fn changed(steps: &[Step], what: &str, change: impl Fn(&mut Launch) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let Step::Launch(launch) = step else { continue };
        let mut launch = launch.clone();
        let name = launch.kernel;
        if change(&mut launch) {
            let mut steps = steps.to_vec();
            steps[i] = Step::Launch(launch);
            faults.push((i, format!("{name}: {what}"), steps));
        }
    }
    faults
}

/// Takes the last block off the last direction that has several.
fn a_block_less(launch: &mut Launch) -> bool {
    let last = launch.grid.iter_mut().rev().find(|blocks| **blocks > 1);
    last.map(|blocks| *blocks -= 1).is_some()
}

/// Two pointers of each kernel, by their numbers among its pointers, which it reads or writes and none of which leads to
/// further pointers: with those of a table exchanged the emulation would not live to tell. Negative numbers count from the
/// last.
fn pair(kernel: &str) -> [isize; 2] {
    match kernel {
        "embedding_bf16" => [0, 2],
        "embedding_backward_bf16" | "embedding_backward_bf16_f32" => [0, 4],
        "rms_norm_bf16" | "add_rms_norm_bf16" | "rms_norm_backward_bf16" => [0, 2],
        "rms_norm_backward_weight_f32" => [-2, -1],
        "cross_entropy_loss" => [5, 6],
        "rope_bf16" => [1, 2],
        "swiglu_bf16" | "gradient_norm" => [0, 1],
        "swiglu_backward_bf16" | "cross_entropy_merge" => [4, 5],
        "attention_sights" => [0, 2],
        "attention_backward_rows_64" => [8, 9],
        "attention_backward_keys_64" => [6, 7],
        "cross_entropy_forward" => [7, 8],
        "cross_entropy_gradient" => [1, 4],
        "gradient_squares_f32" => [2, 3],
        "adamw_bf16_f32" => [3, 4],
        name if name.starts_with("linear_") => [0, 1],
        name if name.starts_with("attention_") => [1, 2],
        other => panic!("name two pointers of {other} that can change places"),
    }
}

/// Exchanges these two.
fn pointers_swapped(launch: &mut Launch) -> bool {
    let pointers = &launch.args.pointers;
    let place = |pointer: isize| match usize::try_from(pointer) {
        Ok(pointer) => pointers[pointer],
        Err(_) => pointers[pointers.len() - pointer.unsigned_abs()],
    };
    let [a, b] = pair(launch.kernel).map(place);
    for i in 0..8 {
        launch.args.bytes.swap(a + i, b + i);
    }
    true
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn every_fault_that_is_planted_in_a_plan_is_found() {
    let config = lacuna_checkpoint::Config {
        num_heads: 2,
        num_kv_heads: 1,
        hidden_size: 64,
        intermediate_size: 64,
        vocab_size: 150,
        ..tied_and_normed()
    };
    let state = state(&config);
    let of = Supervised::diffusion(&config, &[&[6], &[3, 2]]);
    let cpu = on_the_cpu(&config, &state, &[&of]);
    let mut planned = Planned::new(&config, &state, &of, &options());
    let mut machine = Emulation::new(0);
    assert_eq!(differences(&planned.run(&mut machine).unwrap(), &cpu, &state), [""; 0]);

    let whole = planned.step.plan.steps.clone();
    let faults = [
        left_out(&whole),
        changed(&whole, "a block less", a_block_less),
        changed(&whole, "two pointers change places", pointers_swapped),
    ];
    let mut unfound = Vec::new();
    let n = faults.iter().map(Vec::len).sum::<usize>();
    for (i, name, steps) in faults.into_iter().flatten() {
        planned.step.plan.steps = steps;
        let found = match planned.run(&mut machine) {
            Ok(results) => !differences(&results, &cpu, &state).is_empty(),
            Err(_) => true,
        };
        if !found {
            unfound.push(format!("step {i}, {name}"));
        }
    }
    assert!(unfound.is_empty(), "not found:\n{}", unfound.join("\n"));
    println!("all {n} faults planted in the plan were found");
}
