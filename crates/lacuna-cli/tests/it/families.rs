//! Holds a checkpoint to open as what it is, whatever its family calls it, or to be refused with
//! what to do; and `inspect` and the commands that decode agree.

use candle_core::{DType, Device};
use lacuna::ConvertOptions;
use lacuna::checkpoint::{Config, Parts};
use lacuna::model::Transformer;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

struct Ran {
    status: Option<i32>,
    out: String,
    error: String,
}

fn lacuna(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_lacuna")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { status: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) }
}

/// A small checkpoint of a family's shape, under the names that it is published with, whose tokenizer has `mask` as
/// token 5.
fn checkpoint(dir: &Path, shape: &str, mask: &str, said: Value) -> String {
    let config = Config {
        vocab_size: 4096,
        hidden_size: 16,
        intermediate_size: 32,
        num_layers: 1,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 8,
        parts: Parts { qk_norm: shape == "qwen3", attention_bias: shape == "qwen2", ..Parts::NONE },
        ..Config::default()
    };
    Transformer::init(config, 7, DType::F32, &Device::Cpu).unwrap().save(dir).unwrap();
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let mut written: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    for implied in
        ["architectures", "model_type", "attention_bias", "attention_output_bias", "qk_norm"]
    {
        written.remove(implied);
    }
    written.extend(said.as_object().unwrap().clone());
    std::fs::write(dir.join("config.json"), Value::from(written).to_string()).unwrap();
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let tokenizer = std::fs::read_to_string(fixtures.join("tokenizer/tokenizer.json")).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer.replace("<[MASK_TOKEN]>", mask)).unwrap();
    dir.display().to_string()
}

/// The answer of `inspect`: mode, block, MASK.
fn inspected(model: &str) -> (String, Option<u64>, Option<u64>) {
    let ran = lacuna(&["inspect", model, "--json"]);
    assert_eq!(ran.status, Some(0), "{}", ran.error);
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    let mode = said["mode"].as_str().unwrap().to_owned();
    (mode, said["block_size"].as_u64(), said["mask_token_id"].as_u64())
}

/// Mode and block of a decode, from the first line of its trace.
fn decoded(model: &str, dir: &Path) -> (String, Option<u64>) {
    let trace = dir.join("t.jsonl").display().to_string();
    let ran = lacuna(&[
        "generate",
        "-m",
        model,
        "-q",
        "--max-new-tokens",
        "3",
        "--trace",
        &trace,
        "def f",
    ]);
    assert_eq!(ran.status, Some(0), "{}", ran.error);
    let header = std::fs::read_to_string(trace).unwrap();
    let header: Value = serde_json::from_str(header.lines().next().unwrap()).unwrap();
    (header["mode"].as_str().unwrap().to_owned(), header["settings"]["block_size"].as_u64())
}

/// The file that a converter which knows nothing of modes makes of a checkpoint.
fn by_others(dir: &Path, name: &str) -> String {
    let plain = dir.join("plain");
    std::fs::create_dir_all(&plain).unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(dir.join(file), plain.join(file)).unwrap();
    }
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let mut config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let named = config.remove("architectures").unwrap()[0].as_str().unwrap().to_owned();
    let shape = match named.as_str() {
        name if name.contains("SDAR") || name.contains("Qwen3") => "qwen3",
        name if name.contains("Qwen") => "qwen2",
        _ => "llama",
    };
    for key in ["block_size", "bd_size", "mask_token_id"] {
        config.remove(key);
    }
    config.insert("model_type".into(), shape.into());
    std::fs::write(plain.join("config.json"), Value::from(config).to_string()).unwrap();
    let file = dir.join(name);
    lacuna::convert(&plain, &file, &ConvertOptions::default(), &|_, _| {}).unwrap();
    // They don't write our key; theirs are the same.
    let bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(11).position(|part| part == b"lacuna.mode").expect("the key is there");
    let mut theirs = bytes;
    theirs[at..at + 11].copy_from_slice(b"others.mode");
    std::fs::write(&file, theirs).unwrap();
    file.display().to_string()
}

#[test]
fn every_family_opens_as_block_diffusion_in_both_formats() {
    for (shape, mask, said, name, block) in [
        (
            "llama",
            "<[MASK_TOKEN]>",
            json!({"architectures": ["StableDiffcoderForCausalLM"], "model_type": "llama"}),
            "Stable-DiffCoder-8B.gguf",
            4,
        ),
        (
            "qwen3",
            "<|MASK|>",
            json!({"architectures": ["SDARForCausalLM"], "model_type": "sdar"}),
            "SDAR-1.7B-Chat.gguf",
            4,
        ),
        (
            "qwen3",
            "<|MASK|>",
            json!({"architectures": ["SDARForCausalLM"], "model_type": "sdar", "block_size": 8}),
            "SDAR-4B-Chat-b8.Q8_0.gguf",
            8,
        ),
        (
            "qwen2",
            "<|mask|>",
            json!({"architectures": ["A2DQwen2LMHeadModel"], "model_type": "a2d-qwen2"}),
            "Qwen2.5-Coder-0.5B-bd3lm.gguf",
            32,
        ),
        (
            "qwen3",
            "<|mask|>",
            json!({"architectures": ["A2DQwen3LMHeadModel"], "model_type": "a2d-qwen3"}),
            "Qwen3-0.6B-bd3lm.gguf",
            32,
        ),
        (
            "qwen2",
            "|<MASK>|",
            json!({"architectures": ["Fast_dLLM_QwenForCausalLM"],
            "model_type": "Fast_dLLM_Qwen", "bd_size": 32}),
            "Fast_dLLM_v2_1.5B.gguf",
            32,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let folder = checkpoint(dir.path(), shape, mask, said);
        let (ours, theirs) = (dir.path().join("ours.gguf"), by_others(dir.path(), name));
        lacuna::convert(dir.path(), &ours, &ConvertOptions::default(), &|_, _| {}).unwrap();
        for model in [&folder, &ours.display().to_string(), &theirs] {
            assert_eq!(
                inspected(model),
                ("block-diffusion".into(), Some(block), Some(5)),
                "{model}"
            );
            assert_eq!(decoded(model, dir.path()), ("fused".into(), Some(block)), "{model}");
        }
    }
}

#[test]
fn sdar_s_block_is_in_the_name_of_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let said = json!({"architectures": ["SDARForCausalLM"], "model_type": "sdar"});
    for (name, block) in [
        ("SDAR-8B-Chat-b64", 64),
        ("models--JetLM--SDAR-1.7B-Chat-b16/snapshots/0123abcd", 16),
        ("SDAR-4B-Chat", 4),
    ] {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let model = checkpoint(&folder, "qwen3", "<|MASK|>", said.clone());
        assert_eq!(inspected(&model), ("block-diffusion".into(), Some(block), Some(5)), "{name}");
    }
}

#[test]
fn a_checkpoint_saved_again_under_its_shape_is_known_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let plain = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"});
    for (name, mode) in
        [("Stable-DiffCoder-8B-Instruct", "block-diffusion"), ("mine", "autoregressive")]
    {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let model = checkpoint(&folder, "llama", "<[MASK_TOKEN]>", plain.clone());
        assert_eq!(inspected(&model).0, mode, "{name}");
    }
}

#[test]
fn a_gguf_file_that_goes_by_a_family_s_name_is_never_autoregressive() {
    let dir = tempfile::tempdir().unwrap();
    for (name, shape, mask, block, id) in [
        ("SDAR-1.7B-Chat-b8-Q8_0.gguf", "qwen3", "<|mask|>", 8, Some(5)),
        ("SDAR-4B.gguf", "qwen3", "<[other]>", 4, None),
        ("sdar_1.7b.gguf", "llama", "<|MASK|>", 4, Some(5)),
        ("Fast_dLLM_v2_1.5B.gguf", "qwen2", "<[other]>", 32, None),
        ("tiny-a2d-f16.gguf", "llama", "<|mask|>", 32, Some(5)),
        ("Stable-DiffCoder-8B-Instruct.gguf", "llama", "<[other]>", 4, None),
        ("mine.gguf", "llama", "<[MASK_TOKEN]>", 4, Some(5)),
    ] {
        let said = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"});
        let said = match shape {
            "qwen2" => json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}),
            "qwen3" => json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}),
            _ => said,
        };
        let folder = dir.path().join(format!("of {name}"));
        std::fs::create_dir_all(&folder).unwrap();
        checkpoint(&folder, shape, mask, said);
        let file = by_others(&folder, name);
        assert_eq!(inspected(&file), ("block-diffusion".into(), Some(block), id), "{name}");
        let args = ["generate", "-m", &file, "-q", "--max-new-tokens", "3", "def f"];
        let ran = lacuna(&args);
        match id {
            Some(_) => assert_eq!(ran.status, Some(0), "{name}: {}", ran.error),
            None => assert!(ran.error.contains("--mask-id N"), "{name}: {}", ran.error),
        }
    }
}

#[test]
fn a_checkpoint_that_names_mask_and_no_block_says_how_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let plain = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"});
    let mut named = plain.clone();
    named["mask_token_id"] = 5.into();
    for (said, mask) in [(named, "<[other]>"), (plain, "<|MASK|>")] {
        let model = checkpoint(dir.path(), "llama", mask, said);
        let ran = lacuna(&["generate", "-m", &model, "--max-new-tokens", "3", "def f"]);
        assert!(ran.status == Some(0) && ran.error.contains("no block size"), "{}", ran.error);
    }
}

#[test]
fn a_mask_that_nothing_names_is_asked_for_by_flag() {
    let dir = tempfile::tempdir().unwrap();
    let said =
        json!({"architectures": ["SDARForCausalLM"], "model_type": "sdar", "mask_token_id": -1});
    let model = checkpoint(dir.path(), "qwen3", "<[other]>", said);
    assert_eq!(inspected(&model), ("block-diffusion".into(), Some(4), None));
    let args = ["generate", "-m", &model, "-q", "--max-new-tokens", "3", "def f"];
    let ran = lacuna(&args);
    assert!(ran.status == Some(1) && ran.error.contains("--mask-id N"), "{}", ran.error);
    let ran = lacuna(&[&args[..], &["--mask-id", "5"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.error);
}

#[test]
fn a_diffusion_model_that_is_not_computed_is_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for (architecture, model_type) in [
        ("LLaDAModelLM", "llada"),
        ("DreamModel", "Dream"),
        ("Qwen2ForCausalLM", "Dream"),
        ("CoDALanguageModel", "CoDA"),
        ("SDARMoeForCausalLM", "sdar_moe"),
        ("LLaDA2MoeModelLM", "llada2_moe"),
    ] {
        let said = json!({"architectures": [architecture], "model_type": model_type});
        let model = checkpoint(dir.path(), "qwen2", "<|mask|>", said);
        let out = dir.path().join("out.gguf").display().to_string();
        for args in
            [&["inspect", &model][..], &["generate", "-m", &model, "x"], &["convert", &model, &out]]
        {
            let ran = lacuna(args);
            assert_eq!(ran.status, Some(1), "{args:?}: {}", ran.out);
            assert!(ran.error.contains("diffusion model"), "{args:?}: {}", ran.error);
        }
    }
}

#[test]
fn an_autoregressive_model_stays_one_although_its_tokenizer_has_mask() {
    let dir = tempfile::tempdir().unwrap();
    let said = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"});
    let folder = checkpoint(dir.path(), "llama", "<[MASK_TOKEN]>", said);
    let gguf = dir.path().join("m.gguf");
    lacuna::convert(dir.path(), &gguf, &ConvertOptions::default(), &|_, _| {}).unwrap();
    for model in [&folder, &gguf.display().to_string()] {
        assert_eq!(inspected(model).0, "autoregressive");
        assert_eq!(decoded(model, dir.path()).0, "autoregressive");
    }
}

#[test]
fn an_id_that_is_ignored_is_said_once_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let said = json!({"architectures": ["LlamaForCausalLM"], "pad_token_id": -1, "eos_token_id": [2, 70000]});
    let model = checkpoint(dir.path(), "llama", "<[MASK_TOKEN]>", said);
    let ran = lacuna(&["generate", "-m", &model, "-q", "--max-new-tokens", "3", "def f"]);
    assert_eq!(ran.status, Some(0), "{}", ran.error);
    assert!(
        ran.error.contains("eos_token_id = 70000") && !ran.error.contains("pad"),
        "{}",
        ran.error
    );
    let ran = lacuna(&["inspect", &model, "--json"]);
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(said["ignored_ids"], json!(["eos_token_id = 70000"]));
    assert_eq!(said["hole_marks"], "seed-coder: suffix, prefix, middle");
}
