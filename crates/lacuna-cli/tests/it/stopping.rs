//! Stops a run in every way: each saves it, and the run goes on from there.

use crate::support::said;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn recipe() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml").display().to_string()
}

fn train(out: &Path, more: &[&str]) -> Vec<String> {
    let out = out.display().to_string();
    let recipe = recipe();
    let flat = ["stage.0.learning_rate_warmup=0", "stage.0.learning_rate_decay=0"];
    let args = ["train", &recipe, "--out", &out, "--quiet", "--set", "evaluation.prompts=[]"];
    let args = [&args[..], &["--set", flat[0], "--set", flat[1]]].concat();
    args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

fn lacuna() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lacuna"))
}

/// Waits until the run has taken some steps.
fn wait_for_steps(out: &Path) {
    let until = Instant::now() + Duration::from_secs(120);
    let lines = || std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    while lines().lines().count() < 3 {
        assert!(Instant::now() < until, "no step was taken");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Tells whether this process, and so its children, ignore a signal: a shell starts background jobs
/// so.
fn ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (number - 1) & 1 == 1
}

#[test]
fn every_signal_that_asks_to_end_saves_and_the_status_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let long = ["--set", "stage.0.steps=1000000", "--resume"];
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("USR1", 10)] {
        if ignored(number) {
            continue;
        }
        let out = folder.path().join(signal);
        let mut command = lacuna();
        command.args(train(&out, &long)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for_steps(&out);
        send(&child, signal);
        let status = child.wait().unwrap();
        if cfg!(target_os = "linux") || signal != "USR1" {
            assert_eq!(status.code(), Some(128 + number), "SIG{signal}");
        }
        assert_eq!(std::fs::read_dir(out.join("checkpoints")).unwrap().count(), 1, "SIG{signal}");
        let record = std::fs::read_to_string(out.join("run.json")).unwrap();
        assert!(record.contains("\"end\": \"stopped\""), "{record}");
        let again = [&long[..], &["--set", "stage.0.steps=1"]].concat();
        let refused = lacuna().args(train(&out, &again)).output().unwrap();
        assert!(said(&refused).contains("steps of the stage are taken"), "{}", said(&refused));
    }
}

#[test]
fn a_signal_that_the_caller_ignores_stops_nothing() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lacuna")]);
    command.args(train(&out, &["--set", "stage.0.steps=1000000"]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_steps(&out);
    send(&child, "HUP");
    std::thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none(), "SIGHUP ended a run that ignores it");
    send(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_run_killed_before_it_saved_starts_again_by_the_same_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = lacuna();
    command.args(train(&out, &["--set", "stage.0.steps=1000000", "--resume"]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_steps(&out);
    child.kill().unwrap();
    child.wait().unwrap();
    let again = lacuna().args(train(&out, &["--resume"])).output().unwrap();
    assert!(again.status.success(), "{}", said(&again));
    assert!(said(&again).contains("starting from the beginning"), "{}", said(&again));
    // And once more: it is finished, which is no failure.
    let done = lacuna().args(train(&out, &["--resume"])).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("is finished") && said.contains("--accept-changes"), "{said}");
    let results = std::fs::read_to_string(out.join("results.json")).unwrap();
    assert!(results.contains("exact-nelbo") && results.contains("bits_per_byte"), "{results}");
    let record = std::fs::read_to_string(out.join("run.json")).unwrap();
    for field in ["version", "processor", "threads", "data.corpus", "seconds", "peak_memory_bytes"]
    {
        assert!(record.contains(&format!("\"{field}\"")), "{field} is missing: {record}");
    }
}

#[test]
fn a_finished_run_whose_last_checkpoint_found_no_room_is_not_trained_again_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let every = ["--resume", "--set", "stage.1.checkpoint_every=10"];
    let first = lacuna().args(train(&out, &every)).output().unwrap();
    assert!(first.status.success(), "{}", said(&first));
    let metrics = std::fs::read(out.join("metrics.jsonl")).unwrap();
    std::fs::remove_dir_all(out.join("checkpoints/step-25")).unwrap();
    // Another value of a key that no step depends on is no reason either.
    let kept = [&every[..], &["--set", "keep_checkpoints=9"]].concat();
    let again = lacuna().args(train(&out, &kept)).output().unwrap();
    assert!(again.status.success(), "{}", said(&again));
    let told = said(&again);
    assert!(told.contains("the newest checkpoint is of step 20 of 25"), "{told}");
    assert!(told.contains("was not saved"), "{told}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("is finished"), "{told}");
    assert_eq!(std::fs::read(out.join("metrics.jsonl")).unwrap(), metrics, "no step was taken");
    // The last steps can be taken again, and end where the run ended.
    let wanted = ["--resume-step", "20", "--set", "stage.1.checkpoint_every=10"];
    let taken = lacuna().args(train(&out, &wanted)).output().unwrap();
    assert!(taken.status.success() && out.join("checkpoints/step-25").is_dir(), "{}", said(&taken));
    assert!(said(&taken).contains("you asked for an earlier one"), "{}", said(&taken));
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines(&std::fs::read(out.join("metrics.jsonl")).unwrap()), lines(&metrics));
    // One that a power cut left half written is as little to go on from, and is told apart.
    let optimizer = out.join("checkpoints/step-25/optimizer.safetensors");
    let half = std::fs::metadata(&optimizer).unwrap().len() / 2;
    std::fs::File::options().write(true).open(&optimizer).unwrap().set_len(half).unwrap();
    let metrics = std::fs::read(out.join("metrics.jsonl")).unwrap();
    let cut = lacuna().args(train(&out, &every)).output().unwrap();
    assert!(cut.status.success(), "{}", said(&cut));
    assert!(
        said(&cut).contains("the last one was cut short, and the newest checkpoint is of step 20"),
        "{}",
        said(&cut)
    );
    assert_eq!(std::fs::read(out.join("metrics.jsonl")).unwrap(), metrics, "no step was taken");
}

#[test]
fn a_runs_folder_in_the_place_of_a_model_is_told_where_its_model_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let first = lacuna().args(train(&out, &[])).output().unwrap();
    assert!(first.status.success(), "{}", said(&first));
    // Only what is there is listed at the end.
    let listed = String::from_utf8_lossy(&first.stdout).into_owned();
    for line in listed.lines().filter(|line| line.contains(&*out.display().to_string())) {
        let paths = line.split_whitespace().map(|word| word.trim_end_matches(','));
        for path in paths.filter(|word| word.starts_with(&*out.display().to_string())) {
            assert!(std::path::Path::new(path).exists(), "{line}");
        }
    }
    let ask = || {
        let output = lacuna().args(["generate", "--model"]).arg(&out).arg("def ").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        said(&output)
    };
    let told = ask();
    assert!(told.contains("is a run's folder") && told.contains("run/final"), "{told}");
    std::fs::remove_dir_all(out.join("final")).unwrap();
    let told = ask();
    assert!(told.contains("has not finished") && told.contains("checkpoints/step-25"), "{told}");
}
