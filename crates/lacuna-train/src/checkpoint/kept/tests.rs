//! Tests which checkpoints are gone on from and which are removed, with folders that are damaged in every way.

use super::*;
use std::fs;

/// A run's folder with checkpoints of these steps; a step below 0 ends a stage.
fn run(steps: &[i64]) -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    steps.iter().for_each(|step| add(run.path(), *step));
    run
}

fn add(run: &Path, step: i64) {
    let path = run.join(format!("checkpoints/step-{}", step.unsigned_abs()));
    fs::create_dir_all(&path).unwrap();
    let progress = crate::Progress {
        step: step.unsigned_abs(),
        stage_step: u64::try_from(step).unwrap_or(0),
        ..Default::default()
    };
    fs::write(path.join(super::super::PROGRESS), serde_json::to_string(&progress).unwrap())
        .unwrap();
    for name in ["config.json", "model.safetensors", super::super::OPTIMIZER] {
        fs::write(path.join(name), format!("{name} of {step}")).unwrap();
    }
    Manifest::of(&path).unwrap().write(&path).unwrap();
}

fn found(what: &str, value: f64) -> Found<'_> {
    Found { what, value, place: Default::default() }
}

fn steps(run: &Path) -> Vec<u64> {
    list(&run.join("checkpoints")).unwrap().into_iter().map(|(step, _)| step).collect()
}

fn at(run: &Path, step: u64, file: &str) -> PathBuf {
    run.join(format!("checkpoints/step-{step}/{file}"))
}

#[test]
fn every_file_of_a_checkpoint_that_changes_is_named_with_the_one_to_go_on_from() {
    for file in
        ["config.json", "model.safetensors", "optimizer.safetensors", "progress.json", MANIFEST]
    {
        let run = run(&[3, 6, 9]);
        let path = at(run.path(), 9, file);
        let whole = fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1u8 << (byte % 8);
            fs::write(&path, bytes).unwrap();
            let told = choose(run.path(), None).unwrap_err().to_string();
            let named = told.contains(&format!("step-9/{file}"));
            assert!(named && told.contains("--resume-step 6"), "{file} at {byte}: {told}");
        }
    }
}

#[test]
fn one_that_was_cut_short_is_passed_over_aloud() {
    for file in
        ["config.json", "model.safetensors", "optimizer.safetensors", "progress.json", MANIFEST]
    {
        for whole in [false, true] {
            let run = run(&[3, 6, 9]);
            let path = at(run.path(), 9, file);
            let length = fs::metadata(&path).unwrap().len();
            match (whole, file) {
                // Without the manifest nothing can be compared, and nothing else is wrong.
                (true, MANIFEST) => continue,
                (true, _) => fs::remove_file(&path).unwrap(),
                (false, _) => fs::File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(length / 2)
                    .unwrap(),
            }
            let chosen = choose(run.path(), None).unwrap().unwrap();
            assert_eq!(chosen.step, 6, "{file}");
            assert!(chosen.notices[0].contains(&format!("step-9/{file}")), "{:?}", chosen.notices);
            chosen.abandon_newer(run.path()).unwrap();
            assert_eq!(steps(run.path()), [6, 3]);
        }
    }
}

#[test]
fn with_all_of_them_damaged_the_newest_is_named() {
    let run = run(&[3, 6]);
    for step in [3, 6] {
        fs::write(at(run.path(), step, "model.safetensors"), "").unwrap();
    }
    let told = choose(run.path(), None).unwrap_err().to_string();
    assert!(
        told.contains("step-3/model.safetensors") && told.contains("no whole checkpoint"),
        "{told}"
    );
}

#[test]
fn a_checkpoint_without_hashes_is_taken_with_a_word() {
    let run = run(&[3]);
    fs::remove_file(at(run.path(), 3, MANIFEST)).unwrap();
    let chosen = choose(run.path(), None).unwrap().unwrap();
    assert!(chosen.notices[0].contains("no manifest.json"), "{:?}", chosen.notices);
}

#[test]
fn the_user_may_choose_and_is_told_what_there_is() {
    let run = run(&[3, 6, 9]);
    let chosen = choose(run.path(), Some(6)).unwrap().unwrap();
    assert_eq!(chosen.step, 6);
    assert!(chosen.abandon_newer(run.path()).unwrap()[0].contains("step-9.abandoned"));
    let told = choose(run.path(), Some(9)).unwrap_err().to_string();
    assert!(told.contains("step-6, step-3"), "{told}");
    // The run has come as far again.
    add(run.path(), 9);
    prune(&run.path().join("checkpoints"), 3, None).unwrap();
    assert!(!run.path().join("checkpoints/step-9.abandoned").exists());
    assert_eq!(steps(run.path()), [9, 6, 3]);
}

#[test]
fn old_checkpoints_go_and_stage_ends_and_the_last_good_one_stay() {
    let run = run(&[1, 2, 3, -4, 5, 6]);
    let dir = run.path().join("checkpoints");
    prune(&dir, 0, None).unwrap();
    assert_eq!(steps(run.path()).len(), 6);
    prove(&dir.join("step-1"), 1.0, 300);
    prove(&dir.join("step-3"), 2.0, 300);
    // This loss is finite, and worse than guessing.
    prove(&dir.join("step-5"), 1e4, 300);
    prune(&dir, 1, None).unwrap();
    assert_eq!(steps(run.path()), [6, 4, 3]);
    let left = fs::read_dir(&dir).unwrap().count();
    assert_eq!(left, 3, "nothing else is left");
}

#[test]
fn an_old_checkpoint_with_a_users_file_or_folder_in_it_stays() {
    let run = run(&[1, 2, 3, 4, 5]);
    let dir = run.path().join("checkpoints");
    fs::write(at(run.path(), 1, "notes.txt"), "three days of work").unwrap();
    fs::create_dir(at(run.path(), 2, "scores")).unwrap();
    // A file that the run itself writes later is nobody's.
    prove(&dir.join("step-5"), 1.0, 300);
    prove(&dir.join("step-3"), 1.0, 300);
    prune(&dir, 1, None).unwrap();
    assert_eq!(steps(run.path()), [5, 2, 1]);
    assert!(at(run.path(), 1, "notes.txt").exists());
}

#[test]
fn a_diverged_run_goes_back_to_before_its_loss_went_wrong() {
    let run = run(&[1, 2, 3, 4, 5]);
    let dir = run.path().join("checkpoints");
    for (step, loss) in [(1, 5.0), (2, 4.0), (3, 900.0), (4, f64::from(f32::MAX))] {
        prove(&dir.join(format!("step-{step}")), loss, 300);
    }
    let advice = Divergence::record(run.path(), 5, found("loss", f64::NAN), 0);
    assert!(advice.contains("step-2") && advice.contains("4.000"), "{advice}");
    assert!(advice.contains("--resume-step N goes back further (step-1)"), "{advice}");
    let chosen = choose(run.path(), None).unwrap().unwrap();
    assert_eq!(chosen.step, 2);
    assert!(chosen.notices[0].contains("the loss was NaN in step 6"), "{:?}", chosen.notices);
    chosen.abandon_newer(run.path()).unwrap();
    assert_eq!(steps(run.path()), [2, 1]);
    // The checkpoints that come now are the run again.
    add(run.path(), 3);
    assert_eq!(choose(run.path(), None).unwrap().unwrap().step, 3);
}

#[test]
fn weights_that_gave_no_loss_are_not_gone_on_from_unless_the_user_insists() {
    let run = run(&[1]);
    let advice = Divergence::record(run.path(), 1, found("gradient norm", f64::INFINITY), 0);
    assert!(advice.contains("no checkpoint from before is left"), "{advice}");
    let told = choose(run.path(), None).unwrap_err().to_string();
    assert!(
        told.contains("gradient norm was inf in step 2") && told.contains("--resume-step"),
        "{told}"
    );
    assert_eq!(choose(run.path(), Some(1)).unwrap().unwrap().step, 1);
}
