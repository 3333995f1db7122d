//! Tests that GGUF files are read as llama.cpp reads them, and that a header is parsed once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::reader::{Array, Kind, Value};
use super::*;
use crate::permute::{permute_rows, unpermute_rows};
use crate::{GgufOptions, StorageDtype, Weights};

#[test]
fn undoing_the_permutation_gives_the_rows_back() {
    // Two heads of six rows of three bytes.
    let rows: Vec<u8> = (0..36).collect();
    let stored = permute_rows(&rows, 12, 2);
    assert_eq!(stored[..9], [0, 1, 2, 9, 10, 11, 3, 4, 5], "rows 0, 3, 1 of the first head");
    assert_eq!(unpermute_rows(&stored, 12, 2), rows);
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn ids(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer.encode(text, special).unwrap().get_ids().to_vec()
}

/// The tokenizer that a reader finds in a file if it does not know the key of the whole text.
fn as_llama_cpp_reads_it(text: &str, vocab_size: usize) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let config = crate::Config { vocab_size, num_layers: 1, ..Default::default() };
    let tensors: Vec<_> = config
        .expected_tensors()
        .map(|(name, shape)| {
            let dtype = candle_core::DType::F32;
            (name, candle_core::Tensor::zeros(shape, dtype, &candle_core::Device::Cpu).unwrap())
        })
        .collect();
    let options = GgufOptions {
        dtype: Some(StorageDtype::F16),
        name: "t",
        tokenizer_json: Some(text),
        chat_template: None,
        files: &[],
        metadata: None,
    };
    save_gguf(&path, &config, tensors, &options).unwrap();
    assert_eq!(Weights::open(&path).unwrap().tokenizer_json().unwrap().as_deref(), Some(text));

    let file = std::fs::read(&path).unwrap();
    let mut header = Header::parse(&file).unwrap();
    assert!(header.forget(tokenizer::WHOLE));
    tokenizer_json(header.over(&file), &path, vocab_size).unwrap().unwrap().parse().unwrap()
}

#[test]
fn a_byte_level_tokenizer_survives_as_llama_cpp_reads_it() {
    let cases = std::fs::read_to_string(fixtures().join("golden/tokenizer_cases.json")).unwrap();
    let cases: Json = serde_json::from_str(&cases).unwrap();
    let mut compared = 0;
    for model in ["tiny_untied", "tiny_tied"] {
        let path = fixtures().join("golden/models").join(model).join("tokenizer.json");
        let tokenizer = as_llama_cpp_reads_it(&std::fs::read_to_string(path).unwrap(), 512);
        for case in cases.as_array().unwrap().iter().filter(|case| case["model"] == model) {
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let text = case["text"].as_str().unwrap();
            assert_eq!(ids(&tokenizer, text, true), expected, "{text:?}");
            assert_eq!(tokenizer.decode(&expected, false).unwrap(), case["decoded"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 8, "the texts that were recorded with these two");
}

#[test]
fn every_named_way_to_cut_text_is_recognised_when_it_is_spelled_out() {
    for name in ["gpt-2", "smollm", "llama-bpe", "qwen2", "seed-coder"] {
        let pre = pre::Pre::named(name).unwrap();
        let spelled = serde_json::json!({ "pre_tokenizer": pre.pre_tokenizer() });
        assert_eq!(pre::Pre::of(&spelled["pre_tokenizer"]).unwrap().names[0], name);
        let text = "if x1234 == 'é':\r\n\t  return\n\n don't";
        let json = as_tokenizer(pre);
        let encoded = json.parse::<Tokenizer>().unwrap().encode(text, false).unwrap();
        assert!(!encoded.get_ids().is_empty(), "{name} compiles");
    }
    let unknown = serde_json::json!({ "pre_tokenizer": { "type": "Whitespace" } });
    assert!(pre::Pre::of(&unknown["pre_tokenizer"]).is_none());
}

/// A tokenizer of single bytes that cuts as `pre` does.
fn as_tokenizer(pre: &pre::Pre) -> String {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let vocab: serde_json::Map<String, Json> =
        alphabet.into_iter().zip(0..).map(|(c, id)| (c.to_string(), Json::from(id))).collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.pre_tokenizer(),
        "post_processor": null,
        "decoder": null,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
    .to_string()
}

fn texts(texts: &[&str]) -> Vec<u8> {
    let one = |text: &&str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    texts.iter().flat_map(one).collect()
}

#[test]
fn scores_give_the_merges_of_a_sentencepiece_vocabulary() {
    let text = std::fs::read_to_string(fixtures().join("tokenizer/byte-fallback.json"));
    let text = text.unwrap();
    let original: Tokenizer = text.parse().unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![""; vocab.len()];
    vocab.iter().for_each(|(token, id)| tokens[id.as_u64().unwrap() as usize] = token);
    // Training gave each merged token this score: the rank of its merge, negated.
    let merges = json["model"]["merges"].as_array().unwrap();
    let merged: Vec<String> = merges.iter().map(|m| m.as_str().unwrap().replace(' ', "")).collect();
    let score = |token: &&str| match merged.iter().position(|merge| merge == token) {
        Some(rank) => -(rank as f32),
        None => -1e9,
    };
    let scores: Vec<u8> = tokens.iter().flat_map(|t| score(t).to_le_bytes()).collect();
    let kinds: Vec<u8> = (0..tokens.len() as i32)
        .flat_map(|id| match id {
            0 => 2i32.to_le_bytes(),
            1 | 2 => 3i32.to_le_bytes(),
            _ => 1i32.to_le_bytes(),
        })
        .collect();
    let (len, bytes) = (tokens.len(), texts(&tokens));
    let metadata = [
        ("tokenizer.ggml.model", Value::Text("llama")),
        ("tokenizer.ggml.tokens", Value::Array(Array::new(Kind::Text, len, &bytes))),
        ("tokenizer.ggml.scores", Value::Array(Array::new(Kind::F32, len, &scores))),
        ("tokenizer.ggml.token_type", Value::Array(Array::new(Kind::I32, len, &kinds))),
        ("tokenizer.ggml.bos_token_id", Value::Unsigned(1, Kind::U32)),
    ];
    let (header, file) = Header::of(metadata.into_iter().collect());
    let made = tokenizer_json(header.over(&file), Path::new("m.gguf"), len).unwrap().unwrap();
    let made: Tokenizer = made.parse().unwrap();
    for text in [
        "A model that writes code fills in a block of masked tokens at once",
        "  two  spaces\nand a line; naïve ☂",
        "",
        "<s>",
    ] {
        let expected = ids(&original, text, true);
        assert_eq!(ids(&made, text, true), expected, "{text:?}");
        let decode = |tokenizer: &Tokenizer| tokenizer.decode(&expected, true).unwrap();
        assert_eq!(decode(&made), decode(&original), "{text:?}");
    }
}

#[test]
fn a_vocabulary_of_endless_self_similarity_is_refused() {
    let tokens: Vec<String> = (1..1000).map(|n| "a".repeat(n)).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let (len, bytes, scores) = (tokens.len(), texts(&tokens), vec![0; 4 * tokens.len()]);
    let metadata = [
        ("tokenizer.ggml.model", Value::Text("llama")),
        ("tokenizer.ggml.tokens", Value::Array(Array::new(Kind::Text, len, &bytes))),
        ("tokenizer.ggml.scores", Value::Array(Array::new(Kind::F32, len, &scores))),
    ];
    let (header, file) = Header::of(metadata.into_iter().collect());
    let error =
        tokenizer_json(header.over(&file), Path::new("m.gguf"), len).unwrap_err().to_string();
    assert!(error.contains("made of one another"), "{error}");
}

#[test]
fn a_scaling_factor_alone_is_linear_as_in_llama_cpp() {
    use crate::RopeScaling::{self, Linear, None as Unscaled};
    let scaling = |more: &[(&'static str, Value<'static>)]| -> Result<RopeScaling, String> {
        let architecture = [("general.architecture", Value::Text("llama"))];
        let metadata: BTreeMap<&str, Value<'_>> =
            architecture.into_iter().chain(more.iter().copied()).collect();
        let (header, file) = Header::of(metadata);
        config::scaling_of(header.over(&file), Path::new("m.gguf"))
            .map_err(|error| error.to_string())
    };
    let (kind, factor, old) =
        ("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear");
    let two = Value::F32(2.0);
    for (more, expected) in [
        (&[][..], Unscaled),
        (&[(factor, two)], Linear { factor: 2.0 }),
        (&[(old, two)], Linear { factor: 2.0 }),
        (&[(old, two), (factor, Value::F32(4.0))], Linear { factor: 4.0 }),
        (&[(kind, Value::Text("linear")), (old, two)], Linear { factor: 2.0 }),
        (&[(kind, Value::Text("none")), (factor, two)], Unscaled),
        (&[(factor, Value::F32(0.0))], Unscaled),
        (&[(factor, Value::F32(1.0))], Unscaled),
    ] {
        assert_eq!(scaling(more), Ok(expected), "{more:?}");
    }
    for (more, words) in [
        (&[(kind, Value::Text("linear"))][..], "rope.scaling.factor = nothing"),
        (&[(kind, Value::Text("yarn")), (factor, two)], "rope.scaling.type = yarn"),
        (&[(factor, Value::F32(f32::NAN))], "rope.scaling.factor = NaN"),
    ] {
        let error = scaling(more).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_header_is_parsed_once_and_answers_every_question() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let model = Weights::open(fixtures().join("golden/models/tiny_tied")).unwrap();
    let tokenizer = model.tokenizer_json().unwrap();
    let files = [("tokenizer_config.json".to_owned(), "{}".to_owned())];
    let options = GgufOptions {
        name: "t",
        tokenizer_json: tokenizer.as_deref(),
        chat_template: Some("{{ messages }}"),
        files: &files,
        ..Default::default()
    };
    save_gguf(&path, model.config(), model.outgoing(), &options).unwrap();

    let parsed = || parse::PARSED.with(std::cell::Cell::get);
    let before = parsed();
    let weights = Weights::inspect(&path).unwrap().complete().unwrap();
    assert_eq!(parsed(), before + 1);
    assert_eq!(weights.config().vocab_size, model.config().vocab_size);
    assert_eq!(weights.tokenizer_json().unwrap(), tokenizer);
    let names = ["def", "no such token"];
    assert_eq!(weights.token_ids(&names), model.token_ids(&names));
    assert_eq!(weights.chat_template().as_deref(), Some("{{ messages }}"));
    assert_eq!(weights.carried_files().unwrap(), files);
    assert_eq!(weights.carried_metadata().unwrap().unwrap().text("general.name"), Some("t"));
    assert!(weights.matrix("lm_head.weight").is_ok());
    assert_eq!(weights.report().parameters, model.report().parameters);
    assert_eq!(weights.clone().outgoing().count(), model.outgoing().count());
    assert_eq!(parsed(), before + 1, "nothing was parsed again");
}
