//! Writes checkpoints and reads them again, in both formats and from each into the other.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lacuna_checkpoint::{
    Attention, Config, Format, GgufOptions, Mode, Outgoing, Parts, Result, RopeScaling,
    SaveOptions, StorageDtype, Weights, save_gguf, save_safetensors, save_tensors,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models").join(name)
}

fn bits(weights: &Weights, name: &str) -> Vec<u32> {
    let tensor = weights.tensor(name, DType::F32, &Device::Cpu).expect("a tensor of the model");
    let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).expect("on the CPU");
    values.into_iter().map(f32::to_bits).collect()
}

fn saved(weights: &Weights, dir: &Path, options: &SaveOptions) -> Vec<PathBuf> {
    save_safetensors(dir, weights.config(), weights.outgoing(), options).expect("room on the disk")
}

/// Writes a fresh autoregressive model, tied, no two of whose sizes are equal; returns the number of its parameters.
fn fresh_autoregressive(dir: &Path) -> u64 {
    let config = Config {
        vocab_size: 300,
        hidden_size: 48,
        intermediate_size: 100,
        num_layers: 5,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        tie_word_embeddings: true,
        mode: Mode::Autoregressive,
        ..Config::default()
    };
    let tensors = config.expected_tensors().map(|(name, shape)| {
        (name, Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("room in memory"))
    });
    save_safetensors(dir, &config, tensors, &SaveOptions::default()).unwrap();
    let attention = 64 * 48 + 2 * (32 * 48) + 48 * 64;
    let feed_forward = 3 * 100 * 48;
    let norms = 2 * 48;
    let parameters = 300 * 48 + 5 * (attention + feed_forward + norms) + 48;
    assert_eq!(parameters, 133_008);
    parameters
}

#[test]
fn checkpoints_open_whole() {
    let dir = tempfile::tempdir().unwrap();
    let parameters = fresh_autoregressive(dir.path());
    for (path, tied, parameters) in [
        (golden("tiny_untied"), false, 229_952),
        (golden("tiny_tied"), true, 197_184),
        (dir.path().to_owned(), true, parameters),
    ] {
        let weights = Weights::open(&path).unwrap();
        let report = weights.report();
        assert_eq!(weights.config().tie_word_embeddings, tied, "{}", path.display());
        assert_eq!(report.parameters, parameters, "{}", path.display());
        assert_eq!(report.parameters, weights.config().parameter_count());
        assert_eq!(report.format, Format::Safetensors);
        assert_eq!(report.bytes, report.bytes_by_dtype.values().sum::<u64>());
        assert!(report.missing.is_empty() && report.extra.is_empty(), "{report:?}");
    }
    assert_eq!(Weights::open(dir.path()).unwrap().config().mode, Mode::Autoregressive);
}

#[test]
fn tensors_are_those_that_the_safetensors_crate_reads() {
    let dir = golden("tiny_untied");
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let oracle = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weights = Weights::open(&dir).unwrap();
    assert_eq!(weights.names().count(), oracle.len());
    for (name, view) in oracle.tensors() {
        assert_eq!(weights.shape(&name).unwrap(), view.shape(), "{name}");
        let values = weights.tensor(&name, DType::F32, &Device::Cpu).unwrap();
        let stored = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert_eq!(values.flatten_all().unwrap().to_vec1::<f32>().unwrap(), Vec::from_iter(stored));
    }
}

#[test]
fn a_tied_head_is_the_embedding() {
    let weights = Weights::open(golden("tiny_tied")).unwrap();
    assert_eq!(bits(&weights, "lm_head.weight"), bits(&weights, "model.embed_tokens.weight"));
    assert!(weights.tensor("lm_head.bias", DType::F32, &Device::Cpu).is_err());
}

#[test]
fn a_missing_head_means_tied_whatever_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(golden("tiny_tied").join("config.json")).unwrap();
    let untied = text.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    assert_ne!(text, untied);
    fs::write(dir.path().join("config.json"), untied).unwrap();
    let weights = golden("tiny_tied").join("model.safetensors");
    fs::copy(weights, dir.path().join("model.safetensors")).unwrap();
    assert!(Weights::open(dir.path()).unwrap().config().tie_word_embeddings);
}

#[test]
fn a_round_trip_is_bit_equal_and_deterministic() {
    for name in ["tiny_untied", "tiny_tied"] {
        let weights = Weights::open(golden(name)).unwrap();
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let paths = saved(&weights, a.path(), &SaveOptions::default());
        assert_eq!(paths.len(), 2);
        let again = Weights::open(a.path()).unwrap();
        let mut config = again.config().clone();
        config.extra = weights.config().extra.clone();
        assert_eq!(&config, weights.config());
        weights.names().for_each(|n| assert_eq!(bits(&again, n), bits(&weights, n), "{n}"));

        saved(&again, b.path(), &SaveOptions::default());
        for file in ["model.safetensors", "config.json"] {
            let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
            assert_eq!(read(a.path()), read(b.path()), "{file}");
        }
        let written = fs::read(a.path().join("model.safetensors")).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&written).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(
            safetensors::SafeTensors::deserialize(&written).unwrap().len(),
            again.names().count()
        );
    }
}

#[test]
fn every_float_dtype_survives_its_own_round_trip() {
    let weights = Weights::open(golden("tiny_tied")).unwrap();
    for dtype in [DType::BF16, DType::F16, DType::F64] {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        saved(&weights, a.path(), &SaveOptions { dtype: Some(dtype), ..Default::default() });
        let converted = Weights::open(a.path()).unwrap();
        assert_eq!(converted.report().dtype, StorageDtype::from_candle(dtype));
        assert_eq!(converted.config().dtype, StorageDtype::from_candle(dtype));
        saved(&converted, b.path(), &SaveOptions::default());
        let read = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert_eq!(read(a.path()), read(b.path()), "{dtype:?}");
    }
}

#[test]
fn shards_hold_the_same_tensors_and_replace_a_single_file() {
    let weights = Weights::open(golden("tiny_untied")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    saved(&weights, dir.path(), &SaveOptions::default());
    let options = SaveOptions { max_shard_bytes: 200_000, ..Default::default() };
    let paths = saved(&weights, dir.path(), &options);
    assert!(paths.len() > 4, "{paths:?}");
    assert!(!dir.path().join("model.safetensors").exists(), "one checkpoint a directory");
    assert!(dir.path().join("model-00001-of-00006.safetensors").exists(), "{paths:?}");
    let again = Weights::open(dir.path()).unwrap();
    weights.names().for_each(|n| assert_eq!(bits(&again, n), bits(&weights, n), "{n}"));

    saved(&weights, dir.path(), &SaveOptions::default());
    assert!(!dir.path().join("model.safetensors.index.json").exists(), "and back");
    Weights::open(dir.path()).unwrap();
}

#[test]
fn a_failure_leaves_nothing_half_written() {
    let weights = Weights::open(golden("tiny_tied")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fn fails(tensor: Outgoing<'_>) -> Outgoing<'_> {
        let wrong = || Ok(Tensor::zeros(3, DType::F32, &Device::Cpu)?);
        match tensor.name() {
            "model.norm.weight" => {
                Outgoing::new("model.norm.weight", StorageDtype::F32, [64], wrong)
            }
            _ => tensor,
        }
    }
    let save = || -> Result<_> {
        let tensors = weights.outgoing().map(fails);
        save_safetensors(dir.path(), weights.config(), tensors, &SaveOptions::default())
    };
    let error = save().unwrap_err().to_string();
    assert!(error.contains("model.norm.weight: was read as [3]"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "not even a temporary file");
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_takes_no_files_is_named() {
    let weights = Weights::open(golden("tiny_tied")).unwrap();
    let options = SaveOptions::default();
    let dir = Path::new("/proc/self/task");
    let error = save_safetensors(dir, weights.config(), weights.outgoing(), &options).unwrap_err();
    assert!(error.to_string().contains("cannot write it"), "{error}");
}

#[test]
fn only_the_tensors_of_the_configuration_are_written() {
    let config = Config { tie_word_embeddings: true, ..Config::default() };
    let zeros = |(name, shape): (String, Vec<usize>)| {
        (name, Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
    };
    let tensors: Vec<(String, Tensor)> = config.expected_tensors().map(zeros).collect();
    let dir = tempfile::tempdir().unwrap();
    let save = |tensors: Vec<(String, Tensor)>| {
        save_safetensors(dir.path(), &config, tensors, &SaveOptions::default())
            .map_err(|error| error.to_string())
    };
    let error = save(tensors[1..].to_vec()).unwrap_err();
    assert!(error.contains("without 1 tensor: model.embed_tokens.weight"), "{error}");
    let mut twice = tensors.clone();
    twice.push(tensors[0].clone());
    assert!(save(twice).unwrap_err().contains("given twice"));
    let mut integer = tensors.clone();
    integer[0].1 = integer[0].1.to_dtype(DType::U32).unwrap();
    assert!(save(integer).unwrap_err().contains("model.embed_tokens.weight"));
    let mut named = tensors.clone();
    named.push(("lm_head.weight".into(), tensors[0].1.clone()));
    assert!(save(named).unwrap_err().contains("lm_head.weight"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    save(tensors).unwrap();
}

fn gguf(weights: &Weights, path: &Path, dtype: StorageDtype) -> Weights {
    let tokenizer = fs::read_to_string(golden("tiny_tied").join("tokenizer.json")).expect("golden");
    let options = GgufOptions {
        dtype: Some(dtype),
        name: "tiny",
        tokenizer_json: Some(&tokenizer),
        chat_template: Some("{{ messages }}"),
        files: &[],
        metadata: None,
    };
    save_gguf(path, weights.config(), weights.outgoing(), &options).expect("room on the disk");
    let again = Weights::open(path).expect("what was written opens");
    assert_eq!(again.tokenizer_json().expect("well formed"), Some(tokenizer));
    assert_eq!(again.chat_template().as_deref(), Some("{{ messages }}"));
    again
}

/// A configuration without the fields that GGUF has no key for.
fn comparable(config: &Config) -> Config {
    Config { dtype: None, extra: Default::default(), ..config.clone() }
}

#[test]
fn gguf_in_f32_gives_the_same_bits_back() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny_untied", "tiny_tied"] {
        let weights = Weights::open(golden(name)).unwrap();
        let again = gguf(&weights, &dir.path().join("m.gguf"), StorageDtype::F32);
        assert_eq!(comparable(again.config()), comparable(weights.config()));
        assert_eq!(again.report().format, Format::Gguf);
        weights.names().for_each(|n| assert_eq!(bits(&again, n), bits(&weights, n), "{n}"));
    }
}

#[test]
fn gguf_rounds_each_value_to_its_format() {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::open(golden("tiny_untied")).unwrap();
    // Values are off by at most half a step: of the mantissa relative to the value, of the block's scale relative to
    // its largest value (127 steps of q8_0; 8 of q4_0, whose far end is a whole step off).
    for (dtype, relative, of_largest) in [
        (StorageDtype::F16, 2f32.powi(-11), 2f32.powi(-25)),
        (StorageDtype::BF16, 2f32.powi(-8), 0.0),
        (StorageDtype::Q8_0, 2f32.powi(-10), 0.5 / 127.0),
        (StorageDtype::Q4_0, 2f32.powi(-10), 1.0 / 8.0),
    ] {
        let again = gguf(&weights, &dir.path().join("m.gguf"), dtype);
        assert_eq!(again.dtype("model.layers.0.mlp.up_proj.weight"), Some(dtype));
        assert_eq!(again.dtype("model.norm.weight"), Some(StorageDtype::F32));
        for name in weights.names() {
            let (exact, rounded) = (bits(&weights, name), bits(&again, name));
            for (exact, rounded) in exact.chunks(32).zip(rounded.chunks(32)) {
                let exact: Vec<f32> = exact.iter().map(|&b| f32::from_bits(b)).collect();
                let largest = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
                for (x, &y) in exact.iter().zip(rounded) {
                    let off = (x - f32::from_bits(y)).abs();
                    let allowed = relative * largest.max(x.abs()) + of_largest * largest;
                    assert!(off <= allowed * 1.001, "{dtype} {name}: {x} became {off} off");
                }
            }
        }
    }
}

#[test]
fn a_matrix_is_its_tensor_in_every_format_and_layout() {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::open(golden("tiny_untied")).unwrap();
    let same = |weights: &Weights| {
        for name in weights.names().filter(|name| weights.shape(name).unwrap().len() == 2) {
            let matrix =
                weights.matrix(name).unwrap().to_tensor(lacuna_kernels::Backend::cpu()).unwrap();
            let values = matrix.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(Vec::from_iter(values.iter().map(|x| x.to_bits())), bits(weights, name));
        }
        assert!(weights.matrix("model.norm.weight").is_err());
    };
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        saved(&weights, dir.path(), &SaveOptions { dtype: Some(dtype), ..Default::default() });
        same(&Weights::open(dir.path()).unwrap());
    }
    for dtype in [StorageDtype::F32, StorageDtype::BF16, StorageDtype::Q8_0, StorageDtype::Q4_0] {
        same(&gguf(&weights, &dir.path().join("m.gguf"), dtype));
    }
}

#[test]
fn gguf_keeps_every_variant_of_the_configuration() {
    let block_diffusion =
        Mode::BlockDiffusion { block_size: 8.try_into().unwrap(), mask_token_id: Some(7) };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = Config { num_layers: 1, rope_theta: 500_000.0, ..Config::default() };
    let biased = Parts { attention_bias: true, ..Parts::NONE };
    let normed = Parts { qk_norm: true, ..Parts::NONE };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for config in [
        plain.clone(),
        Config { mode: block_diffusion, eos_token_ids: vec![2, 9], ..plain.clone() },
        Config { mode: block_diffusion, attention: Attention::Full, ..plain.clone() },
        Config { mode: block_diffusion, attention: Attention::Causal, ..plain.clone() },
        Config { rope_scaling: llama3, head_dim: 128, ..plain.clone() },
        Config { rope_scaling: RopeScaling::Linear { factor: 2.0 }, ..plain.clone() },
        Config { parts: biased, tie_word_embeddings: true, ..plain.clone() },
        Config { parts: normed, head_dim: 16, ..plain.clone() },
    ] {
        // Every value differs, so that a permutation that is not undone shows.
        let tensors: Vec<(String, Tensor)> = config
            .expected_tensors()
            .map(|(name, shape)| {
                let count = shape.iter().product::<usize>() as f32;
                let values = Tensor::arange(0f32, count, &Device::Cpu).unwrap();
                (name, values.reshape(shape).unwrap())
            })
            .collect();
        let options =
            GgufOptions { dtype: Some(StorageDtype::F32), name: "t", ..Default::default() };
        save_gguf(&path, &config, tensors.clone(), &options).unwrap();
        let again = Weights::open(&path).unwrap();
        assert_eq!(again.config(), &config);
        assert_eq!(again.tokenizer_json().unwrap(), None);
        for (name, tensor) in tensors {
            let read = again.tensor(&name, DType::F32, &Device::Cpu).unwrap();
            let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(read), flat(tensor), "{name}");
        }
    }
}

#[test]
fn an_attention_that_a_gguf_file_names_and_nobody_knows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mode = Mode::BlockDiffusion { block_size: 8.try_into().unwrap(), mask_token_id: Some(7) };
    let config = Config { num_layers: 1, mode, attention: Attention::Full, ..Config::default() };
    let tensors = config.expected_tensors();
    let tensors = tensors
        .map(|(name, shape)| (name, Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()));
    let tensors: Vec<(String, Tensor)> = tensors.collect();
    save_gguf(&path, &config, tensors, &GgufOptions { name: "t", ..Default::default() }).unwrap();
    assert_eq!(Weights::open(&path).unwrap().config().attention, Attention::Full);
    let mut bytes = std::fs::read(&path).unwrap();
    let key = b"lacuna.attention";
    let at = bytes.windows(key.len()).position(|part| part == key).unwrap() + key.len();
    // The value's type, its length, its text.
    assert_eq!(bytes[at + 12..at + 16], *b"full");
    bytes[at + 12..at + 16].copy_from_slice(b"fill");
    std::fs::write(&path, &bytes).unwrap();
    let error = Weights::open(&path).unwrap_err().to_string();
    assert!(error.contains("lacuna.attention = fill"), "{error}");
    assert!(error.contains("block-causal, full, causal"), "{error}");
    // A text's type made that of a number: the length is its value then.
    bytes[at] = 10;
    std::fs::write(&path, &bytes).unwrap();
    assert!(Weights::open(&path).is_err());
}

#[test]
fn candle_reads_the_gguf_that_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let weights = Weights::open(golden("tiny_untied")).unwrap();
    gguf(&weights, &path, StorageDtype::Q8_0);
    let mut file = fs::File::open(&path).unwrap();
    let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
    let metadata = |key: &str| content.metadata[key].to_u32().unwrap();
    assert_eq!(metadata("llama.attention.head_count_kv"), 2);
    assert_eq!(metadata("lacuna.block_size"), 4);
    let up = content.tensor(&mut file, "blk.0.ffn_up.weight", &Device::Cpu).unwrap();
    let ours = weights.tensor("model.layers.0.mlp.up_proj.weight", DType::F32, &Device::Cpu);
    let theirs = up.dequantize(&Device::Cpu).unwrap();
    let off = (ours.unwrap() - theirs).unwrap().abs().unwrap().max_all().unwrap();
    assert!(off.to_scalar::<f32>().unwrap() < 1e-2);
}

#[test]
fn tensors_of_no_model_are_written_as_the_tensor_library_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |shape: &[usize], dtype| {
        let count: usize = shape.iter().product();
        let values = Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap();
        values.reshape(shape).unwrap().to_dtype(dtype).unwrap()
    };
    let tensors = vec![
        ("b.first_moment".to_owned(), tensor(&[2, 3], DType::F32)),
        ("a.master".to_owned(), tensor(&[5], DType::BF16)),
        ("c.bytes".to_owned(), tensor(&[7], DType::U8)),
        ("b.second_moment".to_owned(), tensor(&[2, 3], DType::F32)),
        ("a \"quoted\"".to_owned(), tensor(&[1, 1, 4], DType::F64)),
    ];
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let by_name: std::collections::HashMap<_, _> = tensors.iter().cloned().collect();
    candle_core::safetensors::save(&by_name, &theirs).unwrap();
    save_tensors(&ours, tensors).unwrap();
    assert_eq!(fs::read(&ours).unwrap(), fs::read(theirs).unwrap());
    let integers = vec![("d".to_owned(), tensor(&[2], DType::U32))];
    assert!(save_tensors(&ours, integers).unwrap_err().to_string().contains("U32"));
}
