//! Holds a run to tell whatever a crash, a full disk, a flipped bit or a second process did to it.

use crate::support::{lacuna, said};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn recipe() -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("recipes/smoke.toml").display().to_string()
}

fn training(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(["train", &recipe(), "--quiet", "--set", "evaluation.windows=0"]);
    command.args(["--set", "stage.0.checkpoint_every=3", "--set", "stage.1.checkpoint_every=3"]);
    command.arg("--out").arg(out).args(more);
    command
}

fn train(out: &Path, more: &[&str]) -> Output {
    training(out, more).output().unwrap()
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

/// A whole run, and its weights.
fn reference() -> &'static (tempfile::TempDir, Vec<u8>) {
    static RUN: OnceLock<(tempfile::TempDir, Vec<u8>)> = OnceLock::new();
    RUN.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        done(&train(&place.path().join("run"), &[]));
        let weights = weights(&place.path().join("run"));
        (place, weights)
    })
}

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("final/model.safetensors")).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The reference run as it was before its last checkpoint, in a folder of its own, and its newest checkpoint.
fn unfinished() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    copy(&reference().0.path().join("run"), &run);
    fs::remove_dir_all(run.join("final")).unwrap();
    let checkpoints = steps(&run);
    fs::remove_dir_all(checkpoints.last().unwrap()).unwrap();
    let newest = checkpoints[checkpoints.len() - 2].clone();
    (place, run, newest)
}

/// Its checkpoints, oldest first.
fn steps(run: &Path) -> Vec<PathBuf> {
    let number = |path: &PathBuf| -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
    };
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| number(path).is_some());
    paths.sort_by_key(|path| number(path));
    paths
}

fn hidden(run: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in [run.to_owned(), run.join("checkpoints")] {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let names = entries.map(|entry| entry.unwrap().path());
        found.extend(
            names.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')),
        );
    }
    found
}

#[test]
fn every_damaged_file_of_a_run_is_named_or_makes_no_difference() {
    let (_place, run, newest) = unfinished();
    let mut files: Vec<PathBuf> =
        fs::read_dir(&newest).unwrap().map(|entry| entry.unwrap().path()).collect();
    let beside = ["metrics.jsonl", "loss.svg", "manifest.json", "run.json", "recipe.toml"];
    files.extend(beside.map(|name| run.join(name)));
    for file in files {
        for cut in [false, true] {
            let (_place, damaged, _) = unfinished();
            let path = damaged.join(file.strip_prefix(&run).unwrap());
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            match cut {
                true => bytes.truncate(middle),
                false => bytes[middle] ^= 4,
            }
            fs::write(&path, bytes).unwrap();
            let output = train(&damaged, &["--resume"]);
            let (error, name) = (said(&output), file.file_name().unwrap().to_string_lossy());
            let shown = file.display();
            assert!(!error.contains("panicked"), "{shown}: {error}");
            if output.status.success() {
                assert!(weights(&damaged) == reference().1, "{shown}, cut: {cut}: {error}");
            } else {
                assert!(error.contains(&*name), "{shown}: {error}");
                let remedy = ["--resume-step", "remove it"].iter().any(|word| error.contains(word));
                assert!(remedy, "{shown}: {error}");
            }
            // A record is never taken as it is either, though there is a whole one in each checkpoint.
            if !cut
                && path.parent() == Some(&*damaged)
                && ["run.json", "recipe.toml"].contains(&&*name)
            {
                assert!(error.contains(&path.display().to_string()), "{shown}: {error}");
            }
            // A file that holds the weights or the place is never taken as it is.
            let is_state =
                ["model.safetensors", "optimizer.safetensors", "progress.json", "config.json"];
            if is_state.contains(&&*name) {
                assert!(error.contains(&*name), "{shown}, cut: {cut}: {error}");
            }
        }
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_one_that_was_not_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    let began = Instant::now();
    done(&train(&place.path().join("timed"), &[]));
    let whole = began.elapsed();
    for kill in 1..=8u32 {
        let more: &[&str] = if run.join("checkpoints").exists() && !steps(&run).is_empty() {
            &["--resume"]
        } else {
            let _ = fs::remove_dir_all(&run);
            &[]
        };
        let mut child =
            training(&run, more).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * (kill * 5 % 9 + 1) / 12);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let more: &[&str] = if run.join("checkpoints").exists() && !steps(&run).is_empty() {
        &["--resume"]
    } else {
        &[]
    };
    if more.is_empty() {
        let _ = fs::remove_dir_all(&run);
    }
    done(&train(&run, more));
    assert!(weights(&run) == reference().1);
    assert_eq!(hidden(&run), Vec::<PathBuf>::new());
}

#[test]
fn checkpoints_are_bounded_and_the_one_to_fall_back_to_stays() {
    let run = reference().0.path().join("run");
    let names: Vec<_> = steps(&run)
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    // The newest three and the end of the first stage.
    assert_eq!(names, ["step-10", "step-19", "step-22", "step-25"]);
    for checkpoint in steps(&run) {
        assert!(checkpoint.join("manifest.json").exists());
    }
}

fn wait_for(path: &Path, child: &mut Child) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "{} never came", path.display());
        assert!(child.try_wait().unwrap().is_none(), "it ended before");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_second_run_in_the_same_folder_is_refused_until_the_first_is_dead() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    let mut first = training(&run, &["--set", "stage.0.steps=100000"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&run.join("checkpoints/step-3"), &mut first);
    let second = train(&run, &["--resume"]);
    let error = said(&second);
    assert_eq!(second.status.code(), Some(1), "{error}");
    assert!(
        error.contains("in use by another process") && error.contains(&first.id().to_string()),
        "{error}"
    );
    first.kill().unwrap();
    first.wait().unwrap();
    let third = train(
        &run,
        &["--resume", "--set", "stage.0.steps=100000", "--set", "stage.0.learning_rate=nan"],
    );
    assert!(!said(&third).contains("in use"), "{}", said(&third));
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_that_can_not_be_written_stops_no_run() {
    let place = tempfile::tempdir().unwrap();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let run = place.path().join("full");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(["train", &recipe(), "--set", "evaluation.windows=0", "--out"]).arg(&run);
    assert!(command.stderr(full()).output().unwrap().status.success());
    assert!(weights(&run) == reference().1);
    // Nor do plots and metrics that have no place.
    let (_place, run, _) = unfinished();
    for name in ["metrics.jsonl", "loss.svg", "loss.png"] {
        fs::remove_file(run.join(name)).unwrap();
        fs::create_dir(run.join(name)).unwrap();
    }
    let output = train(&run, &["--resume"]);
    done(&output);
    let warned = said(&output);
    assert!(warned.contains("metrics.jsonl") && warned.contains("warning"), "{warned}");
    assert!(weights(&run) == reference().1);
}

#[test]
fn a_users_file_in_final_stays_and_so_does_what_they_changed() {
    let (_place, run, _) = unfinished();
    done(&train(&run, &["--resume"]));
    fs::write(run.join("final/evaluation.txt"), "three days of work").unwrap();
    fs::write(run.join("final/tokenizer.json"), "mine").unwrap();
    fs::remove_file(run.join("final/model.safetensors")).unwrap();
    // An earlier checkpoint: the run ends once more, and writes its model anew.
    fs::remove_dir_all(steps(&run).last().unwrap()).unwrap();
    done(&train(&run, &["--resume"]));
    assert!(weights(&run) == reference().1);
    assert_eq!(fs::read(run.join("final/evaluation.txt")).unwrap(), b"three days of work");
    assert_eq!(fs::read(run.join("final/tokenizer.json.kept")).unwrap(), b"mine");
}

#[test]
fn verify_says_what_it_compared_and_names_what_differs() {
    let (_place, run, newest) = unfinished();
    let path = run.display().to_string();
    let whole = lacuna(&["inspect", &path, "--verify"]);
    done(&whole);
    let text = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(text.contains("all as they were written"), "{text}");
    let weights = newest.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    bytes[5000] ^= 1;
    fs::write(&weights, bytes).unwrap();
    for place in [&path, &newest.display().to_string()] {
        let output = lacuna(&["inspect", place, "--verify"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("model.safetensors"), "{}", said(&output));
    }
    let bare = tempfile::tempdir().unwrap();
    let output = lacuna(&["inspect", &bare.path().display().to_string(), "--verify"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing to check"));
    // Training from it is refused as well.
    let from = format!("model.from={:?}", newest.display().to_string());
    let output = train(&run.with_file_name("other"), &["--set", &from]);
    assert!(said(&output).contains("model.safetensors: is damaged"), "{}", said(&output));
}

#[test]
fn any_flipped_bit_of_a_converted_file_is_found() {
    let place = tempfile::tempdir().unwrap();
    let model = reference().0.path().join("run/final").display().to_string();
    let gguf = place.path().join("m.gguf");
    done(&lacuna(&["convert", &model, &gguf.display().to_string(), "--quiet"]));
    assert!(lacuna::checkpoint::verify(&gguf).unwrap().is_some());
    let whole = fs::read(&gguf).unwrap();
    let at_hash = whole.windows(11).position(|bytes| bytes == b"lacuna.hash").unwrap();
    let spread = (0..whole.len()).step_by(whole.len() / 40 + 1);
    for at in (0..64).chain(at_hash - 8..at_hash + 140).chain(spread) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1u8 << (at % 8);
        fs::write(&gguf, bytes).unwrap();
        let told = lacuna::checkpoint::verify(&gguf);
        assert!(told.is_err(), "a bit of byte {at} is not found: {told:?}");
        assert!(told.unwrap_err().to_string().contains("m.gguf"));
    }
}

#[test]
fn a_forced_conversion_replaces_the_checkpoint_and_keeps_what_is_no_part_of_it() {
    let place = tempfile::tempdir().unwrap();
    let model = reference().0.path().join("run/final").display().to_string();
    let to = place.path().join("m");
    let args = ["convert", &model, &to.display().to_string(), "--quiet", "--force"];
    done(&lacuna(&args));
    fs::write(to.join("notes.md"), "mine").unwrap();
    fs::write(to.join("model-00001-of-00002.safetensors"), "an older layout").unwrap();
    done(&lacuna(&args));
    assert_eq!(fs::read(to.join("notes.md")).unwrap(), b"mine");
    assert!(!to.join("model-00001-of-00002.safetensors").exists());
    assert!(lacuna::checkpoint::verify(&to).unwrap().unwrap().files >= 3);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_in_the_place_of_files_are_neither_waited_for_nor_read_without_end() {
    let place = tempfile::tempdir().unwrap();
    let pipe = place.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let out = place.path().join("run").display().to_string();
    for odd in [pipe.as_path(), Path::new("/dev/zero"), place.path()] {
        let odd = odd.display().to_string();
        let tokenizer = format!("data.tokenizer={odd:?}");
        let from = format!("model.from={odd:?}");
        for args in [
            vec!["train", &odd, "--out", &out],
            vec!["train", &recipe(), "--out", &out, "--set", &tokenizer],
            vec!["train", &recipe(), "--out", &out, "--set", &from],
            vec!["inspect", &odd],
            vec!["generate", "--model", &odd, "x"],
        ] {
            let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
                .args(&args)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let began = Instant::now();
            let status = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break status,
                    None if began.elapsed() > Duration::from_secs(30) => {
                        child.kill().unwrap();
                        child.wait().unwrap();
                        panic!("{args:?} does not end");
                    }
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
            };
            assert!(matches!(status.code(), Some(1 | 2)), "{args:?}: {status}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_limit_on_file_sizes_is_an_error_that_names_the_file() {
    let place = tempfile::tempdir().unwrap();
    let limited = |limit: &str, run: &str| {
        let script = format!(
            "{limit} exec {} train {} --quiet --set evaluation.windows=0 --out {}",
            env!("CARGO_BIN_EXE_lacuna"),
            recipe(),
            place.path().join(run).display()
        );
        Command::new("sh").args(["-c", &script]).output().unwrap()
    };
    let output = limited("ulimit -f 40;", "run");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("shard-00000.bin"), "{}", said(&output));
    // A corpus that was packed before needs no room: then the first checkpoint does.
    assert!(limited("", "whole").status.success());
    let output = limited("ulimit -f 40;", "second");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("safetensors") || said(&output).contains("step-"),
        "{}",
        said(&output)
    );
}
