//! Holds commands to what a checkpoint says it was trained for: every one that decodes or scores
//! listens.

use candle_core::{DType, Device};
use lacuna::checkpoint::Config;
use lacuna::model::Transformer;
use std::path::{Path, PathBuf};
use std::process::Command;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/tiny_untied")
}

/// The exit status, and what it said on stderr.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lacuna")).args(args).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// An autoregressive checkpoint with the tokenizer of the golden ones.
fn autoregressive(dir: &Path) -> String {
    let model = Transformer::init(Config::default(), 3, DType::F32, &Device::Cpu).unwrap();
    model.save(dir).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden().join(file), dir.join(file)).unwrap();
    }
    dir.display().to_string()
}

#[test]
fn every_command_refuses_the_mode_that_a_checkpoint_was_not_trained_for() {
    let dir = tempfile::tempdir().unwrap();
    let model = autoregressive(dir.path());
    let file = dir.path().join("f.py").display().to_string();
    std::fs::write(&file, "def f(x):\n    return x\n").unwrap();
    let block_diffusion = golden().display().to_string();
    let short = ["--max-new-tokens", "4"];
    let diffusion = ["--block-size", "4", "--mask-id", "5"];
    for (model, args, asks) in [
        (&model, vec!["generate", "--prompt-ids", "40,41"], Some(diffusion)),
        (&model, vec!["chat", "--prompt-ids", "40,41"], Some(diffusion)),
        (&model, vec!["fill", "--prefix", &file, "--suffix", &file], Some(diffusion)),
        (&model, vec!["edit", &file, "--instruction", "x", "--no-draft"], Some(diffusion)),
        (&model, vec!["edit", &file, "--instruction", "x"], Some(diffusion)),
        (&model, vec!["score", "--ids", "9,8,7", "--method", "exact", "--mask-id", "5"], None),
        (&block_diffusion, vec!["score", "--ids", "9,8,7", "--method", "ar"], None),
    ] {
        let mut args = [&args[..1], &["--model", model], &args[1..]].concat();
        if let Some(asks) = asks {
            args.extend(short.iter().chain(&asks));
        }
        let (status, error) = run(&args);
        assert_eq!(status, Some(1), "{args:?}: {error}");
        assert!(error.contains("write nonsense"), "{args:?}: {error}");
        args.push("--allow-mode-mismatch");
        let (status, error) = run(&args);
        assert_eq!(status, Some(0), "{args:?}: {error}");
    }
    // Without a flag that names MASK, the tokenizer's is taken; where there is none, the error says what to do.
    let args = ["generate", "--model", &model, "--prompt-ids", "40,41", "--max-new-tokens", "4"];
    let (status, error) = run(&[&args[..], &["--allow-mode-mismatch"]].concat());
    assert_eq!(status, Some(0), "{error}");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let (status, error) = run(&[&args[..], &["--allow-mode-mismatch"]].concat());
    assert_eq!(status, Some(1), "{error}");
    for part in ["--mask-id N", "without --allow-mode-mismatch", "convert --to block-diffusion"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // Unasked, each is used as what it is.
    for model in [&model, &block_diffusion] {
        let args = ["generate", "--model", model, "--prompt-ids", "40,41", "--max-new-tokens", "4"];
        assert_eq!(run(&args).0, Some(0));
    }
}
