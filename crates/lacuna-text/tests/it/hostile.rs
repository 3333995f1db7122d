//! Gives this crate a stranger's tokenizers and templates: each ends with an error that says what
//! is wrong.

use lacuna_test::{fixture, says};
use lacuna_text::{ChatTemplate, Fim, Tokenizer};
use std::fs;
use std::path::Path;

#[test]
fn broken_tokenizers_say_how() {
    let bytes = fs::read(fixture("tokenizer/tokenizer.json")).unwrap();
    says(Tokenizer::from_bytes(&bytes[..bytes.len() / 2]).unwrap_err(), "ends in the middle");
    says(Tokenizer::from_bytes(b"").unwrap_err(), "the file is empty");
    says(Tokenizer::from_bytes(b"GGUF\x03").unwrap_err(), "not JSON");
    says(Tokenizer::from_bytes(b"{\"a\": 1}").unwrap_err(), "not a tokenizer.json");
    let missing = Tokenizer::from_file("no/such/tokenizer.json").unwrap_err();
    says(missing, "no/such/tokenizer.json: cannot read");
    let empty = r#"{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}"#;
    says(Tokenizer::from_bytes(empty.as_bytes()).unwrap_err(), "vocabulary is empty");
}

/// A tokenizer of the tokens `a`, `b` and `!!b`, with one of its parts replaced.
fn small_tokenizer(part: &str) -> String {
    let model = r#"{"type":"BPE","vocab":{"a":0,"b":1,"!!b":2},"merges":[]}"#;
    let parts = if part.starts_with("\"model\"") {
        part.to_owned()
    } else {
        format!("\"model\":{model},{part}")
    };
    format!("{{\"version\":\"1.0\",{parts}}}")
}

#[test]
fn what_would_bring_the_tokenizer_library_down_is_refused() {
    let bpe =
        |rest: &str| format!(r#""model":{{"type":"BPE","vocab":{{"a":0,"b":1,"!!b":2}},{rest}}}"#);
    let template = |single: &str| {
        format!(
            r#""post_processor":{{"type":"TemplateProcessing","single":[{single}],"pair":[],
               "special_tokens":{{}}}}"#
        )
    };
    let nested = r#""normalizer":{"type":"Sequence","normalizers":[{"type":"Sequence","normalizers":
        [{"type":"Precompiled","precompiled_charsmap":"/////w=="}]}]}"#;
    let cases = [
        (bpe(r#""merges":["a b"]"#), "\"ab\" is not in the vocabulary"),
        (bpe(r#""merges":[["a","b"]]"#), "\"ab\" is not in the vocabulary"),
        (bpe(r#""merges":["c a"]"#), "\"c\" is not in the vocabulary"),
        (
            bpe(r#""continuing_subword_prefix":"!!","merges":["a b"]"#),
            "\"b\" does not start with \"!!\"",
        ),
        (
            r#""normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"}"#.into(),
            "Precompiled",
        ),
        (nested.into(), "Precompiled"),
        (r#""pre_tokenizer":{"type":"FixedLength","length":0}"#.into(), "pieces of 0 characters"),
        (template(r#"{"SpecialToken":{"id":"<q>","type_id":0}}"#), "names \"<q>\""),
        (template(r#"{"Sequence":{"id":"B","type_id":0}}"#), "names a second"),
    ];
    for (part, words) in cases {
        says(Tokenizer::from_bytes(small_tokenizer(&part).as_bytes()).unwrap_err(), words);
    }
    // The library would read every model in a file and take the last.
    let twice = format!("{0},{0}", bpe(r#""merges":[]"#));
    says(Tokenizer::from_bytes(small_tokenizer(&twice).as_bytes()).unwrap_err(), "duplicate field");
}

#[test]
fn errors_name_the_file_that_a_tokenizer_or_template_came_from() {
    let file = Path::new("m/tokenizer.json");
    let tokenizer = small_tokenizer(r#""decoder":null"#);
    assert_eq!(Tokenizer::of_model(tokenizer.as_bytes(), 3, file).unwrap().vocab_size(), 3);
    let error = Tokenizer::of_model(tokenizer.as_bytes(), 2, file).unwrap_err();
    says(error, "m/tokenizer.json: the tokenizer has 3 tokens, the model embeds 2");
    says(Tokenizer::check(b"{", 2, file).unwrap_err(), "m/tokenizer.json: the file ends");

    let folder = tempfile::tempdir().unwrap();
    let template = |text: &str| {
        fs::write(folder.path().join("tokenizer_config.json"), text).unwrap();
        ChatTemplate::from_folder(folder.path()).unwrap_err()
    };
    says(
        template(r#"{"chat_template":[{"name":"rag","template":"x"}]}"#),
        "tokenizer_config.json: none",
    );
    says(template(r#"{"chat_template":"{{"}"#), "tokenizer_config.json: ");
    says(template(r#"{"chat_template":7}"#), "neither text nor a list");
    says(template(r#"["#), "tokenizer_config.json: not a tokenizer_config.json");
    fs::write(folder.path().join("chat_template.jinja"), "{% if").unwrap();
    says(template("{}"), "chat_template.jinja: ");
}

#[test]
fn what_a_tokenizer_holds_is_checked_wherever_it_stands_in_the_file() {
    let model = |fields: &str| small_tokenizer(&format!(r#""model":{{"type":"BPE",{fields}}}"#));
    let vocab = r#""vocab":{"a":0,"b":1,"ab":2}"#;
    let read = |text: String| Tokenizer::from_bytes(text.as_bytes());
    for merges in
        [r#""merges":["a b"]"#, r#""merges":[["a","b"]]"#, r##""merges":["#version: 2","a b"]"##]
    {
        for fields in [format!("{vocab},{merges}"), format!("{merges},{vocab}")] {
            let tokenizer = read(model(&fields)).unwrap();
            assert_eq!(tokenizer.encode("abb").unwrap(), [2, 1], "{fields}");
        }
    }
    for (fields, words) in [
        (format!(r#"{vocab},"merges":["b a"]"#), "merge 0: \"ba\" is not"),
        (format!(r#""merges":["b a"],{vocab}"#), "merge 0: \"ba\" is not"),
        (
            format!(r#"{vocab},"merges":["a b"],"continuing_subword_prefix":"a""#),
            "\"b\" does not start",
        ),
        (format!(r#"{vocab},"merges":["a"]"#), "expected a merge"),
        (format!(r#"{vocab},"merges":[["a","b","a"]]"#), "expected a merge"),
        (format!(r#"{vocab},"merges":[["a",7]]"#), "expected a token"),
        (format!(r#"{vocab},{vocab},"merges":[]"#), "duplicate field"),
        (r#""vocab":{"a":0,"b":0},"merges":[]"#.into(), "\"b\" has id 0, as another"),
        (r#""vocab":{"a":4294967295},"merges":[]"#.into(), "over 524288 tokens"),
        (r#""vocab":{"a":-1},"merges":[]"#.into(), "not a tokenizer.json"),
        (vocab.into(), "no merges"),
    ] {
        says(read(model(&fields)).unwrap_err(), words);
    }
    let added = |id: u32| {
        let flags = r#""single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true"#;
        small_tokenizer(&format!(r#""added_tokens":[{{"id":{id},"content":"<m>",{flags}}}]"#))
    };
    let of = |text: String| Tokenizer::of_model(text.as_bytes(), 4, Path::new("f"));
    assert!(of(added(3)).unwrap().is_special(3));
    says(of(added(9)).unwrap_err(), "has 10 tokens, the model embeds 4");
    for around in [
        r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"q","type_id":0}}],"pair":[],
           "special_tokens":{"q":{"id":"q","ids":[4000000000],"tokens":["q"]}}}"#,
        r#"{"type":"RobertaProcessing","sep":["x",99999],"cls":["a",0],"trim_offsets":true,"add_prefix_space":true}"#,
    ] {
        let text = small_tokenizer(&format!(r#""post_processor":{around}"#));
        says(of(text).unwrap_err(), "around texts, which the model does not embed");
    }
}

#[test]
fn a_tokenizer_needs_room_and_text() {
    let texts = || ["def f(): pass"; 3].into_iter();
    says(Tokenizer::train_bpe(texts(), 200, &["<s>"]).unwrap_err(), "alone are 257");
    says(Tokenizer::train_bpe(texts(), 4096, &["<s>"]).unwrap_err(), "the text gives only");
    // No room is made for tokens that no text of this length has.
    for vocab_size in [1_000_000_000, usize::MAX] {
        let told = Tokenizer::train_bpe(texts(), vocab_size, &["<s>"]).unwrap_err();
        says(told, "the text gives only");
    }
}

#[test]
fn a_tokenizer_without_hole_marks_says_so() {
    let tokenizer = Tokenizer::from_file(fixture("tokenizer/byte-fallback.json")).unwrap();
    says(Fim::from_tokenizer(&tokenizer).unwrap_err(), "<fim_prefix>");
}
