//! Runs `lacuna convert`: what goes in comes out, elsewhere and in another form.

use crate::support::lacuna;
use candle_core::{DType, Device};
use lacuna::checkpoint::{Config, Mode, Name, StorageDtype, Weights};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn golden(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models");
    root.join(name).display().to_string()
}

pub(crate) fn done(args: &[&str]) -> String {
    let output = lacuna(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn refusal(args: &[&str], status: i32) -> String {
    let output = lacuna(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// Paths below a temporary directory.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Names of everything below, hidden ones too.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn values(weights: &Weights, name: &str) -> Vec<f32> {
    let tensor = weights.tensor(name, DType::F32, &Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn same_bits(a: &str, b: &str) {
    let (a, b) = (Weights::open(a).unwrap(), Weights::open(b).unwrap());
    assert_eq!(Vec::from_iter(a.names()), Vec::from_iter(b.names()));
    for name in a.names() {
        let bits = |weights| values(weights, name).into_iter().map(f32::to_bits);
        assert!(bits(&a).eq(bits(&b)), "{name}");
    }
}

#[test]
fn safetensors_to_safetensors_is_bit_equal_with_everything_beside_it() {
    let folder = Folder::new();
    for model in ["tiny_untied", "tiny_tied"] {
        let (from, to) = (golden(model), folder.at(model));
        done(&["convert", &from, &to, "--quiet"]);
        let read = |dir: &str, file: &str| fs::read(Path::new(dir).join(file)).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(read(&from, file), read(&to, file), "{file}");
        }
        same_bits(&from, &to);
        // Again, from what was written: every byte.
        let again = folder.at("again");
        done(&["convert", &to, &again, "--quiet", "--force"]);
        for file in ["model.safetensors", "config.json"] {
            assert_eq!(read(&to, file), read(&again, file), "{file}");
        }
    }
    assert_eq!(folder.names(), ["again", "tiny_tied", "tiny_untied"], "nothing temporary is left");
}

#[test]
fn gguf_and_back_keeps_mode_ids_tokenizer_and_template() {
    let folder = Folder::new();
    let (from, gguf, back) = (golden("tiny_untied"), folder.at("m.gguf"), folder.at("back"));
    done(&["convert", &from, &gguf]);
    done(&["convert", &gguf, &back]);
    same_bits(&from, &back);
    let config = |path: &str| {
        let config = Weights::open(path).unwrap().config().clone();
        Config { extra: Default::default(), dtype: None, ..config }
    };
    assert_eq!(config(&from), config(&back));
    assert_eq!(config(&from), config(&gguf));
    assert!(matches!(config(&gguf).mode, Mode::BlockDiffusion { .. }));
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let read = |dir: &str| fs::read(Path::new(dir).join(file)).unwrap();
        assert_eq!(read(&from), read(&back), "{file}");
    }
}

#[test]
fn every_format_is_written_and_is_what_quantizing_at_run_time_gives() {
    let folder = Folder::new();
    let from = golden("tiny_untied");
    let stored = Weights::open(&from).unwrap();
    let packable = StorageDtype::ALL.into_iter().filter(|dtype| dtype.is_packable());
    for dtype in packable.clone() {
        let to = folder.at(&format!("{dtype}.gguf"));
        let report = done(&["convert", &from, &to, "--dtype", dtype.name()]);
        let weights = Weights::open(&to).unwrap();
        for name in stored.names().filter(|name| stored.shape(name).unwrap().len() == 2) {
            // The head is stored finer than 4 bits.
            let wanted = if name == Name::HEAD.to_string() { dtype.for_logits() } else { dtype };
            let fitting = wanted.fitting(stored.shape(name).unwrap());
            assert_eq!(weights.dtype(name), Some(fitting), "{name}");
            // Rows of 64 and 160 are no whole number of blocks of 256, and the report says what they became.
            assert_eq!(
                report.contains(&format!("are {fitting} and not")),
                fitting != wanted,
                "{report}"
            );
            let kept = stored.matrix_in(name, dtype).unwrap();
            let kept = kept.to_tensor(lacuna::kernels::Backend::cpu()).unwrap();
            let kept = kept.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(kept, values(&weights, name), "{dtype} {name}");
        }
    }
    assert_eq!(packable.count(), 10);
    let q4_k = Weights::open(folder.at("q4_k.gguf")).unwrap();
    assert_eq!(q4_k.dtype("model.layers.0.mlp.up_proj.weight"), Some(StorageDtype::Q5_0));
}

#[test]
fn packed_weights_pass_from_gguf_to_gguf_untouched() {
    let folder = Folder::new();
    let (q4, again) = (folder.at("q4.gguf"), folder.at("again.gguf"));
    done(&["convert", &golden("tiny_untied"), &q4, "--dtype", "q4_0"]);
    done(&["convert", &q4, &again]);
    let (a, b) = (Weights::open(&q4).unwrap(), Weights::open(&again).unwrap());
    for name in a.names() {
        assert_eq!(a.dtype(name), b.dtype(name), "{name}");
    }
    same_bits(&q4, &again);
    // In safetensors they become the same numbers in f32.
    done(&["convert", &q4, &folder.at("plain")]);
    same_bits(&q4, &folder.at("plain"));
}

/// The bytes of a GGUF file with some metadata more.
fn with_metadata(path: &str, texts: &[(&str, &str)], numbers: &[(&str, u32)]) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    let count = u64::from_le_bytes(file[16..24].try_into().unwrap());
    let mut more = Vec::new();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    for (key, value) in texts {
        text(&mut more, key);
        more.extend(8u32.to_le_bytes());
        text(&mut more, value);
    }
    for (key, value) in numbers {
        text(&mut more, key);
        more.extend(4u32.to_le_bytes());
        more.extend(value.to_le_bytes());
    }
    // A list of two texts.
    text(&mut more, "general.languages");
    more.extend(9u32.to_le_bytes());
    more.extend(8u32.to_le_bytes());
    more.extend(2u64.to_le_bytes());
    ["en", "de"].iter().for_each(|language| text(&mut more, language));
    // Tensors stay aligned: a text fills up to the next multiple of 32.
    let fill = (32 - (more.len() + 8 + 4 + 4 + 8) % 32) % 32;
    text(&mut more, "x.fi");
    more.extend(8u32.to_le_bytes());
    text(&mut more, &"x".repeat(fill));
    let added = (texts.len() + numbers.len() + 2) as u64;
    [&file[..16], &(count + added).to_le_bytes(), &more, &file[24..]].concat()
}

#[test]
fn licence_origin_and_names_go_from_gguf_to_gguf_and_the_licence_into_a_model_card() {
    let folder = Folder::new();
    let (first, gguf, again, back) =
        (folder.at("first.gguf"), folder.at("m.gguf"), folder.at("again.gguf"), folder.at("back"));
    let plain = folder.at("plain");
    done(&["convert", &golden("tiny_tied"), &plain]);
    // Without this file the way back writes its own.
    fs::remove_file(Path::new(&plain).join("tokenizer_config.json")).unwrap();
    done(&["convert", &plain, &first, "--dtype", "f32"]);
    let kept = [
        ("general.license", "apache-2.0"),
        ("general.organization", "Example: Org"),
        ("general.basename", "tiny"),
        ("general.finetune", "instruct"),
        ("general.size_label", "135K"),
    ];
    let bytes = with_metadata(&first, &kept, &[("tokenizer.ggml.unknown_token_id", 4)]);
    fs::write(&gguf, bytes).unwrap();
    done(&["convert", &gguf, &again, "--dtype", "q8_0"]);
    let carried = |path: &str| Weights::open(path).unwrap().carried_metadata().unwrap().unwrap();
    for metadata in [carried(&gguf), carried(&again)] {
        kept.iter().for_each(|(key, text)| assert_eq!(metadata.text(key), Some(*text), "{key}"));
        assert_eq!(metadata.text("general.name"), Some("first"), "the name stays");
        assert_eq!(metadata.unknown_token_id, Some(4));
    }
    let bytes = fs::read(&again).unwrap();
    let languages = b"general.languages\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0en";
    assert!(bytes.windows(languages.len()).any(|window| window == languages));

    done(&["convert", &again, &back]);
    let read = |file: &str| fs::read_to_string(Path::new(&back).join(file)).unwrap();
    let card = read("README.md");
    assert!(card.starts_with("---\nlicense: \"apache-2.0\"\n---\n"), "{card}");
    assert!(card.contains("- organization: Example: Org\n"), "{card}");
    let config: Value = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
    assert!(config["unk_token"].is_string(), "{config}");

    // And forth again: the card travels, and the licence is read from it.
    let forth = folder.at("forth.gguf");
    done(&["convert", &back, &forth]);
    assert_eq!(carried(&forth).text("general.license"), Some("apache-2.0"));
    let files = Weights::open(&forth).unwrap().carried_files().unwrap();
    assert!(files.contains(&("README.md".into(), card)));
}

#[test]
fn a_broken_tokenizer_or_template_is_refused_by_the_name_of_its_file() {
    let folder = Folder::new();
    let (from, to) = (folder.at("m"), folder.at("m.gguf"));
    done(&["convert", &golden("tiny_tied"), &from]);
    let write = |file: &str, text: &str| fs::write(Path::new(&from).join(file), text).unwrap();
    write("tokenizer.json", r#"{"model":{"type":"BPE","vocab":{"a":600},"merges":[]}}"#);
    let error = refusal(&["convert", &from, &to], 1);
    assert!(error.contains("m/tokenizer.json: the tokenizer has 601 tokens"), "{error}");
    write("tokenizer_config.json", r#"{"chat_template":[{"name":"x","template":"y"}]}"#);
    let error = refusal(&["convert", &from, &to], 1);
    assert!(error.contains("m/tokenizer_config.json: none of the templates"), "{error}");
    assert_eq!(folder.names(), ["m"]);
}

#[test]
fn shards_are_as_small_as_asked_and_open_again() {
    let folder = Folder::new();
    let (from, to) = (golden("tiny_untied"), folder.at("m"));
    done(&["convert", &from, &to, "--max-shard-size", "200kB", "--dtype", "bf16"]);
    let shards: Vec<u64> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "safetensors"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(shards.len() >= 3 && shards.iter().all(|bytes| *bytes < 210_000), "{shards:?}");
    assert_eq!(Weights::open(&to).unwrap().report().dtype, Some(StorageDtype::BF16));
}

#[test]
fn nothing_is_overwritten_unasked_and_nothing_else_is_ever_deleted() {
    let folder = Folder::new();
    let (from, to) = (golden("tiny_tied"), folder.at("m"));
    done(&["convert", &from, &to, "--quiet"]);
    let error = refusal(&["convert", &from, &to], 1);
    assert!(error.contains("exists already; --force"), "{error}");
    fs::write(Path::new(&to).join("notes.pdf"), "mine").unwrap();
    let error = refusal(&["convert", &from, &to, "--force"], 1);
    assert!(error.contains("more than a checkpoint's files"), "{error}");
    assert!(Path::new(&to).join("notes.pdf").exists());
    fs::remove_file(Path::new(&to).join("notes.pdf")).unwrap();
    done(&["convert", &golden("tiny_untied"), &to, "--force", "--quiet"]);
    same_bits(&golden("tiny_untied"), &to);

    let error = refusal(&["convert", &to, &to, "--force"], 1);
    assert!(error.contains("is the checkpoint that is read"), "{error}");
    fs::write(folder.at("m.gguf"), "mine").unwrap();
    refusal(&["convert", &from, &folder.at("m.gguf")], 1);
    assert_eq!(fs::read(folder.at("m.gguf")).unwrap(), b"mine");
    assert_eq!(folder.names(), ["m", "m.gguf"]);
}

#[test]
fn wrong_wishes_are_wrong_usage() {
    let (folder, from) = (Folder::new(), golden("tiny_tied"));
    for (args, says) in [
        (&["m", "--dtype", "q8_0"][..], "safetensors hold no q8_0"),
        (&["m.gguf", "--dtype", "f64"], "not written in f64"),
        (&["m.gguf", "--dtype", "q2_k"], "expected one of"),
        (&["m", "--mask-token", "append"], "--to"),
        (&["m", "--max-shard-size", "many"], "is no size"),
    ] {
        let to = folder.at(args[0]);
        let error = refusal(&[&["convert", &from, &to], &args[1..]].concat(), 2);
        assert!(error.contains(says), "{error}");
    }
    let error = refusal(&["convert", &from, &folder.at("m.safetensors")], 1);
    assert!(error.contains("go into a directory"), "{error}");
    assert!(folder.names().is_empty());
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_numbers_before_it_is_read() {
    let model = golden("tiny_untied");
    let args = ["generate", "--model", &model, "--prompt-ids", "1,2", "--no-eos"];
    let error = refusal(&[&args[..], &["--memory", "16.3MB"]].concat(), 1);
    for part in
        ["0.9 MB of weights", "keys and values for 130 tokens", "16.3 MB are allowed", "unlimited"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(error.contains("--dtype q8_0 needs about"), "{error}");
    done(&[&args[..], &["--memory", "unlimited", "--max-new-tokens", "4"]].concat());
    done(
        &[&args[..], &["--memory", "16.3MB", "--dtype", "q8_0", "--max-new-tokens", "4"]].concat(),
    );

    let object = |more: &[&str]| -> Value {
        let text = done(&[&["inspect", &model, "--json", "--memory", "16.3MB"], more].concat());
        serde_json::from_str(&text).unwrap()
    };
    let (whole, small) = (object(&[]), object(&["--dtype", "q4_0", "--context", "16"]));
    assert_eq!(whole["memory"]["weights"], 919_808);
    // 9 norms of 64 in f32; 4 layers of 64·64·2 + 16·64·2 + 3·64·160 and the embedding of 512·64, 18 bytes per 32; the
    // head in q8_0, 34 bytes per 32.
    let matrices = 4 * (2 * 64 * 64 + 2 * 16 * 64 + 3 * 64 * 160) + 512 * 64;
    let head = 512 * 64 / 32 * 34;
    assert_eq!(small["memory"]["weights"], 9 * 64 * 4 + matrices / 32 * 18 + head);
    // Keys and values: 4 layers, 2 heads of 8, 4 bytes, a token.
    assert_eq!(small["memory"]["cache"], 16 * 2 * 4 * 2 * 8 * 4);
    assert_eq!(
        (whole["memory"]["fits"].as_bool(), small["memory"]["fits"].as_bool()),
        (Some(false), Some(true))
    );
}

#[test]
fn inspect_says_what_is_missing_and_fails() {
    let folder = Folder::new();
    let from = crate::starts::autoregressive(&folder, "ar", 512, true);
    let config = Path::new(&from).join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5"))
        .unwrap();
    let output = lacuna(&["inspect", &from, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["missing"].as_array().unwrap().len(), 9);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("lacks 9 tensors: model.layers.4."), "{error}");
    refusal(&["convert", &from, &folder.at("to")], 1);
    assert_eq!(folder.names(), ["ar"]);
}
