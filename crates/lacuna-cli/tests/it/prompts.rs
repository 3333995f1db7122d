//! Runs `generate --prompts`: many prompts in one batch, a line each, in order, gone on with where
//! it stopped.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A model of fixtures with a tokenizer of its own size.
fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/tiny_untied")
}

fn lacuna(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.arg("generate").arg("--model").arg(model()).args(args).output().expect("it starts")
}

/// Blocks of four on an autoregressive checkpoint, drawn, without an end.
const FLAGS: [&str; 10] = [
    "--allow-mode-mismatch",
    "--block-size",
    "4",
    "--mask-id",
    "5",
    "--no-eos",
    "--temperature",
    "0.8",
    "--max-new-tokens",
    "12",
];

fn batch(from: &Path, to: &Path, more: &[&str]) -> Output {
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    lacuna(&[&["--prompts", from, "--out", to], &FLAGS[..], more].concat())
}

/// Sixteen prompts of different lengths; the seventh has an id that the model has no token for.
fn prompts(folder: &Path) -> (PathBuf, Vec<Vec<u32>>) {
    let ids: Vec<Vec<u32>> = (0..16u32)
        .map(|n| (0..3 + 5 * n).map(|i| 10 + (i * 37 + n * 11) % 200).collect())
        .map(|mut ids: Vec<u32>| {
            if ids.len() == 33 {
                ids[5] = 4_000_000;
            }
            ids
        })
        .collect();
    let lines: Vec<String> = ids
        .iter()
        .enumerate()
        .map(|(n, ids)| json!({ "id": format!("p{n}"), "prompt_ids": ids }).to_string())
        .collect();
    let path = folder.join("prompts.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    (path, ids)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines without the times, which no two runs share.
fn untimed(path: &Path) -> Vec<Value> {
    let mut lines = lines(path);
    lines.iter_mut().for_each(|line| line["seconds"] = Value::Null);
    lines
}

#[test]
fn sixteen_prompts_get_the_tokens_they_get_alone_and_one_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (from, ids) = prompts(folder.path());
    let out = folder.path().join("out.jsonl");
    let run = batch(&from, &out, &[]);
    assert_eq!(run.status.code(), Some(1), "one prompt failed: {run:?}");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("1 of 16 prompts failed"), "{said}");
    let lines = lines(&out);
    assert_eq!(lines.len(), 16);
    for (n, (line, ids)) in lines.iter().zip(&ids).enumerate() {
        assert_eq!(line["id"], format!("p{n}"));
        if n == 6 {
            assert!(line["error"].as_str().unwrap().contains("4000000"), "{line}");
            continue;
        }
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let alone = lacuna(
            &[&["--prompt-ids", &ids.join(","), "--json", "--draft", "none"], &FLAGS[..]].concat(),
        );
        let mut alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
        let mut line = line.clone();
        line.as_object_mut().unwrap().retain(|key, _| key != "id" && key != "request");
        (alone["seconds"], line["seconds"]) = (Value::Null, Value::Null);
        assert_eq!(line, alone, "prompt {n}");
    }
    // Alone, or a few at a time: the same lines.
    for most in ["1", "3"] {
        let other = folder.path().join(most);
        batch(&from, &other, &["--batch", most]);
        assert_eq!(untimed(&other), untimed(&out), "--batch {most}");
    }
}

#[test]
fn a_file_of_rounded_prompts_says_so_and_is_not_gone_on_with_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (from, ids) = prompts(folder.path());
    let out = folder.path().join("out.jsonl");
    let rounded = ["--dtype", "q8_0", "--prompt-precision", "int8"];
    batch(&from, &out, &rounded);
    for (line, ids) in lines(&out).iter().zip(&ids).filter(|(line, _)| line["error"].is_null()) {
        assert_eq!(line["prompt_precision"], "int8", "{line}");
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let ids = ids.join(",");
        let args = [&["--prompt-ids", &ids, "--json"], &FLAGS[..], &rounded].concat();
        let alone: Value = serde_json::from_slice(&lacuna(&args).stdout).unwrap();
        assert_eq!(line["tokens"], alone["tokens"], "{line}");
    }
    let written = std::fs::read(&out).unwrap();
    let run = batch(&from, &out, &["--dtype", "q8_0"]);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("out.jsonl:1") && said.contains("other flags"), "{said}");
    assert_eq!(std::fs::read(&out).unwrap(), written);
}

#[test]
fn a_file_that_was_cut_anywhere_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let (from, _) = prompts(folder.path());
    let whole = folder.path().join("whole.jsonl");
    batch(&from, &whole, &[]);
    let bytes = std::fs::read(&whole).unwrap();
    for part in [0, 1, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
        let cut = folder.path().join("cut.jsonl");
        std::fs::write(&cut, &bytes[..part]).unwrap();
        let run = batch(&from, &cut, &[]);
        assert_eq!(untimed(&cut), untimed(&whole), "cut at {part}: {run:?}");
    }
}

#[test]
fn a_file_of_other_prompts_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let from = path("a.jsonl", r#"{"id": 1, "prompt_ids": [11, 12, 13]}"#);
    let out = folder.path().join("out.jsonl");
    assert!(batch(&from, &out, &[]).status.success());
    let written = std::fs::read(&out).unwrap();
    let other_id = path("b.jsonl", r#"{"id": 2, "prompt_ids": [11, 12, 13]}"#);
    let other_prompt = path("c.jsonl", r#"{"id": 1, "prompt_ids": [11, 12]}"#);
    let same_length = path("d.jsonl", r#"{"id": 1, "prompt_ids": [11, 12, 14]}"#);
    for (from, more, word) in [
        (&other_id, &[][..], "id"),
        (&other_prompt, &[], "another prompt"),
        (&same_length, &[], "another prompt"),
        (&from, &["--seed", "3"], "other flags"),
        (&from, &["--threshold", "0.5"], "other flags"),
        (&from, &["--stop", "x"], "other flags"),
        (&from, &["--cache-precision", "bf16"], "other flags"),
    ] {
        let run = batch(from, &out, more);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{said}");
        assert!(said.contains(word) && said.contains("out.jsonl:1"), "{said}");
        assert_eq!(std::fs::read(&out).unwrap(), written);
    }
    // Files of other programs, with a line break at their end or without.
    for theirs in [
        "{\"id\": 1}\n",
        "{\"id\": 1}",
        "precious",
        "precious\n",
        "{\"id\":1,\"text\"\n",
        "\u{0}\n",
    ] {
        std::fs::write(&out, theirs).unwrap();
        let run = batch(&from, &out, &[]);
        assert_eq!(run.status.code(), Some(1), "{theirs:?}: {run:?}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), theirs);
    }
    assert!(batch(&from, &from, &[]).status.code() == Some(2), "prompts are no place for answers");
}

#[test]
fn every_fault_of_a_file_of_prompts_is_named_with_its_line_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let good = r#"{"id": 1, "prompt_ids": [11]}"#;
    for (line, word) in [
        ("", ""),
        ("{", "expected"),
        ("[1]", "no JSON object"),
        (r#"{"prompt_ids": [1]}"#, "no id"),
        (r#"{"id": null, "prompt_ids": [1]}"#, "neither a text nor a number"),
        (r#"{"id": 2}"#, "no prompt"),
        (r#"{"id": 2, "prompt": "a", "prompt_ids": [1]}"#, "both"),
        (r#"{"id": 2, "prompt": 3}"#, "no text"),
        (r#"{"id": 2, "prompt_ids": [-1]}"#, "token ids"),
        (r#"{"id": 2, "prompt_ids": 7}"#, "no list"),
        (r#"{"id": 1, "prompt_ids": [12]}"#, "that of line 1"),
        (r#"{"id": 2, "prompt_ids": [1], "temperature": 0}"#, "unknown key `temperature`"),
    ] {
        let (from, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
        let text = if line.is_empty() { "\n\n".to_owned() } else { format!("{good}\n{line}\n") };
        std::fs::write(&from, text).unwrap();
        let run = batch(&from, &out, &[]);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{line}: {said}");
        let place = if line.is_empty() { "no prompt in it" } else { "in.jsonl:2: " };
        assert!(said.contains(place) && said.contains(word), "{line}: {said}");
        assert!(!out.exists(), "{line}");
    }
}
