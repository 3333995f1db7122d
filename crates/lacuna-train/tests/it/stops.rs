//! Checks that runs with everything that a run may keep (means, rounded weights, adapters, dropout, fresh optimizers)
//! write the same bytes, wherever they are stopped and resumed.

use lacuna_checkpoint::{AdapterWeights, Weights};
use lacuna_train::{Event, Outcome, Recipe, RunOptions, read_metrics, run};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

fn recipe(set: &[&str]) -> Recipe {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
    let set: Vec<_> = set.iter().map(|item| (*item).to_owned()).collect();
    Recipe::load(&path, &set).unwrap()
}

/// Runs, or goes on, until `steps` are taken.
fn run_to(recipe: &Recipe, dir: &Path, steps: u64) -> Outcome {
    let stop = AtomicBool::new(false);
    let options = RunOptions { resume: true, ..RunOptions::new(dir, &stop) };
    run(recipe, &options, &mut |event| {
        if let Event::Step { metrics, .. } = event {
            stop.store(metrics.step >= steps, Ordering::Relaxed);
        }
    })
    .unwrap()
}

/// The files that a run leaves, without those that tell times.
fn files(dir: &Path, names: &[&str]) -> Vec<(String, Vec<u8>)> {
    names.iter().map(|name| ((*name).to_owned(), std::fs::read(dir.join(name)).unwrap())).collect()
}

fn check(recipe: &Recipe, stops: &[u64], names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parted) = (folder.path().join("whole"), folder.path().join("parted"));
    assert!(!run_to(recipe, &whole, u64::MAX).interrupted);
    for steps in stops {
        assert!(run_to(recipe, &parted, *steps).interrupted, "{steps}");
    }
    assert!(!run_to(recipe, &parted, u64::MAX).interrupted);
    for ((name, one), (_, other)) in files(&whole, names).iter().zip(files(&parted, names)) {
        assert!(*one == other, "{name}");
    }
    let steps = |dir: &Path| {
        let mut metrics = read_metrics(&dir.join("metrics.jsonl")).unwrap();
        metrics.iter_mut().for_each(|step| step.tokens_per_second = 0.0);
        metrics
    };
    assert_eq!(steps(&whole), steps(&parted));
    folder
}

const EVERYTHING: &[&str] = &[
    "stage.0.steps=5",
    "stage.1.steps=6",
    "stage.0.learning_rate_shape=cosine",
    "stage.1.learning_rate_shape=constant",
    "stage.0.dropout=0.1",
    "stage.1.dropout=0.2",
    "stage.1.reset_optimizer=true",
    "stage.1.document_mask=true",
    "stage.1.batch_tokens=128",
    "stage.1.corruption.warmup_steps=2",
    "optimizer.ema_decay=0.5",
    "optimizer.clip=0.5",
    "evaluation.windows=1",
    "evaluation.at_start=true",
];

#[test]
fn a_run_with_everything_that_is_stopped_anywhere_is_an_unbroken_one() {
    for (precision, moments) in
        [("f32", "f32"), ("bf16", "f32"), ("f32", "8-bit"), ("bf16", "8-bit")]
    {
        let precision = format!("model.precision={precision}");
        let moments = format!("optimizer.moments={moments}");
        let recipe = recipe(&[EVERYTHING, &[precision.as_str(), moments.as_str()]].concat());
        let names = [
            "final/model.safetensors",
            "final-ema/model.safetensors",
            "checkpoints/step-11/optimizer.safetensors",
            "results.json",
        ];
        let folder = check(&recipe, &[1, 4, 5, 6, 9], &names);
        let dir = folder.path().join("whole");
        let (last, mean) = (dir.join("final"), dir.join("final-ema"));
        let bytes = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
        assert!(bytes(&last) != bytes(&mean));
        let dtype = Weights::open(&mean).unwrap().report().dtype.unwrap().to_string();
        assert!(precision.ends_with(&dtype), "{dtype}");
        let results = std::fs::read_to_string(dir.join("results.json")).unwrap();
        assert!(results.contains("the start"), "{results}");
        let metrics = read_metrics(&dir.join("metrics.jsonl")).unwrap();
        let clipped = metrics.iter().filter(|step| step.grad_norm > 0.5).count() as u64;
        assert_eq!(metrics.last().unwrap().clipped_steps, clipped);
        for step in metrics.iter().filter(|step| step.supervised > 0) {
            let squares: f64 = step.grad_norms.values().map(|norm| norm * norm).sum();
            assert!((squares.sqrt() / step.grad_norm - 1.0).abs() < 1e-9, "{step:?}");
        }
    }
}

#[test]
fn adapters_are_all_that_is_kept_and_go_on_where_they_were_stopped() {
    let base = tempfile::tempdir().unwrap();
    let first = recipe(&[
        "stage.0.steps=2",
        "stage.0.learning_rate_warmup=0",
        "stage.1.steps=2",
        "stage.1.corruption.warmup_steps=0",
        "evaluation.windows=0",
    ]);
    run_to(&first, &base.path().join("run"), u64::MAX);
    let from = base.path().join("run/final");
    let from_key = format!("model.from={}", from.display());
    let set = [
        from_key.as_str(),
        "lora.rank=4",
        "lora.alpha=6",
        "lora.targets=[\"q_proj\", \"v_proj\", \"up_proj\"]",
        "model.allow_mode_mismatch=true",
        "stage.0.steps=3",
        "stage.0.learning_rate_warmup=0",
        "stage.1.steps=4",
        "stage.1.corruption.warmup_steps=0",
        "optimizer.ema_decay=0.5",
        "evaluation.windows=1",
    ];
    let recipe = recipe(&set);
    let names = [
        "final/model.safetensors",
        "final-ema/model.safetensors",
        "final-adapter/adapter_model.safetensors",
        "final-adapter/adapter_config.json",
        "checkpoints/step-7/adapter_model.safetensors",
        "checkpoints/step-7/optimizer.safetensors",
        "results.json",
    ];
    let folder = check(&recipe, &[1, 3, 5], &names);
    let dir = folder.path().join("whole");
    assert!(!dir.join("checkpoints/step-7/model.safetensors").exists());
    let adapter = AdapterWeights::open(&dir.join("final-adapter")).unwrap();
    assert_eq!((adapter.config().rank, adapter.config().alpha), (4, 6.0));
    assert_eq!(adapter.names().count(), 3 * 2);
    // Base and adapter make the model that was written merged.
    let (base, merged) = (Weights::open(&from).unwrap(), Weights::open(dir.join("final")).unwrap());
    let read = |weights: &Weights, name: &str| {
        let (f32, cpu) = (candle_core::DType::F32, candle_core::Device::Cpu);
        weights.tensor(name, f32, &cpu).unwrap()
    };
    let mut changed = 0;
    for (name, _) in base.config().shapes().iter() {
        let text = name.to_string();
        let (own, found) = (read(&base, &text), read(&merged, &text));
        let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&adapter.merged(name, &own).unwrap()), values(&found), "{text}");
        changed += usize::from(values(&own) != values(&found));
    }
    assert_eq!(changed, 3 * 2);
}

#[test]
fn values_of_the_new_keys_that_no_run_has_are_refused_by_their_names() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
    for (set, words) in [
        (&["stage.0.batch_tokens=100"][..], "96 or 128"),
        (
            &["stage.0.batch_tokens=64", "stage.0.batch_size=4"],
            "batch_size is 4, and batch_tokens are 2 windows",
        ),
        (&["evaluation.sample_every=2", "evaluation.prompts=[]"], "evaluation.prompts is empty"),
        (&["stage.1.corruption.warmup_steps=999"], "corruption.warmup_steps is 999"),
        (&["stage.0.learning_rate_warmup=999"], "learning_rate_warmup is 999"),
        (&["stage.0.batch_size=0"], "batch_size (or batch_tokens) 0"),
        (&["stage.0.dropout=1.0"], "dropout is 1"),
        (&["stage.0.dropout=nan"], "dropout is NaN"),
        (
            &["stage.0.learning_rate_shape=cosine", "stage.0.learning_rate_decay=2"],
            "learning_rate_decay is 2, and belongs",
        ),
        (&["stage.0.learning_rate_shape=linear"], "learning_rate_shape"),
        (&["optimizer.decay=[\"vectors\"]"], "optimizer.decay"),
        (&["model.frozen=[\"layers\"]"], "model.frozen"),
        (&["model.precision=f16"], "model.precision"),
        (&["lora.rank=0", "model.from=x"], "lora.rank is 0"),
        (&["lora.rank=2"], "give model.from"),
        (
            &["lora.rank=2", "model.from=x", "lora.targets=[\"lm_head\"]"],
            "`lm_head` is no projection",
        ),
        (&["lora.rank=2", "model.from=x", "lora.targets=[]"], "lora.targets is empty"),
        (&["lora.rank=2", "model.from=x", "lora.alpha=-1.0"], "lora.alpha is -1"),
        (&["lora.rank=2", "model.from=x", "lora.alpha=1e40"], "lora.alpha is 1e40"),
        (&["lora.rank=2", "model.from=x", "model.frozen=[\"norms\"]"], "model.frozen"),
        (&["lora.rank=2", "model.from=x", "model.precision=bf16"], "model.precision"),
        (&["lora.rank=2", "model.from=x", "model.mask_embedding=measured"], "model.mask_embedding"),
        (&["optimizer.moments=4-bit"], "optimizer.moments"),
    ] {
        let set: Vec<_> = set.iter().map(|item| (*item).to_owned()).collect();
        let error = Recipe::load(&path, &set).map(|_| ()).expect_err(words).to_string();
        assert!(error.contains(words) && error.contains("smoke.toml"), "{set:?}: {error}");
    }
}

#[test]
fn a_batch_may_be_set_in_tokens_on_a_recipe_that_has_it_in_windows_and_the_other_way_round() {
    let place = tempfile::tempdir().unwrap();
    // A run's own recipe has every key.
    let own = place.path().join("recipe.toml");
    std::fs::write(&own, recipe(&[]).to_toml()).unwrap();
    let load = |file: &Path, set: &str| Recipe::load(file, &[set.to_owned()]).unwrap();
    let in_tokens = load(&own, "stage.0.batch_tokens=64");
    assert_eq!((in_tokens.stage[0].batch_size, in_tokens.stage[0].batch_tokens), (2, Some(64)));
    std::fs::write(&own, in_tokens.to_toml()).unwrap();
    let in_windows = load(&own, "stage.0.batch_size=3");
    assert_eq!((in_windows.stage[0].batch_size, in_windows.stage[0].batch_tokens), (3, None));
}

#[test]
fn every_shipped_recipe_is_read_and_names_nothing_that_is_not_known() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut read = 0;
    for folder in [folder.clone(), folder.join("curricula")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "toml") {
                let recipe = Recipe::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
                // The recipe as it is written out is read back as the same one.
                let place = tempfile::tempdir().unwrap();
                let again = place.path().join("recipe.toml");
                std::fs::write(&again, recipe.to_toml()).unwrap();
                assert_eq!(Recipe::load(&again, &[]).unwrap().to_toml(), recipe.to_toml());
                read += 1;
            }
        }
    }
    assert!(read >= 14, "{read}");
}
