//! Trains stages of full and of causal diffusion, and decodes and scores their checkpoints as they were trained.

use crate::support::{lacuna, said, stdout};
use lacuna_test::fixtures;
use serde_json::Value;
use std::path::Path;

/// Trains a model of a few steps by this objective; its folder.
fn trained(folder: &Path, objective: &str) -> String {
    let fixtures = fixtures();
    let stage =
        format!("name = \"only\"\nobjective = \"{objective}\"\nsteps = 6\nbatch_size = 4\n");
    let recipe = format!(
        "name = \"t\"\nseed = 1\n[model]\nhidden_size = 32\nintermediate_size = 64\nlayers = 2\nheads = 4\n\
         [data]\ntokenizer = '{0}/tokenizer/tokenizer.json'\ncorpus = ['{0}/corpus/python']\nextensions = [\"py\"]\n\
         window = 32\n[[stage]]\n{stage}learning_rate = 3e-3\n\
         [evaluation]\nwindows = 2\nprompts = [\"def f\"]\nmax_new_tokens = 8\n",
        fixtures.display()
    );
    let file = folder.join("recipe.toml");
    std::fs::write(&file, recipe).unwrap();
    let run = folder.join("run").display().to_string();
    stdout(&lacuna(&["train", &file.display().to_string(), "--out", &run, "--quiet"]));
    run
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn object(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&lacuna(args))).unwrap()
}

#[test]
fn a_full_diffusion_stage_is_decoded_and_scored_over_the_whole_canvas() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), "full-diffusion");
    let model = format!("{run}/final");
    let config = json(&format!("{model}/config.json"));
    assert_eq!(
        (&config["diffusion_attention"], &config["block_size"]),
        (&"full".into(), &32.into())
    );
    let recipe = std::fs::read_to_string(format!("{run}/recipe.toml")).unwrap();
    assert!(recipe.contains("transform = \"identity\"") && recipe.contains("mask = \"bernoulli\""));
    assert_eq!(object(&["inspect", &model, "--json"])["attention"], "full");

    let trace = folder.path().join("t.jsonl").display().to_string();
    let short = ["--prompt-ids", "40,41,42", "--max-new-tokens", "9", "--no-eos"];
    let generate = [&["generate", "-m", &model, "--json"], &short[..]].concat();
    let written = object(&[&generate[..], &["--trace", &trace]].concat());
    assert_eq!(written["attention"], "full");
    let shown = stdout(&lacuna(&["replay", &trace]));
    assert!(shown.contains("blocks of 12, full attention") && shown.contains("agrees"), "{shown}");
    let blocks = object(&[&generate[..], &["--block-size", "4"]].concat());
    assert_eq!(blocks["attention"], Value::Null, "decoded block-causally");
    let both = lacuna(&[&generate[..], &["--attention", "full", "--block-size", "4"]].concat());
    assert_eq!(both.status.code(), Some(2));
    assert!(said(&both).contains("one block"), "{}", said(&both));
    let drafts = lacuna(&[&generate[..], &["--draft", "lookup"]].concat());
    assert!(
        !drafts.status.success() && said(&drafts).contains("full attention"),
        "{}",
        said(&drafts)
    );
    let reference = lacuna(&[&generate[..], &["--mode", "reference"]].concat());
    assert!(said(&reference).contains("block-causally"), "{}", said(&reference));

    // A short text by enumeration, a longer one by samples, block by block where a size is given.
    let ids: Vec<String> = (40..60).map(|id: u32| id.to_string()).collect();
    let score = |count: usize, more: &[&str]| {
        let ids = ids[..count].join(",");
        object(&[&["score", "-m", &model, "--json", "--ids", &ids], more].concat())
    };
    let (short, long) = (score(9, &[]), score(20, &["--samples", "8"]));
    assert_eq!((&short["passes"], &short["attention"]), (&255.into(), &"full".into()));
    assert_eq!((&long["passes"], &long["attention"]), (&8.into(), &"full".into()));
    assert!(long["standard_error"].as_f64().unwrap() > 0.0);
    let blocks = score(20, &["--block-size", "4"]);
    assert_eq!((&blocks["passes"], &blocks["attention"]), (&15.into(), &Value::Null));
    let results = std::fs::read_to_string(format!("{run}/results.json")).unwrap();
    assert!(results.contains("monte-carlo-nelbo"), "{results}");

    // Converted and taken along.
    let gguf = folder.path().join("m.gguf").display().to_string();
    let told = stdout(&lacuna(&["convert", &model, &gguf]));
    assert!(told.contains("full attention"), "{told}");
    let converted = [&["generate", "-m", &gguf, "--json"], &generate[4..]].concat();
    assert_eq!(object(&converted)["tokens"], written["tokens"]);
}

#[test]
fn a_causal_diffusion_stage_is_decoded_and_scored_causally() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), "causal-diffusion");
    let model = format!("{run}/final");
    let config = json(&format!("{model}/config.json"));
    assert_eq!(
        (&config["diffusion_attention"], &config["block_size"]),
        (&"causal".into(), &1.into())
    );
    let results = std::fs::read_to_string(format!("{run}/results.json")).unwrap();
    assert!(
        results.contains("left-to-right") && results.contains("monte-carlo-nelbo"),
        "{results}"
    );

    let generate = |more: &[&str]| {
        let plain = ["generate", "-m", &model, "--json", "--prompt-ids", "40,41,42", "--no-eos"];
        object(&[&plain[..], &["--max-new-tokens", "12"], more].concat())
    };
    let (one, block_causal) = (generate(&[]), generate(&["--attention", "block-causal"]));
    assert_eq!((&one["attention"], &block_causal["attention"]), (&"causal".into(), &Value::Null));
    // Blocks of one token see the same under both.
    assert_eq!(one["tokens"], block_causal["tokens"]);
    let four = generate(&["--block-size", "4"]);
    assert_eq!(four["attention"], "causal");
    let drafted = generate(&["--block-size", "4", "--draft", "lookup"]);
    assert_eq!(drafted["tokens"], four["tokens"]);

    let score = |more: &[&str]| {
        lacuna(&[&["score", "-m", &model, "--json", "--ids", "9,8,7,6,11,12"], more].concat())
    };
    let nats = |more: &[&str]| {
        let object: Value = serde_json::from_str(&stdout(&score(more))).unwrap();
        assert_eq!(object["attention"], "causal");
        object["nats_per_token"].as_f64().unwrap()
    };
    assert_eq!(nats(&[]), nats(&["--method", "left-to-right"]));
    assert_ne!(nats(&[]), nats(&["--method", "monte-carlo"]), "noisy text is read there");
    let refused = score(&["--block-size", "4"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("--attention block-causal"), "{}", said(&refused));
}

#[test]
fn an_attention_that_nobody_knows_or_that_the_algorithm_has_not_is_a_usage_error() {
    let model = fixtures().join("golden/models/tiny_untied").display().to_string();
    for (args, words) in [
        (vec!["generate", "--attention", "sideways"], "block-causal, full, causal"),
        (vec!["generate", "--attention", "causal", "--mode", "reference"], "block-causally"),
        (vec!["chat", "--attention", "full", "--block-size", "8", "hi"], "one block"),
        (vec!["score", "--ids", "9,8", "--attention", "full", "--block-size", "8"], "one block"),
        (
            vec![
                "score",
                "--ids",
                "9,8",
                "--attention",
                "full",
                "--method",
                "ar",
                "--allow-mode-mismatch",
            ],
            "causally",
        ),
    ] {
        let refused = lacuna(&[&args[..1], &["-m", &model], &args[1..]].concat());
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {}", said(&refused));
        assert!(said(&refused).contains(words), "{args:?}: {}", said(&refused));
    }
}
