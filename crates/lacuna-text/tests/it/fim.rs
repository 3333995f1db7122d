//! Holds holes to be marked as each family publishes it: its marks, its order, what begins a prompt
//! and what ends a middle.

use lacuna_text::{Fim, FimFormat, Tokenizer};
use serde_json::{Value, json};

fn special(tokens: &[&str]) -> Vec<Value> {
    let token = |(id, content): (usize, &&str)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    tokens.iter().enumerate().map(token).collect()
}

fn document(tokens: &[&str], rest: &[String], parts: Value) -> Tokenizer {
    let all = tokens.iter().map(|token| (*token).to_owned()).chain(rest.iter().cloned());
    let vocab: Value = all
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special(tokens), "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [] },
    });
    for (name, part) in parts.as_object().unwrap() {
        whole[name] = part.clone();
    }
    Tokenizer::from_bytes(whole.to_string().as_bytes()).unwrap()
}

/// Special tokens and letters, cut into bytes.
fn byte_level(tokens: &[&str], bos: Option<&str>) -> Tokenizer {
    let letters: Vec<String> =
        ('!'..='~').map(String::from).chain(["Ġ".into(), "Ċ".into()]).collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let first = bos.map(|bos| {
        let id = tokens.iter().position(|token| *token == bos).unwrap();
        json!({ "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { bos: { "id": bos, "ids": [id], "tokens": [bos] } } })
    });
    document(
        tokens,
        &letters,
        json!({ "pre_tokenizer": bytes, "decoder": bytes, "post_processor": first }),
    )
}

/// A vocabulary as SentencePiece makes it: a space is put before a text.
fn scored(tokens: &[&str]) -> Tokenizer {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let pieces: Vec<String> =
        bytes.chain(["▁".into()]).chain(('!'..='~').map(String::from)).collect();
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let normalizers = json!([{ "type": "Prepend", "prepend": "▁" }, spaces]);
    let model = document(
        tokens,
        &pieces,
        json!({ "normalizer": { "type": "Sequence", "normalizers": normalizers } }),
    );
    let text = model.to_json().replace("\"byte_fallback\": false", "\"byte_fallback\": true");
    Tokenizer::from_bytes(text.as_bytes()).unwrap()
}

/// The prompt around `AA|⏎ B`, spelt out, and what ends a middle.
fn prompt(tokenizer: &Tokenizer) -> (String, Vec<String>) {
    let fim = Fim::from_tokenizer(tokenizer).unwrap();
    let spelt = |id: &u32| tokenizer.id_to_token(*id).unwrap();
    let ids = fim.prompt_text(tokenizer, "AA", "\n B").unwrap();
    (ids.iter().map(spelt).collect(), fim.ends.iter().map(spelt).collect())
}

#[test]
fn every_family_s_prompt_is_the_published_one() {
    for (tokens, bos, expected, end) in [
        (
            &["<[end▁of▁sentence]>", "<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"][..],
            None,
            "<[fim-suffix]>ĊĠB<[fim-prefix]>AA<[fim-middle]>",
            "<[end▁of▁sentence]>",
        ),
        (
            &[
                "<|endoftext|>",
                "<|fim_prefix|>",
                "<|fim_middle|>",
                "<|fim_suffix|>",
                "<|file_sep|>",
            ],
            None,
            "<|fim_prefix|>AA<|fim_suffix|>ĊĠB<|fim_middle|>",
            "<|file_sep|>",
        ),
        (
            &["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<file_sep>"],
            None,
            "<fim_prefix>AA<fim_suffix>ĊĠB<fim_middle>",
            "<|endoftext|>",
        ),
        (
            &["<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>"],
            None,
            "<fim-prefix>AA<fim-suffix>ĊĠB<fim-middle>",
            "<|endoftext|>",
        ),
        (
            &[
                "<｜begin▁of▁sentence｜>",
                "<｜end▁of▁sentence｜>",
                "<｜fim▁hole｜>",
                "<｜fim▁begin｜>",
                "<｜fim▁end｜>",
            ],
            Some("<｜begin▁of▁sentence｜>"),
            "<｜begin▁of▁sentence｜><｜fim▁begin｜>AA<｜fim▁hole｜>ĊĠB<｜fim▁end｜>",
            "<｜end▁of▁sentence｜>",
        ),
    ] {
        let (prompt, ends) = prompt(&byte_level(tokens, bos));
        assert_eq!(prompt, expected);
        assert!(ends.iter().any(|name| name == end), "{expected}: {ends:?}");
    }
}

#[test]
fn sentencepiece_families_put_a_space_before_the_prefix_alone() {
    let names = ["<unk>", "<s>", "</s>", "▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"];
    let (text, ends) = prompt(&scored(&names));
    assert_eq!(text, "<s>▁<PRE>▁AA▁<SUF><0x0A>▁B▁<MID>");
    assert!(ends.contains(&"▁<EOT>".to_owned()) && ends.contains(&"</s>".to_owned()), "{ends:?}");
    // Codestral has no mark before the middle: the prefix is gone on with.
    let (text, _) = prompt(&scored(&["<unk>", "<s>", "</s>", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"]));
    assert_eq!(text, "<s>[SUFFIX]<0x0A>▁B[PREFIX]▁AA");
}

#[test]
fn an_empty_side_of_a_hole_is_an_empty_part() {
    let tokenizer = scored(&["<unk>", "<s>", "</s>", "▁<PRE>", "▁<MID>", "▁<SUF>"]);
    let fim = Fim::from_tokenizer(&tokenizer).unwrap();
    assert_eq!(fim.prompt_text(&tokenizer, "", "").unwrap(), [1, 3, 5, 4]);
}

#[test]
fn marks_of_two_families_are_not_mixed() {
    let halves = ["<|fim_prefix|>", "<fim_suffix>", "<fim_middle>"];
    let id = |name: &str| halves.iter().position(|half| *half == name).map(|id| id as u32);
    assert_eq!(FimFormat::find(id), None);
    assert!(Fim::from_tokenizer(&byte_level(&halves, None)).is_err());
}
