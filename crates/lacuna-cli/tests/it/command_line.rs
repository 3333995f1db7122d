//! Meets the binary as a user does: names, JSON, exit statuses, errors that say what to do.

use crate::support::{lacuna, said, stdout};
use lacuna::model::{AttentionMask, Batch, Sequence};
use lacuna_test::timeless;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn golden_model() -> String {
    repository().join("fixtures/golden/models/tiny_untied").display().to_string()
}

fn refusal(args: &[&str], status: i32) -> String {
    let output = lacuna(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert!(output.stdout.is_empty(), "{args:?} printed data beside an error");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&lacuna(args))).unwrap()
}

#[test]
#[cfg(not(feature = "kernels"))]
fn kernels_without_a_card_say_so_in_a_sentence_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("kernels");
    let args = ["kernels", "--check", "--bench", "--out", &out.display().to_string()];
    let error = refusal(&args, 3);
    assert!(error.contains("built without the feature `kernels`"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(!out.exists());
}

#[test]
fn generate_answers_in_the_agreed_json() {
    let model = golden_model();
    let args = ["generate", "--model", &model, "--prompt-ids", "184,332,261", "--json"];
    let one_by_one = ["--max-new-tokens", "10", "--no-eos", "--fill", "low-confidence"];
    let object = json(&[&args[..], &one_by_one].concat());
    assert_eq!(object["tokens"].as_array().unwrap().len(), 10);
    assert_eq!(object["prompt_tokens"], 3);
    assert_eq!(object["finish_reason"], "length");
    assert_eq!(object["forwards"], 10);
    assert_eq!(object["tokens_per_forward"], 1.0);
    assert!(object["text"].is_string());
    for part in ["prefill", "decode"] {
        assert!(object["seconds"][part].as_f64().unwrap() >= 0.0);
    }
}

#[test]
fn the_precision_of_prompts_is_recorded_and_one_that_changes_nothing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("t.jsonl").display().to_string();
    let model = golden_model();
    let ids = (6..70).map(|id: u32| id.to_string()).collect::<Vec<_>>().join(",");
    let args = ["generate", "--model", &model, "--prompt-ids", &ids, "--json", "--trace", &trace];
    let run = |more: &[&str]| {
        let output = lacuna(&[&args[..], more].concat());
        let object: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let replay = stdout(&lacuna(&["replay", &trace]));
        let header = std::fs::read_to_string(&trace).unwrap().lines().next().unwrap().to_owned();
        (object, said(&output), header, replay)
    };
    let int8 = ["--prompt-precision", "int8"];
    let (exact, _, header, replay) = run(&["--dtype", "q8_0"]);
    assert_eq!(exact["prompt_precision"], "f32");
    assert!(!header.contains("precision") && !replay.contains("prompt in"), "{header}");
    let (rounded, said, header, replay) = run(&[&["--dtype", "q8_0"], &int8[..]].concat());
    assert_eq!(rounded["prompt_precision"], "int8");
    assert!(header.contains(r#""prompt_precision":"int8""#), "{header}");
    assert!(replay.contains("prompt in int8"), "{replay}");
    assert!(!said.contains("changes nothing"), "{said}");

    // The fixture's weights are f32.
    let (plain, said, header, _) = run(&int8);
    assert_eq!(plain["prompt_precision"], "f32");
    assert_eq!(plain["tokens"], run(&[]).0["tokens"]);
    let note = "--prompt-precision int8 changes nothing here: only weights in q4_0, q4_1, q8_0, q4_k, q6_k are";
    assert!(said.contains(note), "{said}");
    assert!(!header.contains("precision"), "{header}");
    let error = refusal(&[&args[..], &["--prompt-precision", "int4"]].concat(), 2);
    assert!(error.contains("expected f32 or int8"), "{error}");
}

#[test]
fn reference_mode_counts_as_the_released_code_does_and_refuses_what_it_refuses() {
    let model = golden_model();
    let args = [
        "generate",
        "--model",
        &model,
        "--prompt-ids",
        "1,2,3,4",
        "--mode",
        "reference",
        "--no-eos",
    ];
    let object = json(&[&args[..], &["--max-new-tokens", "8", "--json"]].concat());
    // Eight refinements and two commits.
    assert_eq!(object["forwards"], 10);
    let error = refusal(&[&args[..], &["--max-new-tokens", "6"]].concat(), 2);
    assert!(error.contains("multiple"), "{error}");
}

#[test]
fn score_counts_passes_and_leaves_the_first_token_out() {
    let model = golden_model();
    let score = |extra: &[&str]| {
        let args = ["score", "--model", &model, "--ids", "9,8,7,6,5,4,3,2,1", "--json"];
        json(&[&args[..], extra].concat())
    };
    let exact = score(&["--method", "exact", "--block-size", "4"]);
    assert_eq!((exact["tokens"].as_u64(), exact["passes"].as_u64()), (Some(8), Some(15)));
    let left_to_right = score(&["--method", "left-to-right", "--block-size", "4"]);
    assert_eq!(left_to_right["passes"], 4);
    // Blocks of one token have one order: both are the same sum.
    let one = |method| {
        score(&["--method", method, "--block-size", "1"])["nats_per_token"].as_f64().unwrap()
    };
    assert!((one("exact") - one("left-to-right")).abs() < 1e-6);
    let error = refusal(&["score", "--model", &model, "--ids", "1,2,3", "--method", "ar"], 1);
    assert!(error.contains("--allow-mode-mismatch"), "{error}");
    assert_eq!(score(&["--method", "ar", "--allow-mode-mismatch"])["passes"], 1);
}

#[test]
fn inspect_says_what_a_checkpoint_is() {
    let object = json(&["inspect", &golden_model(), "--json"]);
    assert_eq!(object["mode"], "block-diffusion");
    assert_eq!(
        (object["block_size"].as_u64(), object["mask_token_id"].as_u64()),
        (Some(4), Some(5))
    );
    assert_eq!((object["layers"].as_u64(), object["kv_heads"].as_u64()), (Some(4), Some(2)));
    let object = json(&["inspect", &autoregressive_model(), "--json"]);
    assert_eq!(object["mode"], "autoregressive");
    // Embedding 4096 × 32; a layer: q 32 × 32, k and v 16 × 32 each, o 32 × 32, three of 64 × 32, two norms.
    let layer = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 64 * 32 + 2 * 32;
    assert_eq!(object["parameters"], 4096 * 32 + 2 * layer + 32);
}

#[test]
fn where_keys_and_values_do_not_fit_a_less_precise_format_is_named() {
    let model = golden_model();
    let memory = |precision| {
        let context = ["--context", "1902", "--cache-precision", precision];
        let memory = &json(&[&["inspect", &model, "--json"], &context[..]].concat())["memory"];
        (memory["cache"].as_u64().unwrap(), memory["total"].as_f64().unwrap())
    };
    let ((exact, total), (half, _)) = (memory("f32"), memory("bf16"));
    // 4 layers, 2 heads of 8, keys and values.
    assert_eq!((exact, half), (1902 * 128 * 4, 1902 * 128 * 2));
    let limit = format!("{}MB", (total - 4e5) / 1e6);
    let args = ["generate", "--model", &model, "--prompt-ids", "1,2", "--max-new-tokens", "1900"];
    let error = refusal(&[&args[..], &["--memory", &limit]].concat(), 1);
    assert!(error.contains("--cache-precision bf16 needs about"), "{error}");
}

#[test]
fn an_autoregressive_checkpoint_is_decoded_token_by_token_and_refuses_to_fill_in_masks() {
    let path = autoregressive_model();
    let args = ["generate", "--model", &path, "--prompt-ids", "40,41,42", "--no-eos", "--json"];
    let object = json(&[&args[..], &["--max-new-tokens", "12"]].concat());
    // The same by hand: the whole text again for every token, no cache.
    let model = lacuna::Model::open(Path::new(&path), &lacuna::OpenOptions::default()).unwrap();
    let mut tokens = vec![40u32, 41, 42];
    for _ in 0..12 {
        let last = [tokens.len() as u32 - 1];
        let text = Sequence { tokens: &tokens, wanted: Some(&last), ..Sequence::default() };
        let batch = Batch::of(text, AttentionMask::Causal).unwrap();
        let hidden = model.transformer.forward(&batch).unwrap();
        let logits = model.transformer.logits(&hidden).unwrap().to_vec2::<f32>().unwrap().remove(0);
        let best = (0..logits.len())
            .filter(|t| *t != 5)
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
        tokens.push(best.unwrap() as u32);
    }
    assert_eq!(object["tokens"], serde_json::json!(tokens[3..]));
    let plain = json(&[&args[..], &["--max-new-tokens", "12", "--draft", "none"]].concat());
    assert_eq!(plain["tokens"], object["tokens"]);
    assert_eq!(plain["tokens_per_forward"], 1.0);
    let error = refusal(&[&args[..], &["--mode", "reference"]].concat(), 1);
    assert!(error.contains("autoregressive") && error.contains("--allow-mode-mismatch"), "{error}");
}

#[test]
fn wrong_usage_is_status_2_and_failure_status_1() {
    refusal(&["generate"], 2);
    refusal(&["generate", "--model", &golden_model()], 2);
    refusal(&["generate", "--model", "x", "--prompt-ids", "1,two"], 2);
    let error = refusal(&["generate", "--model", "/nowhere/at/all", "hello"], 1);
    assert!(error.contains("no model at /nowhere/at/all"), "{error}");
    let error = refusal(&["generate", "--model", &golden_model(), "--prompt-ids", "99999"], 2);
    assert!(error.contains("99999") && error.contains("512"), "{error}");
    // Before a model is opened: there is none.
    for (flag, value) in [
        ("--temperature", "-1"),
        ("--temperature", "-inf"),
        ("--threshold", "nan"),
        ("--top-k", "0"),
        ("--seed", "-1"),
        ("--max-new-tokens", "99999999999999999999"),
        ("--stop", ""),
    ] {
        let error = refusal(&["generate", "--model", "/nowhere", flag, value, "x"], 2);
        assert!(error.contains(flag) && error.contains("expected"), "{error}");
    }
    for flag in ["--mask-id", "--eos-id"] {
        let args = ["generate", "--model", &golden_model(), "--prompt-ids", "1", flag, "99999"];
        let error = refusal(&args, 2);
        assert!(error.contains(flag) && error.contains("512"), "{error}");
    }
    if !cfg!(feature = "cuda") {
        let model = golden_model();
        let error = refusal(&["generate", "--model", &model, "--device", "cuda", "x"], 1);
        assert!(error.contains("--features cuda"), "{error}");
    }
}

#[test]
fn a_recipe_with_an_unknown_key_names_the_nearest() {
    let recipe = repository().join("recipes/tiny.toml").display().to_string();
    let error = refusal(&["train", &recipe, "--set", "optimizer.weight_decya=0.1"], 1);
    assert!(
        error.contains("weight_decya") && error.contains("did you mean `weight_decay`"),
        "{error}"
    );
    let error = refusal(&["train", &recipe, "--set", "data.corpus=[]"], 1);
    assert!(error.contains("data.corpus"), "{error}");
    let error = refusal(&["train", "/nowhere.toml"], 1);
    assert!(error.contains("/nowhere.toml"), "{error}");
}

#[test]
fn a_corpus_without_files_is_an_error_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, out) = (folder.path().join("empty"), folder.path().join("run"));
    std::fs::create_dir(&empty).unwrap();
    let recipe = repository().join("recipes/tiny.toml").display().to_string();
    let corpus = format!("data.corpus=[{:?}]", empty.display().to_string());
    let error =
        refusal(&["train", &recipe, "--set", &corpus, "--out", &out.display().to_string()], 1);
    assert!(error.contains("no documents"), "{error}");
    assert!(!out.exists());
}

/// The smoke recipe's model after its autoregressive stage; trained once for all tests.
fn autoregressive_model() -> String {
    static RUN: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let folder = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        stdout(&tiny_run(&folder.path().join("run"), &[]));
        folder
    });
    folder.path().join("run/checkpoints/step-10").display().to_string()
}

fn tiny_run(out: &Path, more: &[&str]) -> Output {
    let recipe = repository().join("recipes/smoke.toml").display().to_string();
    let out = out.display().to_string();
    let args = ["train", &recipe, "--out", &out, "--quiet"];
    lacuna(&[&args[..], more].concat())
}

#[test]
fn two_runs_with_one_seed_are_the_same_bytes_and_a_resumed_run_too() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
    let report = stdout(&tiny_run(&a, &[]));
    assert!(report.contains("bigram baseline") && report.contains("exact block NELBO"), "{report}");
    stdout(&tiny_run(&b, &[]));
    // The third stops in its second stage and goes on.
    stdout(&tiny_run(&c, &["--set", "stage.1.checkpoint_every=5"]));
    std::fs::remove_dir_all(c.join("final")).unwrap();
    let checkpoints = c.join("checkpoints");
    let mut kept: Vec<u64> = std::fs::read_dir(&checkpoints)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap()["step-".len()..].parse().unwrap())
        .collect();
    kept.sort_unstable();
    for step in kept.split_off(2) {
        std::fs::remove_dir_all(checkpoints.join(format!("step-{step}"))).unwrap();
    }
    stdout(&tiny_run(&c, &["--set", "stage.1.checkpoint_every=5", "--resume"]));
    let weights = |run: &Path| std::fs::read(run.join("final/model.safetensors")).unwrap();
    let metrics = |run: &Path| timeless(&run.join("metrics.jsonl"));
    for other in [&b, &c] {
        assert!(weights(&a) == weights(other), "{} has other weights", other.display());
        assert_eq!(metrics(&a), metrics(other), "{}", other.display());
    }
    for file in [
        "recipe.toml",
        "loss.svg",
        "loss.png",
        "telemetry.svg",
        "final/config.json",
        "final/tokenizer.json",
    ] {
        assert!(a.join(file).exists(), "{file} is missing");
    }
    // A finished run is not written over.
    let again = tiny_run(&a, &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--resume"));
}

#[test]
fn what_a_file_says_of_itself_does_not_reach_the_terminal_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let shard = "a\u{1b}[31m\u{7}b.safetensors";
    let index = serde_json::json!({ "weight_map": { "model.norm.weight": shard } });
    let config = Path::new(&golden_model()).join("config.json");
    std::fs::copy(config, dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let error = refusal(&["inspect", &dir.path().display().to_string()], 1);
    assert!(error.contains(r"a\u{1b}[31m\u{7}b.safetensors"), "{error}");
    assert!(!error.trim_end().contains(char::is_control), "{error:?}");
}

#[test]
fn a_continuation_ends_where_the_models_positions_do() {
    let ids = |n: usize| vec!["40"; n].join(",");
    for (model, max) in [(autoregressive_model(), 128), (golden_model(), 2048)] {
        let prompt = ids(max - 8);
        let args = ["generate", "--model", &model, "--no-eos", "--max-new-tokens", "100"];
        let object = json(&[&args[..], &["--prompt-ids", &prompt, "--json"]].concat());
        assert_eq!(object["tokens"].as_array().unwrap().len(), 8);
        assert_eq!(object["finish_reason"], "length");
        let error = refusal(&[&args[..], &["--prompt-ids", &ids(max)]].concat(), 1);
        assert!(error.contains(&format!("{max} tokens and 100 new ones")), "{error}");
    }
    let model = golden_model();
    let args = ["generate", "--model", &model, "--mode", "reference", "--prompt-ids", "40,41,42"];
    let error = refusal(&[&args[..], &["--max-new-tokens", "2048"]].concat(), 1);
    assert!(error.contains("the model's 2048 positions"), "{error}");
}

#[cfg(unix)]
#[test]
fn logits_take_the_place_of_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    // Links, so that a fault takes the link and not the device.
    let device = dir.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &device).unwrap();
    let kept = dir.path().join("logits.partial");
    std::fs::write(&kept, "mine").unwrap();
    let model = golden_model();
    let args = ["logits", "--model", &model, "--ids", "1,2", "--mask", "full", "--out"];
    for out in [device.display().to_string(), dir.path().display().to_string()] {
        let error = refusal(&[&args[..], &[&out]].concat(), 1);
        assert!(error.contains("is no regular file"), "{error}");
    }
    assert!(device.is_symlink());
    let out = dir.path().join("logits.safetensors");
    stdout(&lacuna(&[&args[..], &[&out.display().to_string()]].concat()));
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}
