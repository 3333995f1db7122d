//! Runs chat, fill and edit as a user does.

use crate::support::stdout;
use lacuna_test::checkpoints::autoregressive;
use lacuna_test::fixtures;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A block-diffusion model whose tokenizer knows FIM.
fn tiny() -> String {
    fixtures().join("golden/models/tiny_untied").display().to_string()
}

fn with_stdin(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&with_stdin(args, ""))).unwrap()
}

fn refusal(args: &[&str], status: i32, words: &[&str]) {
    let output = with_stdin(args, "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert!(output.stdout.is_empty(), "{args:?} printed data beside an error");
    assert!(!error.contains("panicked"), "{error}");
    assert!(words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn chat_answers_one_message_or_line_after_line() {
    let model = tiny();
    let chat = ["chat", "--model", &model, "--max-new-tokens", "8", "--no-eos"];
    let one = json(&[&chat[..], &["--json", "Sort a list."]].concat());
    assert_eq!(one["tokens"].as_array().unwrap().len(), 8);
    assert_eq!(one["finish_reason"], "length");
    let told = json(&[&chat[..], &["--json", "--system", "Be brief.", "Sort a list."]].concat());
    assert!(told["prompt_tokens"].as_u64() > one["prompt_tokens"].as_u64());
    let piped = with_stdin(&[&chat[..], &["--json", "-"]].concat(), "Sort a list.");
    let piped: Value = serde_json::from_str(&stdout(&piped)).unwrap();
    assert_eq!(piped["tokens"], one["tokens"], "`-` is the message");
    let turns = with_stdin(&[&chat[..], &["--json"]].concat(), "Sort a list.\n\nAgain.\n");
    let turns: Vec<Value> =
        stdout(&turns).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(turns.len(), 2);
    assert_eq!(turns[0]["tokens"], one["tokens"]);
    assert!(
        turns[1]["prompt_tokens"].as_u64().unwrap() > one["prompt_tokens"].as_u64().unwrap() + 8
    );
    let (plain, stream) = (
        stdout(&with_stdin(&[&chat[..], &["Hi"]].concat(), "")),
        [&chat[..], &["--stream", "Hi"]].concat(),
    );
    assert_eq!(stdout(&with_stdin(&stream, "")), plain, "streamed text is the text");
}

#[test]
fn chat_uses_the_checkpoints_own_template_and_refuses_models_without_any() {
    let folder = tempfile::tempdir().unwrap();
    let other = autoregressive(folder.path());
    refusal(&["chat", "--model", &other, "hello"], 1, &["no chat template", "lacuna generate"]);
    let model = fixtures().join("golden/models/tiny_untied");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(model.join(name), folder.path().join(name)).unwrap();
    }
    let model = folder.path().display().to_string();
    let args = ["chat", "--model", &model, "--max-new-tokens", "4", "--json", "a"];
    let built_in = json(&args)["prompt_tokens"].as_u64().unwrap();
    assert!(built_in > 4, "roles and marks stand around the message: {built_in}");
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    file(folder.path(), "chat_template.jinja", template);
    assert_eq!(json(&args)["prompt_tokens"], 1, "the template writes the message alone");
    file(folder.path(), "chat_template.jinja", "{% for %}");
    refusal(&args, 1, &["template"]);
    // A broken template is no matter of those who continue a text.
    json(&["generate", "--model", &model, "--max-new-tokens", "4", "--json", "a"]);
}

#[test]
fn fill_puts_the_middle_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text) = (tiny(), "def f(x):\n    return \n\nprint(f(2))\n");
    let whole = file(folder.path(), "f.py", text);
    let [prefix, suffix] = [("p", &text[..21]), ("s", &text[21..])]
        .map(|(name, part)| file(folder.path(), name, part));
    let fill = ["fill", "--model", &model, "--max-new-tokens", "8", "--no-eos"];
    let parts = json(&[&fill[..], &["--json", "--prefix", &prefix, "--suffix", &suffix]].concat());
    let at = json(&[&fill[..], &["--json", &whole, "--at", "2:12"]].concat());
    assert_eq!(parts["tokens"], at["tokens"]);
    assert_eq!(parts["tokens"].as_array().unwrap().len(), 8);
    let piped = with_stdin(&[&fill[..], &["-", "--at", "2:12"]].concat(), text);
    let middle = at["text"].as_str().unwrap();
    assert_eq!(stdout(&piped), middle, "the middle and nothing else");
    let done = with_stdin(&[&fill[..], &[&whole, "--at", "2:12", "--in-place"]].concat(), "");
    assert_eq!(stdout(&done), "");
    let filled = std::fs::read_to_string(&whole).unwrap();
    assert_eq!(filled, [&text[..21], middle, &text[21..]].concat());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing else was left");
}

#[test]
fn fill_says_why_it_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "f.py", "a\nbc\n");
    let (model, other) = (tiny(), autoregressive(folder.path()));
    let fill = |model: &str, at: &str, status, words: &[&str]| {
        refusal(&["fill", "--model", model, &path, "--at", at], status, words);
    };
    fill(&model, "9:1", 1, &["f.py", "line 9", "3 lines"]);
    fill(&model, "2:9", 1, &["f.py", "column 9", "column 3"]);
    fill(&model, "0:1", 2, &["LINE:COL"]);
    fill(&other, "1:1", 1, &["fim", "generate instead"]);
    refusal(&["fill", "--model", &model], 2, &["--at LINE:COL"]);
    refusal(&["fill", "--model", &model, &path], 2, &["--at"]);
    refusal(&["fill", "--model", &model, "--prefix", &path], 2, &["--suffix"]);
    refusal(&["fill", "--model", &model, "--prefix", "-", "--suffix", "-"], 2, &["stdin"]);
    refusal(&["fill", "--model", &model, "/no/file", "--at", "1:1"], 1, &["/no/file"]);
}

#[test]
fn edit_writes_the_same_with_and_without_draft_and_reports_what_it_saved() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny();
    let path = file(folder.path(), "f.py", "x = 1\ny = 2\n");
    let common = ["edit", "--model", &model, &path, "--instruction", "rename x"];
    // A prompt that ends where a block ends, so that the first block is drafted whatever is written.
    let edit = [&common[..], &["--prompt-ids", "9,10,11,12", "--max-new-tokens", "24"]].concat();
    let drafted = json(&[&edit[..], &["--json", "--diff", "--threshold", "0.1"]].concat());
    let plain = json(&[&edit[..], &["--json", "--threshold", "0.1", "--no-draft"]].concat());
    assert_eq!(drafted["tokens"], plain["tokens"]);
    assert_eq!(drafted["text"], plain["text"]);
    let number = |object: &Value, key: &str| object[key].as_u64().unwrap();
    assert_eq!(
        number(&drafted, "forwards") + number(&drafted, "passes_saved"),
        number(&plain, "forwards")
    );
    assert!(number(&drafted, "drafted_blocks") >= number(&drafted, "accepted_blocks"));
    assert!(number(&drafted, "speculative_passes") >= 1, "the file was never drafted");
    assert_eq!(number(&plain, "speculative_passes"), 0);
    assert!(drafted["diff"].as_str().unwrap().starts_with("--- a/"));
    let output = with_stdin(&[&common[..], &["--max-new-tokens", "8"]].concat(), "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("drafted blocks accepted"));
    assert!(!stdout(&output).is_empty());
    // Token by token the command is the same.
    let other = autoregressive(folder.path());
    let args = ["edit", "--model", &other, &path, "--instruction", "x", "--max-new-tokens", "4"];
    let object = json(&[&args[..], &["--json"]].concat());
    assert_eq!(number(&object, "forwards") + number(&object, "passes_saved"), 4);
    assert_eq!(object["draft"], "old-text");
}

#[test]
fn edit_in_place_never_leaves_half_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text) = (tiny(), "x = 1\n");
    let path = file(folder.path(), "f.py", text);
    let edit = ["edit", "--model", &model, &path, "--instruction", "x", "--in-place", "--quiet"];
    let cut = [&edit[..], &["--max-new-tokens", "8", "--no-eos"]].concat();
    refusal(&cut, 1, &["cut off after 8 tokens", "--max-new-tokens"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    // Ended by a stop text that the model does write: the file is what stands before it.
    let json_cut =
        [&edit[..4], &["--instruction", "x", "--json", "--max-new-tokens", "8", "--no-eos"]];
    let written = json(&json_cut.concat());
    let written = written["text"].as_str().unwrap();
    let stop = written.chars().find(|c| !written.starts_with(*c)).unwrap().to_string();
    let expected = &written[..written.find(&stop).unwrap()];
    let stopped = [&edit[..], &["--max-new-tokens", "8", "--no-eos", "--stop", &stop]].concat();
    stdout(&with_stdin(&stopped, ""));
    let new = std::fs::read_to_string(&path).unwrap();
    assert_eq!(new.trim_end_matches('\n'), expected.trim_end_matches('\n'));
    refusal(&["edit", "--model", &model, "-", "--instruction", "x", "--in-place"], 2, &["stdin"]);
    refusal(&["edit", "--model", &model, &path], 2, &["--instruction"]);
}

#[test]
fn watching_without_a_terminal_is_refused() {
    let model = tiny();
    refusal(&["generate", "--model", &model, "--watch", "x"], 2, &["needs a terminal", "--trace"]);
}

#[test]
fn a_model_is_timed_beside_what_memory_allows() {
    let folder = tempfile::tempdir().unwrap();
    let model = lacuna_test::checkpoints::scripted(&folder.path().join("model"), &["a", "b"]);
    let folder = folder.path().join("model");
    drop(model);
    let args = [
        "bench",
        "--model",
        folder.to_str().unwrap(),
        "--prompt-tokens",
        "20",
        "--new-tokens",
        "4",
    ];
    let args = [&args[..], &["--seconds", "0.01"]].concat();
    let table = crate::support::stdout(&crate::support::lacuna(&args));
    for row in ["| prompt of 20 |", "| pass over 16 rows |", "| 4 tokens written |"] {
        assert!(table.contains(row), "{table}");
    }
    let json = crate::support::stdout(&crate::support::lacuna(&[&args[..], &["--json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|row| row["tokens_per_second"].as_f64() > Some(0.0)), "{json}");
}
