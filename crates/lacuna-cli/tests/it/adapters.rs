//! Runs `lacuna convert --adapter` and `lacuna average`: adapters of PEFT's form, and means of checkpoints.

use candle_core::{DType, Device};
use lacuna::checkpoint::{AdapterConfig, AdapterWeights, Weights, adapter_tensor, save_adapter};
use lacuna::model::Transformer;
use std::fs;
use std::path::PathBuf;

use crate::convert::{Folder, done, golden, refusal, values};

#[test]
fn an_adapter_that_peft_wrote_is_merged_and_gives_the_logits_that_peft_recorded() {
    let place = Folder::new();
    let recorded = golden("../adapter");
    let base = golden("tiny_tied");
    let said = done(&["convert", &base, &place.at("merged"), "--adapter", &recorded]);
    assert!(said.contains("merged"), "{said}");
    let weights = Weights::open(place.at("merged")).unwrap();
    let file = PathBuf::from(&recorded).join("merged.safetensors");
    let expected = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let flat =
        |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in expected.iter().filter(|(name, _)| *name != "logits") {
        let largest = values(&weights, name).into_iter().zip(flat(tensor));
        let largest = largest.map(|(ours, theirs)| (ours - theirs).abs()).fold(0f32, f32::max);
        // Products of four terms each, summed in f32 in another order.
        assert!(largest < 1e-6, "{name}: {largest:e} off");
    }
    let model = Transformer::resident(&weights, DType::F64, &Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..40).map(|at| at * 11 % 500 + 6).collect();
    let last: Vec<u32> = (36..40).collect();
    let text = lacuna::model::Sequence {
        tokens: &ids,
        wanted: Some(&last),
        ..lacuna::model::Sequence::default()
    };
    let batch = lacuna::model::Batch::of(text, lacuna::model::AttentionMask::Causal).unwrap();
    let logits = model.logits(&model.forward(&batch).unwrap()).unwrap();
    let theirs = flat(&expected["logits"]);
    let ours = flat(&logits.to_dtype(DType::F32).unwrap());
    let largest = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        // Theirs is a pass in f32.
        assert!((ours - theirs).abs() < 2e-5 * largest, "{ours}, {theirs}");
    }
    // A matrix without an adapter stays bit for bit, and the result may be quantized at once.
    let untouched = "model.layers.1.self_attn.o_proj.weight";
    let before = Weights::open(&base).unwrap();
    assert_eq!(values(&weights, untouched), values(&before, untouched));
    let gguf = place.at("m.gguf");
    done(&["convert", &base, &gguf, "--adapter", &recorded, "--dtype", "q8_0"]);
    let name = "model.layers.0.self_attn.q_proj.weight";
    let packed = Weights::open(&gguf).unwrap();
    let off = values(&packed, name).into_iter().zip(flat(&expected[name]));
    let off = off.map(|(ours, theirs)| (ours - theirs).abs()).fold(0f32, f32::max);
    let scale = flat(&expected[name]).iter().fold(0f32, |most, value| most.max(value.abs()));
    // Eight bits a value: half a step of the largest value of its block.
    assert!(off <= scale / 254.0 * 1.01 && off > 0.0, "{off}, {scale}");
}

#[test]
fn an_adapter_that_fits_nothing_is_refused_and_an_adapter_is_no_model() {
    let place = Folder::new();
    let (base, adapter) = (golden("tiny_tied"), golden("../adapter"));
    let out = place.at("out");
    let error = refusal(&["convert", &base, &out, "--adapter", &place.at("none")], 1);
    assert!(error.contains("adapter_config.json"), "{error}");
    let error = refusal(&["convert", &adapter, &out], 1);
    assert!(error.contains("config.json") || error.contains("--adapter"), "{error}");
    let small = place.at("small");
    fs::create_dir(&small).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(PathBuf::from(&adapter).join(name), PathBuf::from(&small).join(name)).unwrap();
    }
    // The description of a model of another shape, as training writes it beside an adapter.
    let other = fs::read_to_string(PathBuf::from(&base).join("config.json")).unwrap();
    let other = other.replace("\"intermediate_size\": 160", "\"intermediate_size\": 96");
    fs::write(PathBuf::from(&small).join("config.json"), other).unwrap();
    let error = refusal(&["convert", &base, &out, "--adapter", &small], 1);
    assert!(error.contains("another shape"), "{error}");
    assert!(!PathBuf::from(&out).exists());
}

/// The recorded adapter, its B times a factor, as one that says which weights it was trained beside.
fn adapter_beside(base: &str, factor: f64, place: &Folder) -> String {
    let recorded = AdapterWeights::open(golden("../adapter").as_ref()).unwrap();
    let mut tensors = Vec::new();
    for name in recorded.names() {
        let [a, b] = recorded.factors(name).unwrap().unwrap();
        tensors.push((adapter_tensor(name, 'A'), a));
        tensors.push((adapter_tensor(name, 'B'), (b * factor).unwrap()));
    }
    let hash = Weights::open(base).unwrap().hash().unwrap();
    let config = AdapterConfig { base_hash: Some(hash), ..recorded.config().clone() };
    let folder = place.at("adapter");
    save_adapter(folder.as_ref(), &config, tensors).unwrap();
    folder
}

#[test]
fn an_adapter_is_merged_into_the_weights_that_it_was_trained_beside_alone() {
    let place = Folder::new();
    let base = golden("tiny_tied");
    let adapter = adapter_beside(&base, 1.0, &place);
    let (merged, gguf) = (place.at("merged"), place.at("base.gguf"));
    done(&["convert", &base, &merged, "--adapter", &adapter]);
    // The same weights in another file are the same.
    done(&["convert", &base, &gguf]);
    done(&["convert", &gguf, &place.at("from-gguf"), "--adapter", &adapter]);
    // A model of the same shape with other weights is another.
    let out = place.at("wrong");
    let error = refusal(&["convert", &merged, &out, "--adapter", &adapter], 1);
    for part in ["other weights", "tiny_tied", "--any-base"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!PathBuf::from(&out).exists());
    done(&["convert", &merged, &out, "--adapter", &adapter, "--any-base"]);
    refusal(&["convert", &merged, &place.at("x"), "--any-base"], 2);
}

#[test]
fn a_merge_that_gives_no_numbers_is_refused() {
    let place = Folder::new();
    let base = golden("tiny_tied");
    let adapter = adapter_beside(&base, 1e6, &place);
    let file = PathBuf::from(&adapter).join("adapter_config.json");
    let whole = fs::read_to_string(&file).unwrap();
    assert!(whole.contains("\"lora_alpha\": 6"));
    for (alpha, words) in [("1e40", "lora_alpha"), ("1e38", "too large")] {
        fs::write(&file, whole.replace("\"lora_alpha\": 6", &format!("\"lora_alpha\": {alpha}")))
            .unwrap();
        let out = place.at("out");
        let error = refusal(&["convert", &base, &out, "--adapter", &adapter], 1);
        assert!(error.contains(words), "{alpha}: {error}");
        assert!(!PathBuf::from(&out).exists());
    }
}

#[test]
fn an_average_is_the_mean_of_every_value_and_opens_as_a_model() {
    let place = Folder::new();
    let base = golden("tiny_tied");
    let merged = place.at("merged");
    done(&["convert", &base, &merged, "--adapter", &golden("../adapter")]);
    let out = place.at("mean");
    let said = done(&["average", &base, &merged, "--out", &out]);
    assert!(said.contains("the mean of 2 checkpoints"), "{said}");
    let [one, other, mean] = [&base, &merged, &out].map(|path| Weights::open(path).unwrap());
    for name in mean.names() {
        let pairs = values(&one, name).into_iter().zip(values(&other, name));
        let expected = pairs.map(|(a, b)| ((f64::from(a) + f64::from(b)) / 2.0) as f32);
        assert_eq!(values(&mean, name), expected.collect::<Vec<_>>(), "{name}");
    }
    done(&["inspect", &out, "--verify"]);
    let error = refusal(&["average", &base, &merged, "--out", &out], 1);
    assert!(error.contains("exists already"), "{error}");
    done(&["average", &base, &merged, "--out", &out, "--force", "--quiet"]);
    let error = refusal(&["average", &base, &golden("tiny_untied"), "--out", &place.at("no")], 1);
    assert!(error.contains("other tensors"), "{error}");
    let error = refusal(&["average", &place.at("nowhere"), "--out", &place.at("no")], 1);
    assert!(error.contains("holds no checkpoints"), "{error}");
    assert!(!PathBuf::from(place.at("no")).exists());
}
