//! Measures what a stranger's tokenizer or template takes while it is read: no more than the file's
//! size and 64 MiB where it is refused, whatever it repeats.

use lacuna_test::counting::measured;
use lacuna_text::{ChatTemplate, Tokenizer};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Refused for `words`, within half of the margin: the text itself was there before.
fn refused(what: &str, text: &str, rows: usize, words: &str) {
    let file = Path::new("m/tokenizer.json");
    let (result, held) = measured(|| Tokenizer::of_model(text.as_bytes(), rows, file));
    let error = result.map(|_| ()).expect_err(what).to_string();
    assert!(error.contains(words) && error.contains("m/tokenizer.json"), "{what}: {error}");
    assert!(error.len() < 400, "{what}: {error}");
    assert!(held < 32 << 20, "{what}: held {held} bytes");
}

fn list(count: usize, item: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for n in 0..count {
        let comma = if n > 0 { "," } else { "" };
        write!(text, "{comma}{}", item(n)).unwrap();
    }
    text
}

fn tokenizer(vocab: &str, merges: &str, parts: &str) -> String {
    format!(
        r#"{{"version":"1.0",{parts}"model":{{"type":"BPE","vocab":{{{vocab}}},"merges":[{merges}]}}}}"#
    )
}

fn added(id: usize, content: &str) -> String {
    format!(
        r#"{{"id":{id},"content":"{content}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}"#
    )
}

#[test]
fn a_refused_tokenizer_takes_little_whatever_it_repeats() {
    let small = r#""a":0,"b":1,"ab":2"#;
    let many = list(300_000, |_| r#""a b""#.into());
    refused("merges", &tokenizer(small, &many, ""), 64, "over 48 merges");
    let empty = list(1_000_000, |_| "[]".into());
    refused("empty merges", &tokenizer(small, &empty, ""), 64, "a merge, which is two tokens");
    let tokens = list(300_000, |n| format!(r#""t{n}":{n}"#));
    refused("tokens", &tokenizer(&tokens, "", ""), 64, "300000 tokens, the model embeds 64");
    let same = list(300_000, |n| format!(r#""t{n}":3"#));
    refused("one id", &tokenizer(&same, "", ""), 64, "has id 3, as another token has");
    let special = list(60_000, |n| added(n, &format!("<{n}>")));
    let special = format!(r#""added_tokens":[{special}],"#);
    refused("added", &tokenizer(small, "", &special), 64, "60000 tokens, the model embeds 64");
    refused("many added", &tokenizer(small, "", &special), 70_000, "over 32768 added tokens");
    let long = format!(r#""added_tokens":[{}],"#, added(3, &"xyzzy".repeat(600_000)));
    refused("long", &tokenizer(small, "", &long), 64, "524288 bytes of them");
    for part in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        let part = format!(r#""{part}":{{"type":"Sequence","processors":[{empty}]}},"#);
        refused("a part", &tokenizer(small, "", &part), 64, "larger than any tokenizer's");
    }
    let scored = list(300_000, |_| r#"["a",0.0]"#.into());
    let unigram = format!(r#"{{"model":{{"type":"Unigram","unk_id":0,"vocab":[{scored}]}}}}"#);
    refused("scores", &unigram, 64, "300000 tokens, the model embeds 64");
}

#[test]
fn patterns_that_cost_much_or_find_nothing_are_refused_before_they_are_compiled() {
    let small = r#""a":0,"b":1,"ab":2"#;
    let regex = |kind: &str, pattern: &str| {
        format!(
            r#"{{"type":"{kind}","pattern":{{"Regex":"{pattern}"}},"content":"x","behavior":"Isolated","invert":false}}"#
        )
    };
    let part = |name: &str, part: &str| tokenizer(small, "", &format!(r#""{name}":{part},"#));
    let sequence = |key: &str, item: &str, count: usize| {
        let items = list(count, |_| item.to_owned());
        format!(r#"{{"type":"Sequence","{key}":[{items}]}}"#)
    };
    let long = "a|".repeat(200_000) + "b";
    for pattern in [&long, r"(\\p{L}{90}){90}", r"\\p{L}{4000}"] {
        let words = "larger than 4096 bytes";
        refused("expression", &part("normalizer", &regex("Replace", pattern)), 64, words);
        refused("expression", &part("pre_tokenizer", &regex("Split", pattern)), 64, words);
        refused("expression", &part("decoder", &regex("Replace", pattern)), 64, words);
    }
    let many = sequence("pretokenizers", &regex("Split", r"\\p{L}{100}"), 30);
    refused("expressions", &part("pre_tokenizer", &many), 64, "larger than 4096 bytes");
    for pattern in ["", "a*", "$", "(?=a)"] {
        let text = part("normalizer", &regex("Replace", pattern));
        refused("no text", &text, 64, "finds places without text");
    }
    let spaces = r#"{"type":"Replace","pattern":{"String":" "},"content":"       "}"#;
    let marks =
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
    let words = "64 times as long";
    refused("spaces", &part("normalizer", &sequence("normalizers", spaces, 3)), 64, words);
    refused("spaces", &part("decoder", &sequence("decoders", spaces, 3)), 64, words);
    refused("bytes", &part("normalizer", &sequence("normalizers", marks, 30)), 64, words);
    refused("bytes", &part("pre_tokenizer", &sequence("pretokenizers", marks, 30)), 64, words);
    let nfc = sequence("normalizers", r#"{"type":"NFC"}"#, 40);
    refused("parts", &part("normalizer", &nfc), 64, "over 32 parts");
    // Large expressions that are let through, as one and as many.
    for count in [1, 10] {
        let split = regex("Split", &r"\\p{L}".repeat(200 / count));
        let text = part("pre_tokenizer", &sequence("pretokenizers", &split, count));
        let (result, held) = measured(|| Tokenizer::from_bytes(text.as_bytes()));
        assert!(result.is_ok() && held < 32 << 20, "{count}: {:?}, {held} bytes", result.err());
    }
}

#[test]
fn a_large_vocabulary_with_one_wrong_merge_at_its_end_takes_little() {
    // Three letters, their pairs and triples: every triple is made in two ways, twenty times over.
    let letters: Vec<String> = (0..25).map(|n| char::from(b'a' + n).to_string()).collect();
    let (mut tokens, mut merges) = (letters.clone(), Vec::new());
    for a in &letters {
        for b in &letters {
            tokens.push(format!("{a}{b}"));
            merges.push(format!("{a} {b}"));
            for c in &letters {
                tokens.push(format!("{a}{b}{c}"));
                merges.push(format!("{a}{b} {c}"));
                merges.push(format!("{a} {b}{c}"));
            }
        }
    }
    let vocab = list(tokens.len(), |n| format!(r#""{}":{n}"#, tokens[n]));
    let count = 15 * tokens.len();
    let item = |n: usize| if n + 1 < count { &*merges[n % merges.len()] } else { "zzz zzz" };
    let merges = list(count, |n| format!(r#""{}""#, item(n)));
    let text = tokenizer(&vocab, &merges, "");
    refused("the last merge", &text, tokens.len(), "\"zzz\" is not in the vocabulary");
}

#[test]
fn a_list_of_templates_is_passed_over_and_not_held() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer_config.json");
    let names = list(50_000, |_| r#"{"name":"d"}"#.into());
    let texts = list(50_000, |n| format!(r#"{{"template":"{{{{ messages }}}}","name":"t{n}"}}"#));
    let empty = list(1_000_000, |_| "{}".into());
    for (what, list) in [("names", &names), ("texts", &texts), ("empty", &empty)] {
        let text = format!(
            r#"{{"chat_template":[{list}],"eos_token":[{list}],"added_tokens_decoder":[{list}]}}"#
        );
        fs::write(&file, &text).unwrap();
        let (result, held) = measured(|| ChatTemplate::from_folder(folder.path()));
        let error = result.map(|_| ()).expect_err(what).to_string();
        assert!(error.contains("tokenizer_config.json: none of"), "{what}: {error}");
        assert!(held < (text.len() + (1 << 20)) as isize, "{what}: held {held} bytes");
    }
    let text = format!(r#"{{"chat_template":[{names},{{"name":"default","template":"hi"}}]}}"#);
    fs::write(&file, text).unwrap();
    assert_eq!(ChatTemplate::source_in_folder(folder.path()).unwrap().as_deref(), Some("hi"));
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Read here as the library would read it itself, truncation and padding left out.
fn same_as_the_library(file: &Path) {
    let bytes = fs::read(file).unwrap();
    let mut theirs = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
    theirs.with_padding(None).with_truncation(None).unwrap();
    let ours = Tokenizer::from_bytes(&bytes).unwrap();
    assert!(ours.to_json().trim_end() == theirs.to_string(true).unwrap(), "{}", file.display());
    let last = theirs.get_vocab(true).into_values().max().unwrap();
    assert_eq!(ours.vocab_size(), last as usize + 1, "{}", file.display());
}

#[test]
fn a_tokenizer_is_what_the_library_reads() {
    for name in [
        "tokenizer/tokenizer.json",
        "tokenizer/byte-fallback.json",
        "golden/models/tiny_tied/tokenizer.json",
        "golden/models/tiny_untied/tokenizer.json",
    ] {
        same_as_the_library(&fixture(name));
    }
}

#[test]
#[ignore = "needs the file named by LACUNA_DIFFCODER_TOKENIZER"]
fn the_released_tokenizer_is_what_the_library_reads() {
    let file = std::env::var_os("LACUNA_DIFFCODER_TOKENIZER").expect("set it to a tokenizer.json");
    same_as_the_library(Path::new(&file));
}
