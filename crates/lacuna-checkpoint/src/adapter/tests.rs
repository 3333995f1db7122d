//! Tests adapters against those that PEFT wrote, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use super::*;
use crate::Weights;
use crate::safetensors::parse_safetensors;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden")
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn what_peft_wrote_is_read_and_merges_to_what_peft_merged() {
    let adapter = AdapterWeights::open(&golden().join("adapter")).unwrap();
    let AdapterConfig { rank, alpha, targets, base, base_hash } = adapter.config();
    assert_eq!((*rank, *alpha, base.as_deref()), (4, 6.0, Some("tiny_tied")));
    assert_eq!(*base_hash, None);
    assert_eq!(targets, &[Field::Down, Field::Q, Field::V]);
    assert_eq!(adapter.names().count(), 3 * 4);
    let weights = Weights::open(golden().join("models/tiny_tied")).unwrap();
    let merged = golden().join("adapter/merged.safetensors");
    let mut compared = 0;
    for (text, expected) in candle_core::safetensors::load(merged, &Device::Cpu).unwrap() {
        let Some(name) = of_hugging_face_name(&text) else { continue };
        let weight = weights.tensor(&text, DType::F32, &Device::Cpu).unwrap();
        let found = adapter.merged(name, &weight).unwrap();
        let [a, b] = adapter.factors(name).unwrap().unwrap();
        let (rows, cols) = weight.dims2().unwrap();
        let (w, a, b) = (values(&weight), values(&a), values(&b));
        for (at, (found, expected)) in values(&found).iter().zip(values(&expected)).enumerate() {
            // The definition, in f64; sums of four products in f32 may be some parts in 2²⁴ of the largest term off.
            let (row, col) = (at / cols, at % cols);
            assert!(row < rows);
            let product = |r: usize| f64::from(b[row * 4 + r]) * f64::from(a[r * cols + col]);
            let defined = f64::from(w[at]) + 1.5 * (0..4).map(product).sum::<f64>();
            for value in [f64::from(*found), f64::from(expected)] {
                assert!((value - defined).abs() < 1e-6, "{text}[{at}]: {value}, {defined}");
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 5);
}

#[test]
fn what_is_written_has_peft_s_names_and_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = AdapterWeights::open(&golden().join("adapter")).unwrap();
    let mut tensors = Vec::new();
    for name in theirs.names() {
        let [a, b] = theirs.factors(name).unwrap().unwrap();
        tensors.push((adapter_tensor(name, 'A'), a));
        tensors.push((adapter_tensor(name, 'B'), b));
    }
    let config = AdapterConfig { base_hash: Some("0f".repeat(32)), ..theirs.config().clone() };
    save_adapter(folder.path(), &config, tensors).unwrap();
    let ours = AdapterWeights::open(folder.path()).unwrap();
    assert_eq!(ours.config().base_hash, config.base_hash);
    let sorted = |adapter: &AdapterWeights| {
        let mut fields: Vec<_> =
            adapter.config().targets.iter().map(|f| target_module(*f).unwrap()).collect();
        fields.sort();
        fields
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
    let header = |path: PathBuf| {
        let entries = parse_safetensors(&std::fs::read(path).unwrap()).unwrap();
        let mut names: Vec<_> = entries.into_iter().map(|e| (e.name, e.shape)).collect();
        names.sort();
        names
    };
    assert_eq!(header(folder.path().join(WEIGHTS)), header(golden().join("adapter").join(WEIGHTS)));
    // Every key that is written is one of PEFT's, with a value that PEFT wrote for the same adapter.
    let json = |folder: &Path| -> Map<String, Value> {
        serde_json::from_slice(&std::fs::read(folder.join(CONFIG)).unwrap()).unwrap()
    };
    let (ours, theirs) = (json(folder.path()), json(&golden().join("adapter")));
    for (key, value) in &ours {
        assert_eq!(theirs.get(key), Some(value), "{key}");
    }
}

#[test]
fn adapters_of_other_kinds_and_damaged_ones_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let original = std::fs::read_to_string(golden().join("adapter").join(CONFIG)).unwrap();
    let weights = std::fs::read(golden().join("adapter").join(WEIGHTS)).unwrap();
    let open = |config: &str, weights: &[u8]| {
        std::fs::write(folder.path().join(CONFIG), config).unwrap();
        std::fs::write(folder.path().join(WEIGHTS), weights).unwrap();
        AdapterWeights::open(folder.path()).map(|_| ()).unwrap_err().to_string()
    };
    for (old, new, words) in [
        ("\"LORA\"", "\"IA3\"", "peft_type"),
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 2}", "rank_pattern"),
        ("\"r\": 4", "\"r\": 0", "r = 0"),
        ("\"r\": 4", "\"r\": 3", "r = 3"),
        ("\"lora_alpha\": 6", "\"lora_alpha\": \"six\"", "lora_alpha"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
    ] {
        assert!(original.contains(old), "{old}");
        let error = open(&original.replace(old, new), &weights);
        assert!(error.contains(words), "{new}: {error}");
    }
    assert!(open("{", &weights).contains(CONFIG));
    for cut in [0, 7, 100, weights.len() - 1] {
        assert!(open(&original, &weights[..cut]).contains(WEIGHTS), "{cut}");
    }
    let renamed = String::from_utf8_lossy(&weights[..4096]).contains("lora_A");
    assert!(renamed, "names stand at the file's head");
    let mut other = weights.clone();
    let at = weights.windows(6).position(|w| w == b"lora_A").unwrap();
    other[at..at + 6].copy_from_slice(b"lora_C");
    assert!(open(&original, &other).contains("lora_C"));
}
