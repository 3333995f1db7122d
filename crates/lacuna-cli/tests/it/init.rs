//! Runs what `lacuna init` writes as it stands, by the commands that it names.

use crate::support::said;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").canonicalize().unwrap()
}

fn run(folder: &Path, command: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lacuna")).args(command).current_dir(folder).output().unwrap()
}

/// The commands that `init` names, in their order.
fn named(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", said(output));
    let commands = said(output);
    commands.lines().filter_map(|line| line.strip_prefix("  lacuna ")).map(str::to_owned).collect()
}

/// Runs them, with fewer steps and smaller rows than the recipe has.
fn obey(folder: &Path, commands: &[String]) {
    for command in commands {
        let mut words: Vec<&str> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
        if words[0] == "train" {
            let recipe = std::fs::read_to_string(folder.join(words[1])).unwrap();
            let stages = recipe.matches("[[stage]]").count();
            let short =
                ["steps=2", "batch_size=1", "learning_rate_decay=0", "learning_rate_warmup=0"];
            let mut sets: Vec<String> = (0..stages)
                .flat_map(|i| short.iter().map(move |set| format!("--set=stage.{i}.{set}")))
                .collect();
            for (i, stage) in recipe.split("[[stage]]").skip(1).enumerate() {
                if stage.contains("[stage.corruption]") {
                    sets.push(format!("--set=stage.{i}.corruption.warmup_steps=1"));
                }
            }
            sets.push("--set=data.window=32".into());
            sets.push("--set=evaluation.windows=1".into());
            sets.push("--set=evaluation.max_new_tokens=4".into());
            words.extend(sets.iter().map(String::as_str));
            let output = run(folder, &words);
            assert!(output.status.success(), "{command}: {}", said(&output));
            continue;
        }
        if words[0] == "generate" {
            words.extend(["--max-new-tokens", "4"]);
            // The prompt ends in a blank.
            words.retain(|word| !word.is_empty());
        }
        let output = run(folder, &words);
        assert!(output.status.success(), "{command}: {}", said(&output));
    }
}

#[test]
fn a_recipe_for_a_fresh_model_runs_by_the_commands_that_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = fixtures().join("corpus/python").display().to_string();
    let made = run(folder.path(), &["init", "model", "--corpus", &corpus, "--extension", "py"]);
    let commands = named(&made);
    assert_eq!(commands.len(), 3, "{commands:?}");
    assert!(commands[0].starts_with("tokenizer ") && commands[1].starts_with("train "));
    obey(folder.path(), &commands);
    assert!(folder.path().join("runs/mine/final/model.safetensors").exists());
}

#[test]
fn a_recipe_from_a_checkpoint_with_conversations_runs_too() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = fixtures().join("corpus/python").display().to_string();
    let model = fixtures().join("golden/models/tiny_untied").display().to_string();
    let talk =
        r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}"#;
    std::fs::write(folder.path().join("talk.jsonl"), format!("{talk}\n").repeat(8)).unwrap();
    let args = ["init", "--corpus", &corpus, "--from", &model, "--sft", "talk.jsonl"];
    let commands = named(&run(folder.path(), &args));
    assert!(commands[0].starts_with("train "), "a block-diffusion folder is used as it is");
    obey(folder.path(), &commands);
}

#[test]
fn nothing_is_overwritten_and_nothing_is_written_for_inputs_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let missing = run(folder.path(), &["init", "a", "--corpus", "nowhere"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("nowhere") && !folder.path().join("a").exists());
    std::fs::write(folder.path().join("recipe.toml"), "mine").unwrap();
    let again = run(folder.path(), &["init", "--corpus", "."]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("recipe.toml is there already"), "{}", said(&again));
    assert_eq!(std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap(), "mine");
    assert_eq!(run(folder.path(), &["init"]).status.code(), Some(2));
}
