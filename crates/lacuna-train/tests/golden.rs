//! Losses, logits, gradients and ten optimizer steps against those recorded from independent implementations
//! (fixtures/README.md).

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use candle_core::{DType, Device, Tensor};
use lacuna_checkpoint::Weights;
use lacuna_kernels::{AdamW, AdamWConfig, AttentionMask, Parameter};
use lacuna_model::{Batch, Sequence, Transformer};
use lacuna_objective::{Predicts, Targets, weighted_loss_of_rows};
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden")
}

struct Golden {
    tensors: HashMap<String, Tensor>,
    meta: Vec<Value>,
}

impl Golden {
    fn load() -> Self {
        let tensors = fixtures().join("training.safetensors");
        let meta = std::fs::read_to_string(fixtures().join("training_meta.json")).unwrap();
        Self {
            tensors: candle_core::safetensors::load(tensors, &Device::Cpu).unwrap(),
            meta: serde_json::from_str(&meta).unwrap(),
        }
    }

    fn f64s(&self, key: &str) -> Vec<f64> {
        let tensor = self.tensors[key].to_dtype(DType::F64).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        self.f64s(key).into_iter().map(|v| v as u32).collect()
    }
}

fn model(name: &str, dtype: DType) -> Transformer {
    let weights = Weights::open(fixtures().join("models").join(name)).unwrap();
    Transformer::trainable(&weights, dtype, &Device::Cpu).unwrap()
}

/// Windows of `len` tokens, noisy and clean, of which the noisy tokens at `rows` are wanted, counted over all windows.
fn noisy_and_clean(
    [noisy, clean]: [&[u32]; 2],
    rows: &[u32],
    len: usize,
    block_size: usize,
) -> Batch {
    let mut batch = Batch::default();
    for (i, (noisy, clean)) in noisy.chunks(len).zip(clean.chunks(len)).enumerate() {
        let own = (i * len) as u32..((i + 1) * len) as u32;
        let wanted = rows.iter().filter(|row| own.contains(row)).map(|row| row - own.start);
        let wanted: Vec<u32> = wanted.collect();
        let window = Sequence { tokens: noisy, wanted: Some(&wanted), ..Sequence::default() };
        batch.push_noisy_and_clean(window, clean, block_size.try_into().unwrap()).unwrap();
    }
    batch
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference as a part of the largest expected value.
fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |a, v| a.max(v.abs()));
    found.iter().zip(expected).fold(0f64, |a, (x, y)| a.max((x - y).abs())) / largest
}

/// One recorded case: hidden rows, what they must predict, and over how many tokens the loss is a mean.
fn forward(golden: &Golden, case: &Value, model: &Transformer) -> (Tensor, Targets, f64) {
    let key = case["key"].as_str().unwrap();
    let x0 = golden.ids(&format!("{key}.x0"));
    let len = x0.len();
    if case["kind"] == "ar" {
        let targets = Targets::next_token(&x0, &vec![true; len], len).unwrap();
        let text = Sequence { tokens: &x0, wanted: Some(&targets.rows), ..Sequence::default() };
        let batch = Batch::of(text, AttentionMask::Causal).unwrap();
        let hidden = model.forward(&batch).unwrap();
        return (hidden, targets, (len - 1) as f64);
    }
    let mask = golden.ids(&format!("{key}.mask"));
    let noisy = golden.ids(&format!("{key}.xt"));
    let weights: Vec<f32> = if let Some(t) = case["t"].as_f64() {
        mask.iter().map(|m| *m as f32 / t as f32).collect()
    } else {
        let rates = golden.f64s(&format!("{key}.u_blk"));
        mask.iter().zip(&rates).map(|(m, u)| (f64::from(*m) / u) as f32).collect()
    };
    let targets = Targets::masked(&x0, &weights, len, Predicts::Own).unwrap();
    let window = Sequence { tokens: &noisy, wanted: Some(&targets.rows), ..Sequence::default() };
    let batch = match case["block"].as_u64() {
        Some(b) => noisy_and_clean([&noisy, &x0], &targets.rows, len, b as usize),
        None => Batch::of(window, AttentionMask::Full).unwrap(),
    };
    (model.forward(&batch).unwrap(), targets, len as f64)
}

#[test]
fn losses_logits_and_gradients_equal_the_recorded_ones() {
    let golden = Golden::load();
    // The record is f64 (its gradients stored as f32). Single precision: the bound that the issue states is
    // 1e-4; a good f32 implementation was recorded at 2.5e-6.
    for (dtype, tolerance, stored) in [(DType::F64, 1e-7, 1e-6), (DType::F32, 2e-5, 5e-5)] {
        let mut cases = 0;
        for case in golden.meta.iter().filter(|c| c["kind"] != "adamw_trajectory") {
            let key = case["key"].as_str().unwrap();
            let model = model(case["model"].as_str().unwrap(), dtype);
            let (hidden, targets, denominator) = forward(&golden, case, &model);
            if let Some(expected) = golden.tensors.get(&format!("{key}.logits_masked")) {
                let off = relative(&values(&model.logits(&hidden).unwrap()), &values(expected));
                assert!(off < tolerance, "{key} {dtype:?} logits: {off:e}");
            }
            let head = model.head().unwrap();
            let out = weighted_loss_of_rows(model.backend(), &hidden, &head, &targets, denominator)
                .unwrap();
            let loss = values(&out.loss)[0];
            let off = (loss / case["loss"].as_f64().unwrap() - 1.0).abs();
            assert!(off < tolerance, "{key} {dtype:?} loss: {off:e}");
            let ce = golden
                .tensors
                .get(&format!("{key}.ce_masked"))
                .or(golden.tensors.get(&format!("{key}.ce")));
            let nll: Vec<f64> = out.nll.iter().map(|v| f64::from(*v)).collect();
            let off = relative(&nll, &values(ce.unwrap()));
            assert!(off < 1e-5, "{key} {dtype:?} cross-entropies: {off:e}");

            let store = out.loss.backward().unwrap();
            let total = case["grad_total_norm"].as_f64().unwrap();
            let mut squares = 0.0;
            for (name, var) in model.parameters().unwrap().iter() {
                let name = name.to_string();
                let gradient =
                    store.get(var).unwrap_or_else(|| panic!("{key}: no gradient for {name}"));
                let gradient = values(gradient);
                let norm = gradient.iter().map(|v| v * v).sum::<f64>().sqrt();
                squares += norm * norm;
                let expected = case["grad_norms"][name.as_str()].as_f64().unwrap();
                let off = (norm - expected).abs() / expected.max(1e-3 * total);
                assert!(off < tolerance, "{key} {dtype:?} gradient norm of {name}: {off:e}");
                let sum: f64 = gradient.iter().sum();
                let expected = case["grad_sums"][name.as_str()].as_f64().unwrap();
                // A sum of n values with cancellation: bounded by the norm times √n.
                let bound = tolerance * total * (gradient.len() as f64).sqrt();
                assert!((sum - expected).abs() < bound, "{key} {dtype:?} gradient sum of {name}");
                if let Some(expected) = golden.tensors.get(&format!("{key}.grad.{name}")) {
                    let expected = values(expected);
                    let off = relative(&gradient[..expected.len()], &expected);
                    assert!(off < stored, "{key} {dtype:?} gradient of {name}: {off:e}");
                }
            }
            assert!((squares.sqrt() / total - 1.0).abs() < tolerance, "{key} {dtype:?} total norm");
            cases += 1;
        }
        assert_eq!(cases, 14);
    }
}

#[test]
fn ten_optimizer_steps_follow_the_recorded_trajectory() {
    let golden = Golden::load();
    let case = golden.meta.iter().find(|c| c["kind"] == "adamw_trajectory").unwrap();
    let model = model("tiny_untied", DType::F32);
    let parameters = model.parameters().unwrap().iter();
    let parameters = parameters.map(|(_, var)| Parameter { var: var.clone(), decay: true });
    let config = AdamWConfig { weight_decay: 0.1, clip_norm: Some(1.0), ..AdamWConfig::default() };
    let mut optimizer = AdamW::new(parameters.collect(), config).unwrap();
    for (s, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let row = |b: usize, what: &str| format!("tiny_untied.traj.s{s}.b{b}.{what}");
        let both_ids = |what| [golden.ids(&row(0, what)), golden.ids(&row(1, what))].concat();
        let (x0, mask) = (both_ids("x0"), both_ids("mask"));
        let rates = [golden.f64s(&row(0, "u_blk")), golden.f64s(&row(1, "u_blk"))].concat();
        let noisy: Vec<u32> =
            x0.iter().zip(&mask).map(|(t, m)| if *m == 1 { 5 } else { *t }).collect();
        let weights: Vec<f32> =
            mask.iter().zip(&rates).map(|(m, u)| (f64::from(*m) / u) as f32).collect();
        let targets = Targets::masked(&x0, &weights, 16, Predicts::Own).unwrap();
        let hidden = model.forward(&noisy_and_clean([&noisy, &x0], &targets.rows, 16, 4)).unwrap();
        let out =
            weighted_loss_of_rows(model.backend(), &hidden, &model.head().unwrap(), &targets, 32.0)
                .unwrap();
        let norm = optimizer.step(model.backend(), &out.loss.backward().unwrap(), 1e-3).unwrap();
        let parameters = model.parameters().unwrap().iter();
        let squares = parameters.map(|(_, v)| values(v).iter().map(|x| x * x).sum::<f64>());
        let parameter_norm = squares.sum::<f64>().sqrt();
        for (what, found, expected) in [
            ("loss", values(&out.loss)[0], &step["loss"]),
            ("gradient norm", norm, &step["grad_norm_before_clip"]),
            ("parameter norm", parameter_norm, &step["param_norm"]),
        ] {
            let off = (found / expected.as_f64().unwrap() - 1.0).abs();
            // Rounding grows along the trajectory: Adam divides tiny gradients by their own size.
            assert!(off < 1e-4, "step {s} {what}: {found} is off by {off:e}");
        }
    }
    for (name, var) in model.parameters().unwrap().iter() {
        if let Some(expected) = golden.tensors.get(&format!("tiny_untied.traj.final.{name}")) {
            let expected = values(expected);
            let off = relative(&values(var)[..expected.len()], &expected);
            assert!(off < 1e-3, "{name} after ten steps: {off:e}");
        }
    }
}
