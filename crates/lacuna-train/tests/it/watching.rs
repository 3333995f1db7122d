//! Tests what a run shows of itself while it goes on, and what it does when a step goes wrong.

use lacuna_files::testing::TestDisk;
use lacuna_test::timeless;
use lacuna_train::{Event, Outcome, Recipe, RunOptions, Sample, read_held_out, read_metrics, run};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The smoke recipe with some keys set.
fn recipe(set: &[&str]) -> Recipe {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    Recipe::load(&path, &set).unwrap()
}

/// A run, and what it said.
#[derive(Default)]
struct Told {
    notices: Vec<String>,
    /// Steps after which samples were asked for.
    sampled: Vec<u64>,
    /// Steps after which held-out text was scored, and whether the score was the best.
    scored: Vec<(u64, bool)>,
    saved: Vec<PathBuf>,
}

/// Runs until `steps` are taken.
fn try_run(recipe: &Recipe, dir: &Path, steps: u64) -> lacuna_train::Result<(Outcome, Told)> {
    let stop = AtomicBool::new(false);
    let options = RunOptions { resume: true, accept_changes: true, ..RunOptions::new(dir, &stop) };
    let mut told = Told::default();
    let outcome = run(recipe, &options, &mut |event| match event {
        Event::Step { metrics, .. } => stop.store(metrics.step >= steps, Ordering::Relaxed),
        Event::Notice(notice) => told.notices.push(notice),
        Event::HeldOut { step, is_best, .. } => told.scored.push((step, is_best)),
        Event::Checkpoint(path) => told.saved.push(path.to_owned()),
        Event::SamplesDue { step, wanted, written, .. } => {
            told.sampled.push(step);
            let prompt = wanted.prompts[0].clone();
            let trace = format!("{{\"step\":{step}}}\n");
            *written = vec![Sample { prompt, text: format!("{step}"), trace, ..Sample::default() }];
        }
        _ => {}
    })?;
    Ok((outcome, told))
}

fn done(recipe: &Recipe, dir: &Path) -> Told {
    let (outcome, told) = try_run(recipe, dir, u64::MAX).unwrap();
    assert!(!outcome.interrupted);
    told
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

const WATCHED: [&str; 5] = [
    "evaluation.evaluate_every=4",
    "evaluation.sample_every=6",
    "keep_checkpoints=1",
    "stage.1.steps=30",
    "tensorboard=true",
];

#[test]
fn held_out_text_is_scored_on_the_way_and_the_best_checkpoint_is_kept_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let told = done(&recipe(&WATCHED), &dir);
    // Ten steps and thirty; the stages' ends are scored as ever.
    let scored: Vec<u64> = told.scored.iter().map(|(step, _)| *step).collect();
    assert_eq!(scored, [4, 8, 14, 18, 22, 26, 30, 34, 38]);
    assert_eq!(told.sampled, [6, 16, 22, 28, 34, 40]);
    let points = read_held_out(&dir.join("metrics.jsonl")).unwrap();
    let nelbo: Vec<_> = points.iter().filter(|point| point.label == "exact block NELBO").collect();
    let steps: Vec<u64> = nelbo.iter().map(|point| point.step).collect();
    assert_eq!(steps, [14, 18, 22, 26, 30, 34, 38, 40]);
    let best = nelbo.iter().min_by(|a, b| a.nats_per_token.total_cmp(&b.nats_per_token)).unwrap();
    let named = std::fs::read_link(dir.join("checkpoints/best")).unwrap();
    assert_eq!(named, PathBuf::from(format!("step-{}", best.step)));
    assert!(dir.join("checkpoints/best/model.safetensors").is_file());
    let results = std::fs::read_to_string(dir.join("results.json")).unwrap();
    assert!(results.contains(&format!("\"best\": {{\n    \"step\": {}", best.step)), "{results}");
    // Each best on the way was saved at once, and went when it was not any more.
    let saved: BTreeSet<_> = told.saved.iter().collect();
    for (step, _) in told.scored.iter().filter(|(_, is_best)| *is_best) {
        assert!(saved.contains(&dir.join(format!("checkpoints/step-{step}"))), "{step}");
    }
    assert!(names(&dir.join("checkpoints")).len() <= 5, "{:?}", names(&dir.join("checkpoints")));
    let lines = timeless(&dir.join("samples.jsonl"));
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0]["trace"], "samples/step-6.jsonl");
    assert_eq!(std::fs::read(dir.join("samples/step-6.jsonl")).unwrap(), b"{\"step\":6}\n");
    assert_eq!(names(&dir.join("tensorboard")).len(), 1);
}

#[test]
fn a_run_that_is_stopped_where_it_would_be_watched_is_watched_when_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let recipe = recipe(&WATCHED);
    done(&recipe, &whole);
    let mut sampled = Vec::new();
    for stop in [4, 6, 10, 18, 19, 22, 22, 38] {
        let (outcome, told) = try_run(&recipe, &broken, stop).unwrap();
        assert!(outcome.interrupted, "{stop}");
        sampled.extend(told.sampled);
    }
    sampled.extend(done(&recipe, &broken).sampled);
    assert_eq!(sampled, [6, 16, 22, 28, 34, 40]);
    for name in ["metrics.jsonl", "samples.jsonl"] {
        assert_eq!(timeless(&whole.join(name)), timeless(&broken.join(name)), "{name}");
    }
    assert_eq!(names(&whole.join("samples")), names(&broken.join("samples")));
    for name in ["results.json", "final/model.safetensors"] {
        let of = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert!(of(&whole) == of(&broken), "{name}");
    }
    let best = |dir: &Path| std::fs::read_link(dir.join("checkpoints/best")).unwrap();
    assert_eq!(best(&whole), best(&broken));
}

#[test]
fn metrics_say_operations_and_the_place_in_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    done(&recipe(&["evaluation.windows=0"]), &dir);
    let steps = read_metrics(&dir.join("metrics.jsonl")).unwrap();
    let epochs: Vec<f64> = steps.iter().map(|m| m.epoch.unwrap()).collect();
    assert!(epochs.is_sorted() && epochs[0] > 0.0, "{epochs:?}");
    let flop = steps.iter().find(|m| m.supervised > 0).unwrap().flop.unwrap();
    // 4 windows of 32 tokens, 3 rounds of 2 operations with 24 K weights in the layers and a head of 4096 × 32.
    assert!((5e7..2e8).contains(&flop), "{flop}");
    assert!(steps.iter().all(|m| m.skipped == 0 && m.machine.is_none()));
}

#[test]
fn a_loss_that_is_no_number_names_its_step_and_windows_and_is_gone_back_from() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let saving = "stage.0.checkpoint_every=1";
    assert!(try_run(&recipe(&[saving]), &dir, 5).unwrap().0.interrupted);
    let ruined = [saving, "stage.0.learning_rate=1e35", "optimizer.clip=1e30"];
    let failed = try_run(&recipe(&ruined), &dir, u64::MAX);
    let error = failed.map(|_| ()).unwrap_err().to_string();
    for part in ["in step ", "stage `autoregressive`, seed 1", "4 rows of the corpus", "window "] {
        assert!(error.contains(part), "`{part}`: {error}");
    }
    let record = std::fs::read_to_string(dir.join("diverged.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let at = &record["at"];
    assert_eq!(
        (&at["seed"], &at["stage"], &at["data"]),
        (&1.into(), &"autoregressive".into(), &"corpus".into())
    );
    assert_eq!((at["step"].as_u64(), record["good"].as_u64()), (record["step"].as_u64(), Some(5)));
    assert_eq!(at["windows"].as_array().unwrap().len(), 4);
    let rows = at["at_fault"].as_array().unwrap();
    assert!(!rows.is_empty(), "{record}");
    for row in rows {
        assert_eq!(row["window"], at["windows"][row["row"].as_u64().unwrap() as usize]);
        assert!(!row["begins"].as_str().unwrap().is_empty());
    }
    let told = done(&recipe(&[saving]), &dir);
    assert!(told.notices.iter().any(|notice| notice.contains("going back to step-5")));
    assert!(!dir.join("diverged.json").exists());
}

#[test]
fn steps_whose_loss_stands_out_are_left_out_and_counted_also_after_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    // Hardly anything is learnt, so losses scatter about one level.
    let recipe = recipe(&[
        "stage.0.steps=90",
        "stage.0.learning_rate=1e-6",
        "stage.1.steps=5",
        "evaluation.windows=0",
        "optimizer.spike_z_score=0.2",
    ]);
    done(&recipe, &whole);
    let steps = read_metrics(&whole.join("metrics.jsonl")).unwrap();
    let skipped: Vec<u64> = steps.iter().map(|m| m.skipped).collect();
    assert!(skipped[..50].iter().all(|count| *count == 0), "nobody knows yet what is usual");
    assert!(skipped.is_sorted() && skipped[89] > 0, "{skipped:?}");
    for stop in [40, 55, 70, 71, 92] {
        assert!(try_run(&recipe, &broken, stop).unwrap().0.interrupted);
    }
    done(&recipe, &broken);
    assert_eq!(timeless(&whole.join("metrics.jsonl")), timeless(&broken.join("metrics.jsonl")));
    let weights = |dir: &Path| std::fs::read(dir.join("final/model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&broken));
}

/// A run's folder in which no checkpoint can be written.
fn without_checkpoints(dir: &Path) -> TestDisk {
    let checkpoints = dir.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).unwrap();
    TestDisk::stopping_at(&checkpoints, 1)
}

#[test]
fn records_and_checkpoints_that_can_not_be_written_are_told_and_end_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, odd) = (folder.path().join("whole"), folder.path().join("odd"));
    let recipe = recipe(&["stage.0.checkpoint_every=5", "tensorboard=true"]);
    done(&recipe, &whole);
    std::fs::create_dir(&odd).unwrap();
    for name in ["run.json", "recipe.toml", "results.json", "metrics.jsonl"] {
        std::fs::create_dir(odd.join(name)).unwrap();
    }
    std::fs::write(odd.join("tensorboard"), "in the way").unwrap();
    let disk = without_checkpoints(&odd);
    let told = done(&recipe, &odd);
    drop(disk);
    let said = told.notices.join("\n");
    for part in [
        "run.json",
        "recipe.toml",
        "results.json",
        "metrics.jsonl",
        "tensorboard",
        "step 5 is not saved",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let weights = |dir: &Path| std::fs::read(dir.join("final/model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&odd));
    // A run that ends here has to be saved, or says that it is not.
    let stopped = try_run(&recipe, &folder.path().join("stopped"), 3).unwrap();
    assert!(stopped.0.interrupted);
    let blocked = folder.path().join("blocked");
    let _disk = without_checkpoints(&blocked);
    let error = try_run(&recipe, &blocked, 3).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("checkpoints"), "{error}");
}
