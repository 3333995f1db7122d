//! Prints what a run will take before it is run: memory, operations, tokens, time here and on other devices.

use anyhow::Result;
use candle_core::Device;
use indicatif::HumanCount;
use lacuna::train::{Plan, Recipe, measured_peak, plan};
use lacuna_files::WholeFolder;
use serde_json::{Value, json};

use super::super::progress::Progress;
use super::super::sizes::shown;
use super::pace::duration;
use super::surroundings::machine;

/// A device that nobody has at hand: its peak in dense products of bf16 numbers with f32 sums, and its memory, both as
/// its maker states them.
struct Named {
    name: &'static str,
    tflop_per_second: f64,
    gigabytes: u64,
}

const DEVICES: [Named; 4] = [
    Named { name: "H200 SXM", tflop_per_second: 989.0, gigabytes: 141 },
    Named { name: "H100 SXM", tflop_per_second: 989.0, gigabytes: 80 },
    Named { name: "A100 SXM", tflop_per_second: 312.0, gigabytes: 80 },
    Named { name: "RTX 4090", tflop_per_second: 165.2, gigabytes: 24 },
];

/// The share of its peak that a device is reckoned with: what well-kept training programs reach.
const SHARE: f64 = 0.4;

pub(super) fn run(
    recipe: &Recipe,
    device: &Device,
    available: Option<u64>,
    as_json: bool,
) -> Result<()> {
    let mut opening = Some(Progress::spinning("reading and packing text"));
    let mut fits = true;
    // A plan leaves nothing behind: the text is packed into a folder that goes when this value does.
    let packed = WholeFolder::beside(&std::env::temp_dir().join("lacuna-plan"))?;
    let plan = plan(recipe, (device, packed.path()), &mut |memory| {
        fits = available.is_none_or(|available| memory.total() <= available);
        opening = fits.then(|| Progress::spinning("taking four steps of each stage"));
        fits
    });
    drop(opening);
    let plan = plan?;
    let peak = if fits { measured_peak(device).ok() } else { None };
    if as_json {
        out!("{}", as_object(recipe, &plan, peak, available));
        return Ok(());
    }
    out!("{}", table(recipe, &plan, peak, available).trim_end());
    Ok(())
}

fn as_object(recipe: &Recipe, plan: &Plan, peak: Option<f64>, available: Option<u64>) -> Value {
    let stage = |stage: &lacuna::train::StagePlan| {
        json!({
            "name": stage.name,
            "steps": stage.steps,
            "tokens_per_step": stage.tokens_per_step,
            "tokens": stage.steps * stage.tokens_per_step,
            "epochs": stage.epochs,
            "flop_per_step": stage.flop_per_step,
            "flop": stage.steps as f64 * stage.flop_per_step,
            "memory_bytes": stage.memory.total(),
            "seconds_per_step": stage.seconds_per_step,
        })
    };
    let device = |device: &Named| {
        json!({
            "name": device.name,
            "peak_flop_per_second": device.tflop_per_second * 1e12,
            "share_of_peak": SHARE,
            "seconds": plan.flop() / (device.tflop_per_second * 1e12 * SHARE),
            "memory_bytes": device.gigabytes * 1_000_000_000,
            "fits": plan.memory.total() <= device.gigabytes * 1_000_000_000,
        })
    };
    let memory = plan.memory;
    json!({
        "recipe": recipe.name,
        "parameters": plan.parameters,
        "memory": {
            "weights": memory.weights,
            "gradients": memory.gradients,
            "moments": memory.moments,
            "copies": memory.copies,
            "activations": memory.activations,
            "program": memory.program,
            "total": memory.total(),
            "available": available,
            "fits": available.map(|available| memory.total() <= available),
        },
        "checkpoint_bytes": plan.checkpoint_bytes,
        "windows": plan.windows.0,
        "held_out_windows": plan.windows.1,
        "window": plan.window,
        "tokens": plan.tokens(),
        "flop": plan.flop(),
        "stages": plan.stages.iter().map(stage).collect::<Vec<_>>(),
        "here": {
            "processor": machine("cpu").processor,
            "threads": machine("cpu").threads,
            "peak_flop_per_second": peak,
            "seconds": plan.seconds(),
        },
        "devices": DEVICES.iter().map(device).collect::<Vec<_>>(),
    })
}

fn table(recipe: &Recipe, plan: &Plan, peak: Option<f64>, available: Option<u64>) -> String {
    let mut text = format!(
        "{}: {:.2} M parameters; {} training windows of {} tokens, {} held out\n\n",
        recipe.name,
        plan.parameters as f64 / 1e6,
        HumanCount(plan.windows.0 as u64),
        plan.window,
        HumanCount(plan.windows.1 as u64)
    );
    let mut line = |row: [&str; 8]| {
        let [name, steps, each, tokens, epochs, flop, step, time] = row;
        text.push_str(&format!(
            "{name:<18} {steps:>9} {each:>11} {tokens:>9} {epochs:>7} {flop:>11} {step:>9} {time:>11}\n"
        ));
    };
    line(["stage", "steps", "tokens/step", "tokens", "epochs", "FLOP", "step here", "all steps"]);
    for stage in &plan.stages {
        let seconds = stage.seconds_per_step;
        let name: String = stage.name.chars().take(18).collect();
        line([
            &name,
            &HumanCount(stage.steps).to_string(),
            &HumanCount(stage.tokens_per_step).to_string(),
            &large(stage.steps as f64 * stage.tokens_per_step as f64),
            &format!("{:.2}", stage.epochs),
            &format!("{:.2e}", stage.steps as f64 * stage.flop_per_step),
            &seconds.map_or("?".into(), short),
            &seconds.map_or("?".into(), |seconds| duration(seconds * stage.steps as f64)),
        ]);
    }
    let (tokens, flop) = (large(plan.tokens() as f64), format!("{:.2e}", plan.flop()));
    let all = plan.seconds().map_or("?".into(), duration);
    line(["in all", "", "", &tokens, "", &flop, "", &all]);
    text.push_str(&memory(plan, available));
    text.push_str(&times(plan, peak));
    text
}

fn memory(plan: &Plan, available: Option<u64>) -> String {
    let memory = plan.memory;
    let mut text = String::from("\nmemory of the largest stage, on the CPU in f32:\n");
    for (name, bytes) in [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("moments", memory.moments),
        ("f32 copies", memory.copies),
        ("activations", memory.activations),
        ("program", memory.program),
    ] {
        text.push_str(&format!("  {name:<16} {:>10}\n", shown(bytes)));
    }
    let verdict = match available {
        None => String::new(),
        Some(have) if memory.total() <= have => format!(", of {} available", shown(have)),
        Some(have) => format!(": more than the {} available, so no step was timed", shown(have)),
    };
    text.push_str(&format!("  {:<16} {:>10}{verdict}\n", "in all", shown(memory.total())));
    text.push_str(&format!("  {:<16} {:>10}\n", "a checkpoint", shown(plan.checkpoint_bytes)));
    text
}

fn times(plan: &Plan, peak: Option<f64>) -> String {
    let mut text = String::from("\ntime of the steps, without scoring and saving:\n");
    let here = match (plan.seconds(), peak) {
        (Some(seconds), Some(peak)) => format!(
            "{:>12}   measured over three steps of each stage; {:.0} % of the {:.0} GFLOP/s it was seen to do",
            duration(seconds),
            100.0 * plan.flop() / seconds / peak,
            peak / 1e9
        ),
        (Some(seconds), None) => format!("{:>12}   measured over three steps", duration(seconds)),
        _ => format!("{:>12}   not measured", "?"),
    };
    text.push_str(&format!("  {:<12} {here}\n", "this machine"));
    for Named { name, tflop_per_second, gigabytes } in DEVICES {
        let seconds = plan.flop() / (tflop_per_second * 1e12 * SHARE);
        let fits = plan.memory.total() <= gigabytes * 1_000_000_000;
        let fits = if fits { "" } else { ", less than the table asks for" };
        text.push_str(&format!(
            "  {name:<12} {:>12}   arithmetic: {:.0} % of {tflop_per_second} TFLOP/s (bf16), {gigabytes} GB{fits}\n",
            duration(seconds),
            100.0 * SHARE
        ));
    }
    text
}

/// `1.45 M`, `20.0 B`.
fn large(n: f64) -> String {
    match () {
        () if n >= 1e9 => format!("{:.2} B", n / 1e9),
        () if n >= 1e6 => format!("{:.2} M", n / 1e6),
        () => format!("{n:.0}"),
    }
}

/// `80 ms`, `1.25 s`.
fn short(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}
