//! Tests a real model: SmolLM2-135M-Instruct as a GGUF file, which is not in the repository.
//!
//! ```text
//! scripts/smollm2.sh    # fetches it, and runs this and the continuations
//! LACUNA_SMOLLM2_GGUF=…/SmolLM2-135M-Instruct.Q4_1.gguf cargo test -p lacuna-checkpoint -- --ignored
//! ```

use lacuna_checkpoint::{Config, Format, Mode, RopeScaling, StorageDtype, Weights};

fn open() -> Weights {
    let path = std::env::var_os("LACUNA_SMOLLM2_GGUF").expect("set LACUNA_SMOLLM2_GGUF");
    Weights::open(std::path::PathBuf::from(path)).expect("the file opens")
}

#[test]
#[ignore = "needs the file named by LACUNA_SMOLLM2_GGUF"]
fn its_metadata_give_the_configuration_that_was_published() {
    let weights = open();
    let expected = Config {
        vocab_size: 49152,
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: 30,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        max_position_embeddings: 8192,
        rope_theta: 100_000.0,
        rope_scaling: RopeScaling::None,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: Some(2),
        mode: Mode::Autoregressive,
        ..Config::default()
    };
    assert_eq!(weights.config(), &expected);
    let report = weights.report();
    assert_eq!(report.format, Format::Gguf);
    assert_eq!(report.dtype, Some(StorageDtype::Q4_1));
    assert_eq!(report.parameters, 134_515_008);
    assert_eq!(weights.dtype("model.embed_tokens.weight"), Some(StorageDtype::Q8_0));
    assert!(weights.chat_template().expect("it has one").contains("<|im_start|>assistant"));
}

#[test]
#[ignore = "needs the file named by LACUNA_SMOLLM2_GGUF"]
fn its_tokenizer_cuts_text_as_published() {
    let json = open().tokenizer_json().expect("well formed").expect("it has one");
    let tokenizer: tokenizers::Tokenizer = json.parse().expect("a tokenizer.json");
    assert_eq!(tokenizer.get_vocab_size(true), 49152);
    assert_eq!(tokenizer.token_to_id("<reponame>"), Some(4));
    let ids = |text: &str| tokenizer.encode(text, false).expect("encodes").get_ids().to_vec();
    assert_eq!(ids("<|im_start|>")[..], [1], "special tokens are found in text");
    assert_eq!(ids("1234").len(), 4, "digits one by one");
    let golden = include_str!("../../../../fixtures/golden/ar_smollm2.json");
    let golden: serde_json::Value = serde_json::from_str(golden).expect("a golden record");
    let mut cases = 0;
    for case in golden.as_array().expect("a list") {
        let prompt = case["prompt"].as_str().expect("a text");
        let expected: Vec<u32> =
            serde_json::from_value(case["prompt_ids"].clone()).expect("a list of ids");
        assert_eq!(ids(prompt), expected, "{prompt}");
        assert_eq!(tokenizer.decode(&expected, false).expect("decodes"), prompt);
        cases += 1;
    }
    assert!(cases > 0, "the record has cases");
}
