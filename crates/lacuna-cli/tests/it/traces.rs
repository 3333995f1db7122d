//! Takes traces of real decodes: they replay byte for byte, give tampering away, and become a page.

use crate::support::lacuna;
use lacuna::samplers::trace::Trace;
use lacuna_test::checkpoints::autoregressive;
use lacuna_test::fixtures;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn model() -> String {
    fixtures().join("golden/models/tiny_untied").display().to_string()
}

fn stdout(args: &[&str]) -> String {
    let output = lacuna(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Records a decode; its trace and its JSON object.
fn record(path: &Path, args: &[&str]) -> (String, Value) {
    let trace = path.display().to_string();
    let json = stdout(&[args, &["--json", "--trace", &trace]].concat());
    (std::fs::read_to_string(path).unwrap(), serde_json::from_str(&json).unwrap())
}

#[test]
fn the_trace_of_a_real_decode_replays_byte_for_byte_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let (model, other) = (model(), autoregressive(folder.path()));
    let tiny = [
        "generate",
        "--model",
        &model,
        "--prompt-ids",
        "184,332,261,7,9",
        "--max-new-tokens",
        "20",
    ];
    let runs: [Vec<&str>; 6] = [
        tiny.to_vec(),
        [&tiny[..], &["--threshold", "0.4", "--no-eos"]].concat(),
        [&tiny[..], &["--fill", "entropy-bounded=0.5", "--temperature", "0.8", "--seed", "3"]]
            .concat(),
        [&tiny[..], &["--mode", "reference"]].concat(),
        [&tiny[..], &["--stop", "e"]].concat(),
        vec!["generate", "--model", &other, "--prompt-ids", "1", "--max-new-tokens", "20"],
    ];
    for args in &runs {
        let (text, object) = record(&path, args);
        let trace = Trace::parse(&text).unwrap();
        assert_eq!(trace.to_jsonl(), text, "{args:?}");
        let replayed = trace.replay().unwrap();
        assert_eq!(serde_json::json!(replayed[0].tokens), object["tokens"], "{args:?}");
        // The same request, the same bytes.
        assert_eq!(record(&path, args).0, text, "{args:?}");
        let shown = stdout(&["replay", &path.display().to_string()]);
        assert!(shown.contains("the replay agrees"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "colours outside a terminal: {shown:?}");
    }
}

#[test]
fn what_keys_and_values_were_kept_in_is_in_the_json_the_trace_and_the_replay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let args = ["generate", "--model", &model(), "--prompt-ids", "184,332,261", "--no-eos"];
    let args = [&args[..], &["--max-new-tokens", "9", "--draft", "none"]].concat();
    let replayed = |precision: &str| {
        let (text, object) =
            record(&path, &[&args[..], &["--cache-precision", precision]].concat());
        assert_eq!(object["cache_precision"], precision);
        (text, stdout(&["replay", &path.display().to_string()]))
    };
    let (exact, shown) = replayed("f32");
    assert_eq!(exact, record(&path, &args).0, "f32 is the default");
    assert!(!exact.contains("cache_precision") && !shown.contains("keys and values"), "{shown}");
    let (rounded, shown) = replayed("bf16");
    assert!(rounded.lines().next().unwrap().contains("\"cache_precision\":\"bf16\""), "{rounded}");
    assert!(shown.contains("blocks of 4, keys and values in bf16): 9 tokens"), "{shown}");
    assert_eq!(Trace::parse(&rounded).unwrap().to_jsonl(), rounded);
    let refused = |precision: &str, status: i32, words: &str| {
        let output = lacuna(&[&args[..], &["--cache-precision", precision]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{error}");
        assert!(error.contains(words), "{error}");
    };
    refused(
        "q8_0",
        1,
        "blocks of 32, and the model's heads have 8 values: keep them in bf16 or f32",
    );
    refused("q4_0", 2, "expected one of f32, bf16, q8_0");
}

#[test]
fn the_turns_of_a_conversation_are_requests_of_one_trace() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl").display().to_string();
    let args = ["chat", "--model", &model(), "--max-new-tokens", "8", "--trace", &path, "--quiet"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n\nand again\n").unwrap();
    assert!(child.wait().unwrap().success());
    let replayed = Trace::parse(&std::fs::read_to_string(path).unwrap()).unwrap().replay().unwrap();
    assert_eq!(replayed.len(), 2);
    let (first, second) = (&replayed[0], &replayed[1]);
    // Up to the assistant's turn: this template opens it anew only where it is to be written.
    let (first, second) = (&first.settings.prompt, &second.settings.prompt);
    let turn = first.iter().rposition(|&id| id == 0).unwrap();
    assert!(turn > 0 && second.starts_with(&first[..turn]), "the history is gone");
    assert!(second.len() > first.len() + 8, "the answer is gone");
}

#[test]
fn a_changed_trace_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let args = ["generate", "--model", &model(), "--prompt-ids", "7,8,9", "--no-eos"];
    let (text, object) = record(&path, &[&args[..], &["--max-new-tokens", "9"]].concat());
    let token = object["tokens"][4].as_u64().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .rposition(|line| line.contains("\"block\"") && line.contains(&token.to_string()))
        .unwrap();
    let refusal = |text: &str, words: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let output = lacuna(&["replay", &path.display().to_string()]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(output.stdout.is_empty());
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    // A token of the result.
    let mut changed = lines.clone();
    let other = changed[at].replace(&token.to_string(), "311");
    changed[at] = &other;
    refusal(&changed.join("\n"), &[&format!("line {}", at + 1), "does not replay"]);
    // A refinement left out.
    let mut cut = lines.clone();
    cut.remove(2);
    refusal(&cut.join("\n"), &["line 3", "expected refinement"]);
    refusal("not a trace\n", &["line 1"]);
    refusal("", &["no request"]);
}

/// The names of the elements that are open at the end of a page; panics where tags do not nest.
fn open_elements(page: &str) -> Vec<String> {
    const VOID: [&str; 3] = ["meta", "input", "br"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        // Nothing between a script's tags or a style's is markup, up to its end.
        let raw = open.last().filter(|name| ["script", "style"].contains(&name.as_str()));
        if raw.is_some_and(|name| !rest.starts_with(&format!("/{name}>"))) {
            continue;
        }
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[..end];
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "</{name}> closes another element");
        } else if !tag.starts_with('!') && !VOID.contains(&name) {
            open.push(name.to_owned());
        }
        rest = &rest[end + 1..];
    }
    open
}

#[test]
fn the_page_is_whole_escapes_every_text_and_asks_nothing_of_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let [trace, page] = ["t.jsonl", "t.html"].map(|name| folder.path().join(name));
    let model = model();
    let attack = "</script><img src=x onerror=alert(1)> & \"{{data}}\" <!--";
    let args = ["generate", "--model", &model, "--max-new-tokens", "12", "--no-eos", attack];
    let (_, object) = record(&trace, &args);
    let [trace, out] = [&trace, &page].map(|path| path.display().to_string());
    stdout(&["replay", &trace, "--model", &model, "--html", &out]);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(open_elements(&text).is_empty(), "{:?}", open_elements(&text));
    for outside in ["http://", "https://", "//cdn", "src=", "href=", "@import", "url("] {
        assert!(!text.contains(outside), "the page mentions {outside}");
    }
    let (_, data) = text.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    assert!(!data.contains(['<', '>', '&']), "{data}");
    let data: Value = serde_json::from_str(data).unwrap();
    let request = &data["requests"][0];
    let prompt = request["prompt"].as_array().unwrap().iter();
    let spelt: String = prompt.map(|id| data["texts"][id.to_string()].as_str().unwrap()).collect();
    assert_eq!(spelt, attack, "the prompt stands in the page as it was");
    let blocks = request["steps"].as_array().unwrap().iter().filter(|step| step["k"] == "b");
    let tokens: Vec<Value> =
        blocks.flat_map(|block| block["t"].as_array().unwrap().clone()).collect();
    assert_eq!(&Value::from(tokens), &object["tokens"]);
    let refinements = request["refinements"].as_u64();
    assert_eq!(refinements, object["forwards"].as_u64());
}
