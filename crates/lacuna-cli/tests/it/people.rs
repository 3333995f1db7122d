//! Checks defaults for people: what the program does without being told, and what it says
//! meanwhile.

use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn tiny() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.join("../../fixtures/golden/models/tiny_untied").display().to_string()
}

fn lacuna(args: &[&str], model: Option<&str>, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(args).env_remove("LACUNA_MODEL").envs(model.map(|model| ("LACUNA_MODEL", model)));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn done(args: &[&str]) -> (String, String) {
    let output = lacuna(args, Some(&tiny()), "");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {error}");
    (String::from_utf8(output.stdout).unwrap(), error)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&done(args).0).unwrap()
}

#[test]
fn a_model_can_be_named_once_for_all_commands_and_a_missing_one_is_asked_for_in_both_ways() {
    let ids = ["generate", "--prompt-ids", "40,41", "--max-new-tokens", "4", "--json"];
    let model = tiny();
    let named = json(&[&ids[..], &["--model", &model]].concat());
    assert_eq!(named["tokens"], json(&ids)["tokens"]);
    let elsewhere = lacuna(&[&ids[..], &["--model", "/nowhere"]].concat(), Some(&model), "");
    assert_eq!(elsewhere.status.code(), Some(1), "the flag counts before the variable");
    for command in [
        &ids[..],
        &["chat", "Hi"],
        &["score", "--ids", "1,2"],
        &["edit", "f", "--instruction", "x"],
    ] {
        let output = lacuna(command, None, "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("--model M") && error.contains("LACUNA_MODEL"), "{error}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let args =
        ["generate", "--prompt-ids", "40,41,42,43,44", "--no-eos", "--json", "--temperature", "1"];
    let one = json(&[&args[..], &["--threads", "1"]].concat());
    for threads in ["2", "3", "16"] {
        let many = json(&[&["--threads", threads], &args[..]].concat());
        assert_eq!(one["tokens"], many["tokens"], "{threads} threads");
    }
    for wrong in ["0", "-1", "1025", "many"] {
        let output = lacuna(&[&args[..], &["--threads", wrong]].concat(), Some(&tiny()), "");
        assert_eq!(output.status.code(), Some(2), "--threads {wrong}");
    }
}

#[test]
fn positions_are_filled_from_a_confidence_of_nine_tenths_on_unless_a_flag_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace").display().to_string();
    let rule = |flags: &[&str]| {
        let args =
            ["generate", "--prompt-ids", "40,41", "--max-new-tokens", "8", "--trace", &trace];
        let (_, said) = done(&[&args[..], flags].concat());
        let header = std::fs::read_to_string(&trace).unwrap().lines().next().unwrap().to_owned();
        (header, said)
    };
    let (header, said) = rule(&[]);
    assert!(header.contains("0.9") && said.contains("(threshold=0.9)"), "{header} {said}");
    for flags in [&["--steps", "8"][..], &["--fill", "low-confidence"], &["--mode", "reference"]] {
        let (header, said) = rule(flags);
        assert!(!header.contains("0.9") && said.contains("low-confidence)"), "{flags:?} {said}");
    }
    let (_, said) = rule(&["--threshold", "0.5"]);
    assert!(said.contains("(threshold=0.5)"), "{said}");
}

#[test]
fn pipes_get_neither_progress_nor_colours_and_quiet_says_nothing() {
    let text = ["generate", "--max-new-tokens", "8", "def f():"];
    let (out, said) = done(&text);
    assert!(!said.contains('\u{1b}') && !said.contains('\r') && !out.contains('\u{1b}'), "{said}");
    assert!(said.contains("per forward") && said.contains("prompt"), "{said}");
    let quiet = done(&[&text[..], &["--quiet"]].concat());
    assert_eq!(quiet, (out, String::new()), "the same text");
}

#[test]
fn a_score_of_more_than_a_thousand_passes_says_so_and_what_is_cheaper() {
    let ids = [
        "score",
        "--ids",
        "9,8,7,6,5,4,3,2,1,9,8,7,9,8,7,6,5,4,3,2,1,9,8,7",
        "--method",
        "exact",
        "--json",
    ];
    let (_, said) = done(&[&ids[..], &["--block-size", "9"]].concat());
    assert!(said.is_empty(), "511 passes are not worth a word: {said}");
    let (out, said) = done(&[&ids[..], &["--block-size", "10"]].concat());
    assert!(said.contains("1,023 passes") && said.contains("about"), "{said}");
    assert!(said.contains("left-to-right takes 10") && said.contains("monte-carlo"), "{said}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["passes"], 1023, "as it said");
}

#[test]
fn an_answer_ends_with_the_turn_or_with_the_positions_of_the_model() {
    let config = std::fs::read_to_string(PathBuf::from(tiny()).join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let positions = config["max_position_embeddings"].as_u64().unwrap();
    let answer = json(&["chat", "--no-eos", "--threshold", "0.001", "--json", "Hi"]);
    let tokens = answer["tokens"].as_array().unwrap().len() as u64;
    assert_eq!(answer["prompt_tokens"].as_u64().unwrap() + tokens, positions);
    assert_eq!(answer["finish_reason"], "length");
    let (_, said) = done(&["chat", "--no-eos", "--threshold", "0.001", "Hi"]);
    assert!(said.contains("cut off at the model's"), "{said}");
}

#[test]
fn a_conversation_that_outgrows_the_model_goes_on_without_its_oldest_messages_and_says_so() {
    let line = format!("{}\n", "sort this list ".repeat(60));
    let args = ["chat", "--max-new-tokens", "8", "--no-eos", "--json"];
    let output = lacuna(&args, Some(&tiny()), &line.repeat(12));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 12);
    assert!(said.contains("outgrown") && said.contains("oldest messages"), "{said}");
    let long = lacuna(&args, Some(&tiny()), &"sort this list ".repeat(2000));
    let said = String::from_utf8_lossy(&long.stderr).into_owned();
    assert_eq!(long.status.code(), Some(1));
    assert!(said.contains("positions") && said.contains("shorter"), "{said}");
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    done(&["man", &pages.display().to_string()]);
    let (help, _) = done(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = commands.take_while(|line| !line.is_empty()).filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    let names: Vec<String> = names.collect();
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        let page = std::fs::read_to_string(pages.join(format!("lacuna-{name}.1"))).unwrap();
        assert!(page.contains("Example"), "{name}");
    }
    assert!(pages.join("lacuna.1").exists());
}
