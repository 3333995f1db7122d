//! Compares with what others recorded, and with what this crate once wrote and must write again.

use lacuna_test::fixtures;
use lacuna_text::{Fim, SPECIAL_TOKENS, Tokenizer};

#[test]
fn ids_and_decodings_are_the_recorded_ones() {
    let path = fixtures().join("golden/tokenizer_cases.json");
    let cases: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut checked = 0;
    for model in ["tiny_untied", "tiny_tied"] {
        let path = fixtures().join(format!("golden/models/{model}/tokenizer.json"));
        let tokenizer = Tokenizer::from_file(path).unwrap();
        for case in cases.iter().filter(|case| case["model"] == model) {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap(), ids);
            assert_eq!(tokenizer.decode_with_special_tokens(&ids).unwrap(), case["decoded"]);
            assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded_skip"]);
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} cases for models that are here");
}

#[test]
fn fill_in_the_middle_prompts_are_the_recorded_ones() {
    let path = fixtures().join("golden/models/tiny_untied/tokenizer.json");
    let tokenizer = Tokenizer::from_file(path).unwrap();
    let fim = Fim::from_tokenizer(&tokenizer).unwrap();
    assert_eq!((fim.prefix, fim.suffix, fim.middle), (6, 7, Some(8)));
    let ids = fim.prompt_text(&tokenizer, "fn main() {", "}\n").unwrap();
    assert_eq!(ids, [7, 101, 207, 6, 78, 86, 326, 73, 269, 353, 229, 99, 8]);
}

#[test]
fn the_shipped_tokenizer_has_the_paper_s_ids() {
    let tokenizer = Tokenizer::from_file(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 4096);
    for (id, token) in (0..).zip(SPECIAL_TOKENS) {
        assert_eq!(tokenizer.token_to_id(token), Some(id));
        assert!(tokenizer.is_special(id));
    }
    let named = |name: &str| tokenizer.token_to_id(name);
    assert_eq!(named("<[begin▁of▁sentence]>"), Some(0));
    assert_eq!(named("<[PAD▁TOKEN]>"), Some(1));
    assert_eq!(named("<[end▁of▁sentence]>"), Some(2));
    assert_eq!(named("<[MASK_TOKEN]>"), Some(5));
    assert!(Fim::from_tokenizer(&tokenizer).is_ok());
}
