//! Runs `lacuna score` over folders, long texts, lines of JSON and middles, by several methods and in the order of a fill
//! rule.

use crate::support::{lacuna, said, stdout};
use lacuna_test::checkpoints::autoregressive;
use lacuna_test::golden;
use serde_json::{Value, json};
use std::path::Path;

/// A block-diffusion checkpoint with a tokenizer: blocks of four, MASK 5, 2048 positions.
fn model() -> String {
    golden().join("models/tiny_untied").display().to_string()
}

fn score(args: &[&str]) -> std::process::Output {
    lacuna(&[&["score", "--model", &model()], args].concat())
}

fn object(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&score(&[args, &["--json"]].concat()))).unwrap()
}

/// The JSON lines that it prints.
fn lines(args: &[&str]) -> Vec<Value> {
    let text = stdout(&score(args));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn refusal(args: &[&str]) -> String {
    let refused = score(args);
    assert_eq!(refused.status.code(), Some(2), "{args:?}: {}", said(&refused));
    assert!(refused.stdout.is_empty());
    said(&refused)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-5 * b.abs().max(1.0)
}

fn ids(count: u32) -> String {
    let ids: Vec<String> = (0..count).map(|i| (6 + (i * 53 + i * i) % 400).to_string()).collect();
    ids.join(",")
}

/// A folder with two programs, a file of records, and what is passed over.
fn folder(at: &Path) -> String {
    let folder = at.join("texts");
    std::fs::create_dir_all(folder.join("inner")).unwrap();
    std::fs::write(folder.join("a.py"), "def f(x):\n    return x + 1\n").unwrap();
    std::fs::write(folder.join("inner/b.py"), "class A:\n    pass\n").unwrap();
    std::fs::write(folder.join("c.jsonl"), "{\"text\": \"import os\\n\"}\n").unwrap();
    std::fs::write(folder.join(".hidden.py"), "x = 1\n").unwrap();
    std::fs::write(folder.join("d.bin"), b"\0\0\0").unwrap();
    folder.display().to_string()
}

#[test]
fn a_folder_is_read_as_pack_reads_it_and_its_score_is_the_sum_of_its_texts() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = folder(temporary.path());
    let out = temporary.path().join("out.jsonl").display().to_string();
    let all = object(&["--text", &folder, "--out", &out]);
    let text = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.py", "c.jsonl#1", "inner/b.py"].map(|name| format!("{folder}/{name}")));
    assert_eq!(all["texts"], 3);
    for field in ["nats", "tokens", "bytes"] {
        let sum: f64 = lines.iter().map(|line| number(&line[field])).sum();
        assert!(close(number(&all[field]), sum), "{field}: {all}, {sum}");
    }
    let alone = object(&["--text", &format!("{folder}/a.py")]);
    for field in ["nats", "tokens", "bytes", "passes"] {
        assert_eq!(alone[field], lines[0][field], "{field}");
    }
    let said = said(&score(&["--text", &folder]));
    assert!(said.contains("passed over") && said.contains("d.bin"), "{said}");
    // Some of the files: what pack's flags choose.
    let python = object(&["--text", &folder, "--languages", "python"]);
    assert_eq!(python["texts"], 2);
    let table = stdout(&score(&["--text", &folder, "--method", "all", "--allow-mode-mismatch"]));
    for word in ["3 texts", "ar ", "exact ", "left-to-right ", "monte-carlo ", "±", "bits/byte"] {
        assert!(table.contains(word), "no {word} in {table}");
    }
    // In a row each text but the first has its first token scored too.
    let joined = object(&["--text", &folder, "--documents", "joined"]);
    assert_eq!(number(&joined["tokens"]), number(&all["tokens"]) + 2.0);
    assert!(number(&joined["bytes"]) > number(&all["bytes"]));
}

#[test]
fn a_long_text_is_scored_in_windows_each_token_once() {
    let all = ids(200);
    for method in ["exact", "left-to-right", "monte-carlo"] {
        let whole = object(&["--ids", &all, "--method", method]);
        let windows =
            object(&["--ids", &all, "--method", method, "--window", "64", "--stride", "16"]);
        assert_eq!((&whole["tokens"], &windows["tokens"]), (&199.into(), &199.into()), "{method}");
        assert!((number(&whole["nats"]) - number(&windows["nats"])).abs() > 1e-6, "{method}");
    }
    // A window that holds all of it is all of it.
    let whole = object(&["--ids", &all]);
    assert_eq!(object(&["--ids", &all, "--window", "200", "--stride", "3"]), whole);
    // Longer than the model's positions, without a word of windows.
    let long = stdout(&score(&["--ids", &ids(2500), "--method", "left-to-right"]));
    assert!(long.contains("2,499 tokens") && long.contains("2 windows of 2048 tokens"), "{long}");
    let refused = refusal(&["--ids", &all, "--window", "6", "--stride", "4"]);
    assert!(refused.contains("--stride") && refused.contains("whole block of 4"), "{refused}");
}

#[test]
fn of_a_prompt_with_a_response_the_response_alone_is_scored() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("in.jsonl");
    let lines_in = [
        json!({"text": "def f(x):\n    return x\n"}),
        json!({"id": "answer", "prompt": "def f(x):\n", "response": "    return x\n"}),
        json!({"prompt": "", "response": "def f(x):\n"}),
        json!({"ids": [9, 8, 7, 6], "label": 1}),
    ];
    std::fs::write(&file, lines_in.map(|line| line.to_string()).join("\n")).unwrap();
    let file = file.display().to_string();
    let found = lines(&["--jsonl", &file, "--method", "left-to-right"]);
    let ids: Vec<&Value> = found.iter().map(|line| &line["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!("answer"), &json!(3), &json!(4)]);
    assert_eq!(found[1]["bytes"], 13, "the response's: {}", found[1]);
    assert_eq!(found[3]["tokens"], 3);
    assert!(number(&found[1]["nats"]) < number(&found[0]["nats"]));
    for line in &found {
        let (nats, tokens) = (number(&line["nats"]), number(&line["tokens"]));
        assert!(close(number(&line["nats_per_token"]), nats / tokens), "{line}");
    }
    // Several methods: an object for each, of the same tokens.
    let both = lines(&["--jsonl", &file, "--method", "exact,monte-carlo", "--samples", "8"]);
    let methods = &both[1]["methods"];
    assert_eq!(methods["exact"]["tokens"], methods["monte-carlo"]["tokens"]);
    assert!(number(&methods["monte-carlo"]["standard_error"]) > 0.0, "{methods}");
    assert_eq!(methods["exact"]["standard_error"], Value::Null);
    // stdin is a file too.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(["score", "--model", &model(), "--jsonl", "-", "--method", "left-to-right"]);
    command.stdin(std::fs::File::open(&file).unwrap());
    let piped = stdout(&command.output().unwrap());
    assert_eq!(piped.lines().count(), 4);
}

#[test]
fn a_file_of_scores_is_gone_on_with_and_one_of_other_flags_is_left_as_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("in.jsonl");
    let texts: Vec<String> = (0..6)
        .map(|n| match n {
            // An id that the model has no token for fails alone.
            2 => json!({"ids": [9, 4_000_000]}).to_string(),
            _ => json!({"ids": (0..20 + n).map(|i| 6 + (i * 7 + n) % 90).collect::<Vec<u32>>()})
                .to_string(),
        })
        .collect();
    std::fs::write(&file, texts.join("\n")).unwrap();
    let (file, out) = (file.display().to_string(), temporary.path().join("out.jsonl"));
    let path = out.display().to_string();
    for more in [&["--method", "all"][..], &["--any-order", "--thresholds", "0.1,0.9"]] {
        let run =
            |more: &[&str]| score(&[&["--jsonl", &file, "--out", &path, "--json"], more].concat());
        let first = run(more);
        assert_eq!(first.status.code(), Some(1), "{}", said(&first));
        assert!(said(&first).contains("1 of 6 texts failed"), "{}", said(&first));
        let sum: Value = serde_json::from_slice(&first.stdout).unwrap();
        let whole = std::fs::read(&out).unwrap();
        for part in [0, 1, whole.len() / 2, whole.len() - 1, whole.len()] {
            std::fs::write(&out, &whole[..part]).unwrap();
            let again = run(more);
            assert_eq!(std::fs::read(&out).unwrap(), whole, "cut at {part}: {}", said(&again));
            let again: Value = serde_json::from_slice(&again.stdout).unwrap();
            assert_eq!(again, sum, "cut at {part}: the sum is of all lines");
        }
        let other = run(&[more, &["--block-size", "8"]].concat());
        assert!(said(&other).contains("other flags"), "{}", said(&other));
        assert_eq!(std::fs::read(&out).unwrap(), whole);
        std::fs::remove_file(&out).unwrap();
    }
}

#[test]
fn a_middle_is_scored_behind_the_marks_of_its_family_or_in_its_place() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("f.py");
    std::fs::write(&path, "def f(x):\n    y = x + 1\n    return y\n").unwrap();
    let file = path.display().to_string();
    let by_lines = object(&["--text", &file, "--lines", "2:2"]);
    assert_eq!(by_lines["form"], "fim:seed-coder");
    assert_eq!(by_lines["bytes"], "    y = x + 1\n".len());
    let line = temporary.path().join("in.jsonl");
    let parts =
        json!({"prefix": "def f(x):\n", "middle": "    y = x + 1\n", "suffix": "    return y\n"});
    std::fs::write(&line, parts.to_string()).unwrap();
    let line = line.display().to_string();
    let by_fields = &lines(&["--jsonl", &line])[0];
    for field in ["nats", "tokens", "bytes", "form"] {
        assert_eq!(by_fields[field], by_lines[field], "{field}");
    }
    let in_place = object(&[
        "--text",
        &file,
        "--lines",
        "2:2",
        "--attention",
        "full",
        "--method",
        "exact,left-to-right,monte-carlo",
    ]);
    assert_eq!(in_place["form"], "in-place");
    assert_eq!(in_place["tokens"], by_lines["tokens"], "the same tokens of the middle");
    let refused = refusal(&["--text", &file, "--lines", "2:2", "--infill", "in-place"]);
    assert!(refused.contains("does not see what stands behind"), "{refused}");
    // Of a long file the lines around the middle are read.
    let long = temporary.path().join("long.py");
    let lines: Vec<String> = (0..900).map(|n| format!("value_{n} = {n}\n")).collect();
    std::fs::write(&long, lines.concat()).unwrap();
    let long = score(&["--text", &long.display().to_string(), "--lines", "450:451"]);
    assert!(stdout(&long).contains("the middle alone, behind prefix and suffix"));
    assert!(said(&long).contains("of the 900 lines the model sees "), "{}", said(&long));
    // A model without marks says so.
    let plain = autoregressive(temporary.path());
    let refused = lacuna(&["score", "-m", &plain, "--text", &file, "--lines", "2:2"]);
    assert!(said(&refused).contains("cannot fill holes"), "{}", said(&refused));
}

#[test]
fn the_order_of_a_rule_is_told_rank_by_rank_and_from_the_left_it_is_the_likelihood() {
    let temporary = tempfile::tempdir().unwrap();
    let all = ids(90);
    let from_left = object(&["--ids", &all, "--any-order", "--fill", "left-to-right"]);
    let likelihood = object(&["--ids", &all, "--method", "left-to-right"]);
    assert!(close(number(&from_left["nats"]), number(&likelihood["nats"])));
    assert!(close(number(&from_left["tokens_per_pass"]), 1.0), "{from_left}");
    let plot = temporary.path().join("order.svg").display().to_string();
    let order = object(&["--ids", &all, "--any-order", "--plot", &plot]);
    assert_eq!(order["rule"], "low-confidence");
    let ranks = order["by_rank"].as_array().unwrap();
    assert_eq!(ranks.len(), 4, "blocks of four");
    let tokens = |groups: &Value| -> u64 {
        groups.as_array().unwrap().iter().map(|group| group["tokens"].as_u64().unwrap()).sum()
    };
    for groups in ["by_rank", "by_tenth", "by_confidence"] {
        assert_eq!(tokens(&order[groups]), 89, "{groups}");
    }
    let thresholds = order["thresholds"].as_array().unwrap();
    assert_eq!(thresholds.len(), 7);
    let speed: Vec<f64> = thresholds.iter().map(|one| number(&one["tokens_per_pass"])).collect();
    assert!(speed.windows(2).all(|pair| pair[0] >= pair[1]), "stricter is slower: {speed:?}");
    let picture = std::fs::read_to_string(&plot).unwrap();
    assert!(picture.contains("<svg") && picture.contains("tokens a pass"), "{picture}");
    let table = stdout(&score(&["--ids", &all, "--any-order", "--thresholds", "0.5"]));
    for word in ["filled by low-confidence", "first", "4th", "0.9 to 1.0", "threshold"] {
        assert!(table.contains(word), "no {word} in {table}");
    }
    // One block of all the text is told by tenths.
    let full = stdout(&score(&[
        "--ids",
        &all,
        "--any-order",
        "--attention",
        "full",
        "--fill",
        "threshold=0.01",
    ]));
    assert!(full.contains("0 to 10 %") && full.contains("89 tokens in 1 block,"), "{full}");
    let plain = autoregressive(temporary.path());
    let refused = lacuna(&["score", "-m", &plain, "--ids", "9,8,7", "--any-order"]);
    assert!(said(&refused).contains("from left to right alone"), "{}", said(&refused));
}

#[test]
fn a_method_that_a_checkpoint_cannot_have_is_named_with_its_reason_and_with_the_one_that_it_has() {
    let temporary = tempfile::tempdir().unwrap();
    let plain = autoregressive(temporary.path());
    let run =
        |method: &str| lacuna(&["score", "-m", &plain, "--ids", "9,8,7,6,5,4", "--method", method]);
    let refused = run("exact");
    assert_eq!(refused.status.code(), Some(1));
    let told = said(&refused);
    assert!(told.contains("--method exact is not for this model, ar is"), "{told}");
    let table = stdout(&run("all"));
    for word in ["\nar ", "exact left out: ", "left-to-right left out: ", "monte-carlo left out: "]
    {
        assert!(format!("\n{table}").contains(word), "no {word} in {table}");
    }
    let refused = said(&score(&["--ids", "9,8,7", "--method", "ar"]));
    assert!(refused.contains("exact, left-to-right and monte-carlo are"), "{refused}");
    let all = object(&["--ids", &ids(30), "--method", "all"]);
    assert!(all["missing"]["ar"].as_str().unwrap().contains("write nonsense"), "{all}");
    assert_eq!(all["methods"].as_object().unwrap().len(), 3);
    // Hours are not spent unasked.
    let large = object(&["--ids", &ids(30), "--method", "all", "--block-size", "12"]);
    assert!(large["missing"]["exact"].as_str().unwrap().contains("4095 passes"), "{large}");
}

#[test]
fn flags_that_do_not_go_together_say_which_to_leave_out() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("a.py").display().to_string();
    std::fs::write(&file, "x = 1\n").unwrap();
    let folder = temporary.path().display().to_string();
    for (args, words) in [
        (&[][..], "nothing to score; give --text PATH"),
        (&["--ids", "9,8", "--text", &file], "--text and --ids: each names what is scored"),
        (&["--jsonl", &file, "--json"], "leave --json out, or give --out FILE"),
        (&["--text", &file, "--out", "o.jsonl"], "--json prints its scores"),
        (&["--jsonl", &file, "--out", "-"], "expected a file"),
        (&["--jsonl", &file, "--out", &file], "that is the file of texts"),
        (&["--prefix", &file, "--suffix", &file], "no --middle"),
        (&["--text", &folder, "--lines", "1:2"], "the lines of one file"),
        (&["--ids", "9,8", "--fill", "margin"], "--any-order; give that too"),
        (&["--ids", "9,8", "--plot", "o.svg"], "--any-order; give that too"),
        (&["--ids", "9,8", "--any-order", "--method", "exact"], "leave one of the two out"),
        (&["--ids", "9,8", "--infill", "fim"], "there is no middle"),
        (&["--text", &file, "--documents", "joined"], "there is one text"),
        (&["--jsonl", &file, "--documents", "joined"], "texts by themselves"),
    ] {
        let refused = refusal(args);
        assert!(refused.contains(words), "{args:?}: {refused}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_finished_and_the_same_command_goes_on() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("in.jsonl");
    let text: Vec<u32> = (0..600).map(|i| 6 + (i * 7) % 90).collect();
    let line = json!({ "ids": text }).to_string();
    std::fs::write(&file, vec![line; 400].join("\n")).unwrap();
    let (file, out) = (file.display().to_string(), temporary.path().join("out.jsonl"));
    let path = out.display().to_string();
    let args = ["score", "-m", &model(), "--jsonl", &file, "--out", &path, "--block-size", "8"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    let child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    let known = || std::fs::read_to_string(&out).unwrap_or_default().lines().count();
    while known() < 2 {
        assert!(Instant::now() < until, "no text was scored");
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", said(&ended));
    assert!(said(&ended).contains("the same command goes on"), "{}", said(&ended));
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    let done = known();
    assert!(done < 400 && table.contains(&format!("{done} of 400 texts")), "{done}: {table}");
}
