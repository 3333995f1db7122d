//! Compares every variant of the configuration, in both formats, with a plain calculation of its own: loops over f64,
//! from the text of `config.json`, which share nothing with the crate but the numbers of the weights.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lacuna_checkpoint::{GgufOptions, SaveOptions, save_gguf, save_safetensors};
use lacuna_kernels::{Backend, WeightMatrix};
use lacuna_model::{Activations, AttentionMask, Batch, Config, StorageDtype, Transformer, Weights};
use serde_json::{Value, json};

const VOCAB: usize = 48;
const HIDDEN: usize = 32;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const INNER: usize = 64;
const EPS: f64 = 1e-6;

/// A checkpoint as the plain calculation reads it: weights by name, and the contents of `config.json`.
struct Plain {
    tensors: HashMap<String, Vec<f64>>,
    config: Value,
    /// True if the layers' projections read their input rounded to bytes.
    rounds: bool,
}

type Rows = Vec<Vec<f64>>;

/// A row in blocks of 32, each as whole numbers times 1/127 of its largest magnitude.
fn rounded(row: &[f64]) -> Vec<f64> {
    let of_block = |block: &[f64]| {
        let scale = block.iter().fold(0f64, |most, x| most.max(x.abs())) / 127.;
        block.iter().map(|x| (x / scale).round_ties_even() * scale).collect::<Vec<_>>()
    };
    row.chunks(32).flat_map(of_block).collect()
}

impl Plain {
    fn vector(&self, name: &str) -> Option<&[f64]> {
        self.tensors.get(name).map(Vec::as_slice)
    }

    /// x · Wᵀ + b, the bias where the checkpoint has one.
    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let weight = self.vector(&format!("{name}.weight")).unwrap();
        let bias = self.vector(&format!("{name}.bias"));
        let product = |row: &Vec<f64>| -> Vec<f64> {
            let outputs = weight.chunks(row.len()).enumerate();
            let sum = |w: &[f64]| w.iter().zip(row).map(|(w, x)| w * x).sum::<f64>();
            outputs.map(|(i, w)| sum(w) + bias.map_or(0.0, |bias| bias[i])).collect()
        };
        // Weights whose rows are no whole blocks are not packed so.
        if self.rounds && name != "lm_head" && x[0].len().is_multiple_of(32) {
            return x.iter().map(|row| product(&rounded(row))).collect();
        }
        x.iter().map(product).collect()
    }

    fn normed(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.vector(name).unwrap();
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        x.iter().zip(weight).map(|(v, w)| v / (mean + EPS).sqrt() * w).collect()
    }

    fn head_dim(&self) -> usize {
        self.config["head_dim"].as_u64().map_or(HIDDEN / HEADS, |n| n as usize)
    }

    /// The angles by which one position rotates, as `transformers` computes them.
    fn frequencies(&self) -> Vec<f64> {
        let parameters = match &self.config["rope_parameters"] {
            Value::Null => &self.config["rope_scaling"],
            parameters => parameters,
        };
        let theta = parameters["rope_theta"].as_f64().or(self.config["rope_theta"].as_f64());
        let d = self.head_dim();
        let plain = (0..d / 2).map(|i| theta.unwrap_or(1e4).powf(-2.0 * i as f64 / d as f64));
        let number = |name: &str| parameters[name].as_f64().unwrap();
        match parameters["rope_type"].as_str().or(parameters["type"].as_str()) {
            Some("linear") => plain.map(|f| f / number("factor")).collect(),
            Some("llama3") => {
                let (factor, low, high) =
                    (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
                let old = number("original_max_position_embeddings");
                let scaled = |f: f64| {
                    let wavelength = 2.0 * std::f64::consts::PI / f;
                    if wavelength > old / low {
                        f / factor
                    } else if wavelength < old / high {
                        f
                    } else {
                        let smooth = (old / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain.map(scaled).collect()
            }
            _ => plain.collect(),
        }
    }

    /// The same with matrices that were packed, in f16 if their rows are no whole blocks, and rounded activations.
    fn packed(
        &self,
        shapes: impl Iterator<Item = (String, Vec<usize>)>,
        dtype: StorageDtype,
    ) -> Self {
        let mut tensors = self.tensors.clone();
        for (name, shape) in shapes.filter(|(_, shape)| shape.len() == 2) {
            let values: Vec<f32> = self.tensors[&name].iter().map(|x| *x as f32).collect();
            let dtype = dtype.fitting(&shape);
            let packed = WeightMatrix::quantize(&values, shape[0], shape[1], dtype).unwrap();
            let unpacked = packed.to_tensor(Backend::Reference).unwrap().flatten_all().unwrap();
            let unpacked = unpacked.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            tensors.insert(name, unpacked);
        }
        Self { tensors, config: self.config.clone(), rounds: true }
    }

    /// Heads of one token's projection, normed where the checkpoint norms them, and rotated.
    fn heads(&self, row: &[f64], norm: &str, position: usize) -> Rows {
        let frequencies = self.frequencies();
        let head = |head: &[f64]| -> Vec<f64> {
            let x = match self.tensors.contains_key(norm) {
                true => self.normed(norm, head),
                false => head.to_vec(),
            };
            let half = x.len() / 2;
            let mut rotated = vec![0.0; x.len()];
            for (i, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                rotated[i] = x[i] * cos - x[i + half] * sin;
                rotated[i + half] = x[i + half] * cos + x[i] * sin;
            }
            rotated
        };
        row.chunks(self.head_dim()).map(head).collect()
    }

    fn attention(&self, layer: &str, x: &Rows) -> Rows {
        let d = self.head_dim();
        let project = |name: &str| self.linear(&format!("{layer}.self_attn.{name}"), x);
        let (q, k, v) = (project("q_proj"), project("k_proj"), project("v_proj"));
        let norm = |name: &str| format!("{layer}.self_attn.{name}.weight");
        let rotated = |rows: &Rows, name: &str| -> Vec<Rows> {
            rows.iter().enumerate().map(|(p, row)| self.heads(row, &norm(name), p)).collect()
        };
        let (q, k) = (rotated(&q, "q_norm"), rotated(&k, "k_norm"));
        let mut out = vec![vec![0.0; HEADS * d]; x.len()];
        for at in 0..x.len() {
            for head in 0..HEADS {
                let of = head / (HEADS / KV_HEADS);
                let score = |key: usize| {
                    let dot = q[at][head].iter().zip(&k[key][of]).map(|(a, b)| a * b).sum::<f64>();
                    dot / (d as f64).sqrt()
                };
                let weights: Vec<f64> = (0..=at).map(|key| score(key).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (key, weight) in weights.iter().enumerate() {
                    for i in 0..d {
                        out[at][head * d + i] += weight / total * v[key][of * d + i];
                    }
                }
            }
        }
        self.linear(&format!("{layer}.self_attn.o_proj"), &out)
    }

    fn logits(&self, ids: &[u32]) -> Rows {
        let table = self.vector("model.embed_tokens.weight").unwrap();
        let add = |x: &mut Rows, y: Rows| {
            x.iter_mut().zip(y).for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
        };
        let mut x: Rows =
            ids.iter().map(|id| table[*id as usize * HIDDEN..][..HIDDEN].to_vec()).collect();
        for layer in (0..LAYERS).map(|layer| format!("model.layers.{layer}")) {
            let normed = |x: &Rows, name: &str| -> Rows {
                x.iter().map(|x| self.normed(&format!("{layer}.{name}.weight"), x)).collect()
            };
            let attended = self.attention(&layer, &normed(&x, "input_layernorm"));
            add(&mut x, attended);
            let inner = normed(&x, "post_attention_layernorm");
            let mut gate = self.linear(&format!("{layer}.mlp.gate_proj"), &inner);
            let up = self.linear(&format!("{layer}.mlp.up_proj"), &inner);
            for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
                *gate = *gate / (1.0 + (-*gate).exp()) * up;
            }
            add(&mut x, self.linear(&format!("{layer}.mlp.down_proj"), &gate));
        }
        let x: Rows = x.iter().map(|x| self.normed("model.norm.weight", x)).collect();
        match self.tensors.contains_key("lm_head.weight") {
            true => self.linear("lm_head", &x),
            false => {
                let logit = |x: &Vec<f64>, row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
                x.iter().map(|x| table.chunks(HIDDEN).map(|row| logit(x, row)).collect()).collect()
            }
        }
    }
}

/// The variant's `config.json`: the fields that all variants share, and its own.
fn config(own: Value) -> Value {
    let mut all = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "rms_norm_eps": EPS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "intermediate_size": INNER,
        "max_position_embeddings": 128, "rope_theta": 500.0, "bos_token_id": 1, "eos_token_id": 2,
    });
    let fields = all.as_object_mut().unwrap();
    for (name, value) in own.as_object().unwrap() {
        match value {
            Value::String(text) if text == "absent" => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    all
}

fn llama3(style: &str) -> Value {
    json!({
        style: "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    })
}

fn variants() -> Vec<(&'static str, Value)> {
    let rope = |mut parameters: Value| {
        parameters["rope_theta"] = json!(500.0);
        json!({ "rope_parameters": parameters, "rope_theta": "absent" })
    };
    vec![
        ("plain", json!({})),
        ("tied", json!({ "tie_word_embeddings": true })),
        ("a wide head", json!({ "head_dim": 16 })),
        ("a narrow head", json!({ "head_dim": 4 })),
        ("Qwen2's biases", json!({ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2" })),
        (
            "Seed-OSS's biases",
            json!({ "architectures": ["SeedOssForCausalLM"], "model_type": "seed_oss", "attention_out_bias": false }),
        ),
        ("Llama's biases", json!({ "attention_bias": true, "mlp_bias": true })),
        (
            "Qwen3's norms",
            json!({ "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": true }),
        ),
        (
            "SDAR",
            json!({ "architectures": ["SDARForCausalLM"], "model_type": "sdar", "block_size": 4, "mask_token_id": 5 }),
        ),
        ("linear", json!({ "rope_scaling": { "type": "linear", "factor": 3.0 } })),
        ("llama3", json!({ "rope_scaling": llama3("rope_type") })),
        ("new default", rope(json!({ "rope_type": "default" }))),
        ("new linear", rope(json!({ "rope_type": "linear", "factor": 3.0 }))),
        ("new llama3", rope(llama3("rope_type"))),
        ("no theta", json!({ "rope_theta": "absent" })),
    ]
}

/// Numbers in (−½, ½) that follow from their place.
fn noise(seed: usize, count: usize) -> Vec<f32> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// A checkpoint of this configuration and what is in it.
fn checkpoint(dir: &Path, config: &Value) -> Plain {
    let parsed = Config::from_json(&config.to_string()).unwrap();
    let mut plain = Plain { tensors: HashMap::new(), config: config.clone(), rounds: false };
    let mut tensors = Vec::new();
    for (index, (name, shape)) in parsed.expected_tensors().enumerate() {
        let count = shape.iter().product();
        let center = if name.contains("norm") { 1.0 } else { 0.0 };
        let values: Vec<f32> = noise(index, count).iter().map(|x| center + x).collect();
        plain.tensors.insert(name.clone(), values.iter().map(|x| f64::from(*x)).collect());
        tensors.push((name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap()));
    }
    save_safetensors(dir, &parsed, tensors, &SaveOptions::default()).unwrap();
    // The `config.json` that stands there is one as others write it, not ours.
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    plain
}

fn off(model: &Transformer, ids: &[u32], expected: &Rows) -> f64 {
    off_in(Activations::F32, model, ids, expected)
}

fn off_in(precision: Activations, model: &Transformer, ids: &[u32], expected: &Rows) -> f64 {
    let batch = Batch::of(ids, AttentionMask::Causal).unwrap().in_precision(precision);
    let hidden = model.forward(&batch).unwrap();
    let logits =
        model.logits(&hidden).unwrap().to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
    let largest = expected.iter().flatten().fold(0f64, |most, x| most.max(x.abs()));
    let pairs = logits.iter().flatten().zip(expected.iter().flatten());
    pairs.fold(0f64, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn every_variant_computes_what_a_plain_calculation_does_in_both_formats() {
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    for (name, own) in variants() {
        let config = config(own);
        let dir = tempfile::tempdir().unwrap();
        let expected = checkpoint(dir.path(), &config).logits(&ids);
        let weights = Weights::open(dir.path()).unwrap();
        let exact = Transformer::trainable(&weights, DType::F64, &Device::Cpu).unwrap();
        let exact = off(&exact, &ids, &expected);
        assert!(exact < 1e-12, "{name} in f64: {exact:e}");
        let mapped = off(&Transformer::mapped(&weights).unwrap(), &ids, &expected);
        assert!(mapped < 1e-5, "{name} mapped in f32: {mapped:e}");

        // A copy that we write is read again as the same, by way of our own config.json and of GGUF.
        let out = tempfile::tempdir().unwrap();
        save_safetensors(out.path(), weights.config(), weights.outgoing(), &SaveOptions::default())
            .unwrap();
        let again = Weights::open(out.path()).unwrap();
        let written = off(&Transformer::mapped(&again).unwrap(), &ids, &expected);
        assert!(written < 1e-5, "{name} written again: {written:e}");
        assert_eq!(again.config().mode, weights.config().mode, "{name}");

        let gguf = out.path().join("m.gguf");
        let saved = save_gguf(&gguf, weights.config(), weights.outgoing(), &GgufOptions::default());
        if name == "Llama's biases" {
            let error = saved.unwrap_err().to_string();
            assert!(error.contains("no GGUF architecture"), "{error}");
            continue;
        }
        saved.unwrap();
        let again = Weights::open(&gguf).unwrap();
        assert_eq!(again.config().mode, weights.config().mode, "{name}");
        let gguf = off(&Transformer::mapped(&again).unwrap(), &ids, &expected);
        assert!(gguf < 1e-5, "{name} by way of GGUF: {gguf:e}");
    }
}

#[test]
fn every_variant_computes_what_a_plain_calculation_with_rounded_activations_does() {
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    for (name, own) in variants() {
        let config = config(own);
        let dir = tempfile::tempdir().unwrap();
        let plain = checkpoint(dir.path(), &config);
        let weights = Weights::open(dir.path()).unwrap();
        let plain = plain.packed(weights.config().expected_tensors(), StorageDtype::Q8_0);
        let expected = plain.logits(&ids);
        let exact = Plain { rounds: false, ..plain }.logits(&ids);
        let model = Transformer::mapped_in(&weights, StorageDtype::Q8_0).unwrap();
        assert_eq!(model.precision(Activations::Int8), Activations::Int8);
        for backend in Backend::here() {
            let model = model.clone().with_backend(backend);
            let off = |precision, expected| off_in(precision, &model, &ids, expected);
            let (rounded, plainly) =
                (off(Activations::Int8, &expected), off(Activations::F32, &exact));
            assert!(
                rounded < 1e-5 && plainly < 1e-5,
                "{name}, {backend:?}: {rounded:e}, {plainly:e}"
            );
            let apart = off(Activations::Int8, &exact);
            assert!(apart > 1e-3, "{name}, {backend:?}: {apart:e}, as if nothing were rounded");
        }
    }
}

#[test]
fn weights_without_a_form_for_it_are_multiplied_exactly_in_every_precision() {
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path(), &config(json!({})));
    let weights = Weights::open(dir.path()).unwrap();
    let trainable = Transformer::trainable(&weights, DType::F32, &Device::Cpu).unwrap();
    let bf16 = Transformer::mapped_in(&weights, StorageDtype::BF16).unwrap();
    for model in [trainable, bf16, Transformer::mapped(&weights).unwrap()] {
        let hidden = |precision| {
            let batch = Batch::of(&*ids, AttentionMask::Causal).unwrap().in_precision(precision);
            model.forward(&batch).unwrap().to_vec2::<f32>().unwrap()
        };
        assert_eq!(hidden(Activations::Int8), hidden(Activations::F32));
        assert_eq!(model.precision(Activations::Int8), Activations::F32);
    }
}

#[test]
fn the_variants_differ_so_that_a_field_overlooked_would_show() {
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    let logits = |own: Value| {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(dir.path(), &config(own)).logits(&ids)
    };
    let plain = logits(json!({}));
    for (name, own) in variants().into_iter().skip(1) {
        let other = logits(own);
        let same = name == "new default";
        assert_eq!(plain == other, same, "{name}");
    }
}

#[test]
fn what_generation_uses_wins_over_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let own = json!({ "eos_token_id": [2, 7], "dtype": "bfloat16", "pad_token_id": 3 });
    checkpoint(dir.path(), &config(own));
    let open = || Config::open(dir.path()).unwrap();
    assert_eq!(open().eos_token_ids, [2, 7]);
    assert_eq!(open().dtype.unwrap().name(), "bf16");
    let generation = dir.path().join("generation_config.json");
    fs::write(&generation, r#"{"eos_token_id": [9, 2], "bos_token_id": 4, "temperature": 0.6}"#)
        .unwrap();
    assert_eq!((open().eos_token_ids, open().bos_token_id), (vec![9, 2], Some(4)));
    assert_eq!(open().pad_token_id, Some(3), "what it does not say stays");
    for (text, ignored) in [
        (r#"{"eos_token_id": 48}"#, &["eos_token_id = 48"][..]),
        (r#"{"eos_token_id": -1, "pad_token_id": -1, "bos_token_id": null}"#, &[]),
    ] {
        fs::write(&generation, text).unwrap();
        assert_eq!(open().eos_token_ids, [2, 7], "what names no token says nothing");
        assert_eq!(open().ignored_ids, ignored);
    }
}
