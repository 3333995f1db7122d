//! Runs the flags of drafts and patterns: what they change, what is recorded of them, and what is refused.

use crate::support::{lacuna, said, stdout};
use serde_json::Value;

fn model() -> String {
    lacuna_test::golden().join("models/tiny_untied").display().to_string()
}

/// The object that a run prints, with its first line of trace and what a replay shows.
fn run(args: &[&str]) -> (Value, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("t.jsonl").display().to_string();
    let output = lacuna(&[args, &["--json", "--trace", &trace]].concat());
    let object = serde_json::from_str(&stdout(&output)).unwrap();
    let replay = stdout(&lacuna(&["replay", &trace]));
    let header = std::fs::read_to_string(&trace).unwrap().lines().next().unwrap().to_owned();
    (object, header, replay)
}

#[track_caller]
fn refused(args: &[&str], status: i32) -> String {
    let output = lacuna(args);
    assert_eq!(output.status.code(), Some(status), "{}", said(&output));
    said(&output)
}

#[test]
fn drafts_change_no_token_and_are_recorded() {
    let model = model();
    let ids = [17, 31, 22, 45, 60, 12].repeat(8).map_ids();
    let modes = [(&["--threshold", "0.1"][..], "none"), (&["--allow-mode-mismatch"], "lookup")];
    for (mode, default) in modes {
        let named = run(&[&["generate", "--model", &model, "--prompt-ids", &ids], mode].concat());
        assert_eq!(named.0["draft"], default);
        let args = ["generate", "--model", &model, "--prompt-ids", &ids, "--no-eos"];
        let with = |more: &[&str]| run(&[&args[..], mode, more].concat());
        let (plain, header, replay) = with(&["--draft", "none"]);
        assert_eq!(plain["draft"], "none");
        assert_eq!(plain["drafted_blocks"], 0);
        assert!(!header.contains("drafts") && !replay.contains("drafts"), "{header}");
        let (drafted, header, replay) = with(&["--draft", "lookup"]);
        assert_eq!(drafted["draft"], "lookup");
        assert_eq!(drafted["tokens"], plain["tokens"]);
        let saved = drafted["passes_saved"].as_u64().unwrap();
        assert_eq!(
            drafted["forwards"].as_u64().unwrap() + saved,
            plain["forwards"].as_u64().unwrap()
        );
        assert!(header.contains(r#""drafts":"lookup""#), "{header}");
        assert!(replay.contains("drafts by lookup"), "{replay}");
    }
    let released = ["generate", "--model", &model, "--prompt-ids", &ids, "--mode", "reference"];
    assert_eq!(run(&released).0["draft"], "none");
}

trait Ids {
    fn map_ids(&self) -> String;
}

impl Ids for Vec<u32> {
    fn map_ids(&self) -> String {
        self.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}

#[test]
fn many_prompts_draft_when_asked_to_and_their_answers_go_on_whatever_the_drafts() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (prompts, out) = (path("in.jsonl"), path("out.jsonl"));
    let lines =
        (0..4).map(|id| format!("{{\"id\": {id}, \"prompt_ids\": [7, 8, 9, 7, 8, 9, 7, 8]}}\n"));
    std::fs::write(&prompts, lines.collect::<String>()).unwrap();
    let args = ["generate", "--model", &model, "--prompts", &prompts, "--threshold", "0.1"];
    let answers = |more: &[&str], out: &str| -> Vec<Value> {
        stdout(&lacuna(&[&args[..], &["--out", out], more].concat()));
        let text = std::fs::read_to_string(out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let plain = answers(&[], &out);
    let drafted = answers(&["--draft", "lookup"], &path("drafted.jsonl"));
    for (plain, drafted) in plain.iter().zip(&drafted) {
        assert_eq!((&plain["draft"], &drafted["draft"]), (&"none".into(), &"lookup".into()));
        assert_eq!(plain["tokens"], drafted["tokens"]);
        assert_eq!(plain["request"], drafted["request"], "drafts change no answer");
    }
    let held = answers(&["--regex", "[0-9]{1,3}"], &path("held.jsonl"));
    assert_ne!(held[0]["request"], plain[0]["request"]);
}

#[test]
fn a_pattern_holds_the_text_and_is_recorded() {
    let model = model();
    let ids = vec![7u32, 8, 9, 10, 11].map_ids();
    let args = ["generate", "--model", &model, "--prompt-ids", &ids, "--max-new-tokens", "40"];
    let (object, header, replay) = run(&[&args[..], &["--regex", "[0-9]{3}-[a-f]{2}"]].concat());
    assert_eq!(object["finish_reason"], "eos", "{object}");
    let text = object["text"].as_str().unwrap();
    assert!(text.len() == 6 && text.as_bytes()[3] == b'-', "{text}");
    assert!(text[..3].parse::<u32>().is_ok(), "{text}");
    assert!(header.contains(r#""constraint":"[0-9]{3}-[a-f]{2}""#), "{header}");
    assert!(replay.contains("held to [0-9]{3}-[a-f]{2}"), "{replay}");

    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json").display().to_string();
    let properties = r#"{"name": {"enum": ["ada", "bob"]}, "age": {"enum": [1, 2]}}"#;
    let text =
        format!(r#"{{"type": "object", "required": ["name", "age"], "properties": {properties}}}"#);
    std::fs::write(&schema, text).unwrap();
    let (object, ..) = run(&[&args[..], &["--json-schema", &schema]].concat());
    assert_eq!(object["finish_reason"], "eos", "{object}");
    let value: Value = serde_json::from_str(object["text"].as_str().unwrap()).unwrap();
    assert!(["ada", "bob"].contains(&value["name"].as_str().unwrap()), "{value}");

    let grammar = folder.path().join("list.gbnf").display().to_string();
    std::fs::write(&grammar, "root ::= \"[\" digit (\",\" digit){2} \"]\"\ndigit ::= [0-9]\n")
        .unwrap();
    let penalties = ["--frequency-penalty", "1.5", "--presence-penalty", "-0.5"];
    let (object, ..) = run(&[&args[..], &["--grammar", &grammar], &penalties].concat());
    let list: Vec<u8> = serde_json::from_str(object["text"].as_str().unwrap()).unwrap();
    assert_eq!(list.len(), 3);
    assert_eq!(object["sampling"]["frequency_penalty"], 1.5, "{object}");

    let (object, ..) = run(&[&args[..5], &["--max-new-tokens", "4", "--regex", "a{30}"]].concat());
    assert_eq!(object["finish_reason"], "length", "{object}");
}

#[test]
fn flags_that_contradict_each_other_are_refused_with_the_reason() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let args = ["generate", "--model", &model, "--prompt-ids", "7,8,9"];
    let say = |more: &[&str], status| refused(&[&args[..], more].concat(), status);
    assert!(say(&["--draft", "old"], 2).contains("expected none or lookup"));
    assert!(say(&["--draft", "lookup", "--mode", "reference"], 2).contains("checks no drafts"));
    assert!(say(&["--regex", "a", "--mode", "reference"], 2).contains("released algorithm"));
    assert!(say(&["--regex", "a", "--stop", "x"], 2).contains("cannot be used with"));
    assert!(say(&["--regex", "a", "--min-new-tokens", "3"], 2).contains("cannot be used with"));
    assert!(say(&["--regex", "a(b"], 2).contains("unclosed group"));
    assert!(
        say(&["--regex", "a", "--no-eos"], 1).contains("--json-schema or --grammar: a text that")
    );
    let schema = folder.path().join("schema.json").display().to_string();
    std::fs::write(&schema, r#"{"type": "integer", "minimum": 3}"#).unwrap();
    assert!(say(&["--json-schema", &schema], 2).contains("#/minimum"));
    let grammar = folder.path().join("tree.gbnf").display().to_string();
    std::fs::write(&grammar, "root ::= \"(\" root \")\" | \"x\"").unwrap();
    assert!(say(&["--grammar", &grammar], 2).contains("`root` leads into itself"));
    assert!(say(&["--presence-penalty", "much"], 2).contains("expected a number"));
    assert!(
        say(&["--frequency-penalty", "1", "--mode", "reference"], 2).contains("which has none")
    );
}
