//! Takes a checkpoint of the released model's size: does it open, say what it is, and run within a
//! machine's memory?
//!
//! `cargo test --release -p lacuna-cli --test it eight_b -- --ignored --nocapture`: 17 GB of holes, read once.

use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../../../lacuna-checkpoint/examples/sparse_checkpoint.rs"]
#[expect(dead_code, reason = "an example, whose main is not called here")]
mod sparse_checkpoint;

/// The command's output, its seconds, and the most memory it had resident, mapped files included.
fn measured(args: &[&str]) -> (String, f64, u64) {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}");
    let seconds = start.elapsed().as_secs_f64();
    (String::from_utf8(output.stdout).unwrap(), seconds, peak_kib * 1024)
}

#[test]
#[ignore = "reads 17 GB"]
fn an_8b_checkpoint_is_inspected_and_runs_in_20_gb() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let bytes = sparse_checkpoint::write(&model).unwrap();
    let model = model.display().to_string();

    let (text, seconds, peak) = measured(&["inspect", &model, "--json"]);
    eprintln!("inspect: {seconds:.2} s");
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["parameters"], 8_250_462_208u64);
    assert_eq!(
        (object["mode"].as_str(), object["dtype"].as_str()),
        (Some("block-diffusion"), Some("bf16"))
    );
    assert_eq!(object["bytes"], bytes);
    assert!(object["memory"]["weights"].as_u64().unwrap() < 17_000_000_000);
    assert!(peak < 100_000_000, "{peak}: inspecting reads headers, not weights");
    let (text, ..) = measured(&["inspect", &model, "--json", "--dtype", "q4_k"]);
    let object: Value = serde_json::from_str(&text).unwrap();
    assert!(object["memory"]["total"].as_u64().unwrap() < 6_000_000_000);

    // The first row of the embedding is the one that is not a hole.
    let ids = (0..16).map(|i| (i * 37).to_string()).collect::<Vec<_>>().join(",");
    let out = dir.path().join("logits.safetensors").display().to_string();
    let args =
        ["logits", "--model", &model, "--ids", &ids, "--mask", "block-causal", "--out", &out];
    let (_, seconds, peak) = measured(&args);
    eprintln!("a pass over 16 tokens: {seconds:.1} s, {:.2} GB at most", peak as f64 / 1e9);
    assert!(peak < 20_000_000_000, "{peak}");
    let logits = candle_core::safetensors::load(&out, &candle_core::Device::Cpu).unwrap();
    let logits = logits["logits"].to_vec2::<f32>().unwrap();
    assert!(logits.len() == 16 && logits.concat().iter().all(|x| x.is_finite()));
    assert!(logits.concat().iter().any(|x| *x != 0.0));
}

#[test]
#[ignore = "reads 17 GB, writes 5"]
fn an_8b_checkpoint_in_q4_runs_in_6_gb() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    sparse_checkpoint::write(&model).unwrap();
    let packed = dir.path().join("q4_k.gguf").display().to_string();
    let (_, seconds, peak) =
        measured(&["convert", &model.display().to_string(), &packed, "--dtype", "q4_k"]);
    eprintln!("convert to q4_k: {seconds:.0} s, {:.2} GB at most", peak as f64 / 1e9);
    assert!(peak < 1_000_000_000, "{peak}: a few rows at a time");
    let args = [
        "generate",
        "--model",
        &packed,
        "--prompt-ids",
        "7,8,9",
        "--max-new-tokens",
        "8",
        "--json",
    ];
    let (text, seconds, peak) = measured(&args);
    eprintln!("8 tokens in q4_k: {seconds:.1} s, {:.2} GB at most", peak as f64 / 1e9);
    assert!(peak < 6_000_000_000, "{peak}");
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["prompt_tokens"], 3);
}
