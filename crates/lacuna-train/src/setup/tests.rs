//! Tests the model that a run starts from: the row of MASK, the modes that it may go on in, and GGUF files.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use super::*;
use lacuna_checkpoint::{Attention, Name, save_gguf};
use lacuna_model::Transformer;
use lacuna_objective::{CorruptionRule, MaskSampler, Predicts, RateTransform, Weighting};
use lacuna_schedules::{CosineMaskHeavy, Schedule, TimeSampling, Warmup};
use std::path::PathBuf;

/// The recipe that takes seconds.
fn smoke() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml")
}

/// The smoke recipe from an untrained checkpoint of some mode.
fn from(dir: &Path, mode: Mode, set: &[&str]) -> (Recipe, RunData) {
    let path = smoke();
    let fresh = Recipe::load(&path, &[]).unwrap();
    let data = RunData::open(&fresh).unwrap();
    let config = Config { mode, ..fresh_config(&fresh, &data).unwrap() };
    Transformer::init(config, 3, DType::F32, &Device::Cpu).unwrap().save(dir).unwrap();
    let mut set: Vec<String> = set.iter().map(|item| (*item).to_owned()).collect();
    set.push(format!("model.from={}", dir.display()));
    let recipe = Recipe::load(&path, &set).unwrap();
    let data = RunData::open(&recipe).unwrap();
    (recipe, data)
}

fn diffusion(mask: u32) -> Mode {
    Mode::BlockDiffusion { block_size: NonZeroUsize::new(4).unwrap(), mask_token_id: Some(mask) }
}

fn table(model: &Transformer) -> Vec<Vec<f32>> {
    model.parameters().unwrap().embed.to_vec2().unwrap()
}

#[test]
fn the_mask_row_starts_as_the_recipe_says_and_no_other_changes() {
    let dir = tempfile::tempdir().unwrap();
    let build = |set: &[&str]| {
        let (recipe, data) = from(dir.path(), Mode::Autoregressive, set);
        let mask = data.mask_id().unwrap() as usize;
        (table(&build_model(&recipe, &data, None, &Device::Cpu).unwrap()), mask)
    };
    let (as_is, mask) = build(&[]);
    let weights = Weights::open(dir.path()).unwrap();
    let stored = weights.tensor(&Name::EMBED.to_string(), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(as_is, stored.to_vec2::<f32>().unwrap());

    let (mean, _) = build(&["model.mask_embedding=mean"]);
    let (n, width) = (as_is.len(), as_is[0].len());
    let squares: f64 = as_is.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
    let spread = (squares / (n * width) as f64).sqrt();
    let mut noise = 0.0;
    for column in 0..width {
        let center = as_is.iter().map(|row| f64::from(row[column])).sum::<f64>() / n as f64;
        let off = f64::from(mean[mask][column]) - center;
        assert!(off.abs() <= 0.005 * spread + 1e-7, "column {column}: {off}");
        noise += off.abs();
    }
    assert!(noise > 0.0, "equal rows would stay equal");
    for (row, (before, after)) in as_is.iter().zip(&mean).enumerate() {
        assert_eq!(before == after, row != mask, "row {row}");
    }
    assert_eq!(mean, build(&["model.mask_embedding=mean"]).0, "the seed names the noise");
    assert_ne!(mean, build(&["model.mask_embedding=mean", "seed=99"]).0);
}

#[test]
fn a_block_diffusion_checkpoint_is_not_trained_as_another_kind_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let build = |mode, set: &[&str]| {
        let (recipe, data) = from(dir.path(), mode, set);
        build_model(&recipe, &data, None, &Device::Cpu).map(|_| ()).map_err(|e| e.to_string())
    };
    // The smoke recipe's first stage is autoregressive.
    build(Mode::Autoregressive, &[]).unwrap();
    let error = build(diffusion(5), &[]).unwrap_err();
    assert!(
        error.contains("is autoregressive") && error.contains("allow_mode_mismatch"),
        "{error}"
    );
    build(diffusion(5), &["model.allow_mode_mismatch=true"]).unwrap();
    let stage = ["stage.0.objective=full-diffusion"];
    build(diffusion(5), &stage).unwrap();
    let other = ["stage.0.objective=full-diffusion", "model.mask_token=<[fim-prefix]>"];
    let error = build(diffusion(5), &other).unwrap_err();
    assert!(error.contains("trained with MASK = 5"), "{error}");
}

#[test]
fn training_starts_from_a_gguf_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recipe, data) = from(dir.path(), Mode::Autoregressive, &[]);
    let expected = table(&build_model(&recipe, &data, None, &Device::Cpu).unwrap());
    let weights = Weights::open(dir.path()).unwrap();
    let file = dir.path().join("m.gguf");
    save_gguf(&file, weights.config(), weights.outgoing(), &Default::default()).unwrap();
    recipe.model.from = Some(file);
    let data = RunData::open(&recipe).unwrap();
    assert_eq!(table(&build_model(&recipe, &data, None, &Device::Cpu).unwrap()), expected);
}

/// The objective of each of a recipe's stages, with the mode that its checkpoint would declare.
fn objectives(recipe: &Recipe) -> Vec<(StageObjective, Mode)> {
    let data = RunData::open(recipe).unwrap();
    let of = |stage| (data.objective(recipe, stage).unwrap(), data.mode(stage).unwrap());
    recipe.stage.iter().map(of).collect()
}

#[test]
fn a_stage_says_what_its_objective_is() {
    let recipe = Recipe::load(&smoke(), &[]).unwrap();
    let mask = RunData::open(&recipe).unwrap().mask_id().unwrap();
    let [(plain, plain_mode), (blocks, blocks_mode)] = objectives(&recipe)[..] else {
        panic!("the smoke recipe has two stages")
    };
    assert_eq!((plain.kind, plain.corruption), (ObjectiveKind::Autoregressive, None));
    assert_eq!(plain_mode, Mode::Autoregressive);
    assert_eq!((blocks.kind, blocks.block_size.get()), (ObjectiveKind::BlockDiffusion, 4));
    assert_eq!(blocks_mode, diffusion(mask));
    let (rule, times) = blocks.corruption.unwrap();
    assert_eq!(rule, CorruptionRule { warmup: Warmup::new(5), ..CorruptionRule::paper(mask) });
    assert_eq!(times, TimeSampling::PermutedStratified);
    assert_eq!(blocks.predicts, Predicts::Same);
    assert!(!blocks.recompute && !blocks.document_mask);
}

#[test]
fn every_key_of_a_stage_reaches_its_objective() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(smoke()).unwrap();
    let text =
        text.replace("../fixtures", &format!("{}/../../fixtures", env!("CARGO_MANIFEST_DIR")));
    let head = text
        .split("[[stage]]")
        .next()
        .unwrap()
        .replace("window = 32", "window = 32\ndocument_mask = true");
    let stage = |objective: &str, more: &str| {
        let common = "steps = 9\nbatch_size = 1\nlearning_rate = 1e-3\n";
        format!("[[stage]]\nname = \"{objective}\"\nobjective = \"{objective}\"\n{common}{more}\n")
    };
    let corruption = "[stage.corruption]\ntimes = \"independent\"\nschedule = \"cosine-mask-heavy\"\n\
        transform = \"identity\"\nmask = \"bernoulli\"\nweight = \"none\"\nwarmup_steps = 7\n\
        warmup_start = 0.25\ntransform_during_warmup = true\n";
    let stages = [
        stage(
            "block-diffusion",
            &format!(
                "block_size = 8\nlogit_shift = true\nrecompute_activations = true\n{corruption}"
            ),
        ),
        stage("full-diffusion", ""),
        stage("causal-diffusion", ""),
    ];
    let file = dir.path().join("recipe.toml");
    std::fs::write(&file, head + &stages.concat()).unwrap();
    let recipe = Recipe::load(&file, &[]).unwrap();
    let mask = RunData::open(&recipe).unwrap().mask_id().unwrap();
    let [(blocks, _), (full, full_mode), (causal, causal_mode)] = objectives(&recipe)[..] else {
        panic!("three stages")
    };
    let rule = CorruptionRule {
        schedule: Schedule::CosineMaskHeavy(CosineMaskHeavy),
        transform: RateTransform::Identity,
        mask_sampler: MaskSampler::Bernoulli,
        weighting: Weighting::None,
        warmup: Warmup::new(7).with_rate_init(0.25).unwrap(),
        transform_during_warmup: true,
        mask_id: mask,
    };
    let expected = StageObjective {
        kind: ObjectiveKind::BlockDiffusion,
        block_size: NonZeroUsize::new(8).unwrap(),
        corruption: Some((rule, TimeSampling::Independent)),
        predicts: Predicts::Next,
        document_mask: true,
        recompute: true,
    };
    assert_eq!(blocks, expected);
    // A window is one block when it is corrupted; under causal attention it is decoded token by token.
    assert_eq!((full.block_size.get(), causal.block_size.get()), (32, 32));
    let size = |mode| match mode {
        Mode::BlockDiffusion { block_size, .. } => block_size.get(),
        Mode::Autoregressive => 0,
    };
    assert_eq!((size(full_mode), size(causal_mode)), (32, 1));
    let attention: Vec<Attention> = recipe.stage.iter().map(Stage::attention).collect();
    assert_eq!(attention, [Attention::BlockCausal, Attention::Full, Attention::Causal]);
    // A window as one block is corrupted by Eq. 4 as it stands.
    let plain = CorruptionRule {
        transform: RateTransform::Identity,
        mask_sampler: MaskSampler::Bernoulli,
        ..CorruptionRule::paper(mask)
    };
    for objective in [full, causal] {
        assert_eq!(objective.corruption, Some((plain, TimeSampling::PermutedStratified)));
        assert_eq!(objective.predicts, Predicts::Same);
    }
}
