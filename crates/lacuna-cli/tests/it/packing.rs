//! Packs with `lacuna pack` and trains on it: both say what they passed over.

use lacuna_test::fixtures;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn lacuna(folder: &Path, arguments: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_lacuna");
    Command::new(binary).current_dir(folder).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

/// A folder with a tokenizer, a corpus of one file and a recipe of two steps.
fn folder(data: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::copy(fixtures().join("tokenizer/tokenizer.json"), root.join("tok.json")).unwrap();
    fs::create_dir(root.join("src")).unwrap();
    fs::write(root.join("src/a.py"), "def f(x):\n    return x + 1\n".repeat(40)).unwrap();
    fs::write(root.join("src/.env"), "hidden").unwrap();
    let recipe = format!(
        "name = \"r\"\nseed = 1\n[model]\nhidden_size = 16\nintermediate_size = 16\nlayers = 1\nheads = 2\n\
         [data]\ntokenizer = \"tok.json\"\nwindow = 16\n{data}\n\
         [[stage]]\nname = \"a\"\nobjective = \"autoregressive\"\nsteps = 2\nbatch_size = 2\nlearning_rate = 1e-3\n"
    );
    fs::write(root.join("r.toml"), recipe).unwrap();
    folder
}

const PACK: [&str; 7] = ["pack", "--tokenizer", "tok.json", "--window", "16", "--out", "shards"];

fn pack(folder: &Path, more: &[&str]) -> Output {
    lacuna(folder, &[&PACK, more].concat())
}

fn train(folder: &Path, out: &str, more: &[&str]) -> Output {
    lacuna(folder, &[&["train", "r.toml", "--out", out], more].concat())
}

#[test]
fn shards_with_nothing_held_out_train_as_the_corpus_does() {
    let shards = folder("shards = \"shards\"");
    let root = shards.path();
    let packed = pack(root, &["--held-out", "0", "src"]);
    assert!(packed.status.success(), "{}", said(&packed));
    assert!(said(&packed).contains("passed over 1 hidden"), "{}", said(&packed));
    assert!(!root.join("shards/held-out").exists());
    let ran = train(root, "run", &[]);
    assert!(ran.status.success(), "{}", said(&ran));
    assert!(said(&ran).contains("nothing is held out"), "{}", said(&ran));
    // As earlier versions left it.
    fs::create_dir(root.join("shards/held-out")).unwrap();
    assert!(train(root, "run-2", &["-q"]).status.success());

    let corpus = folder("corpus = [\"src\"]\nheld_out = 0.0");
    let ran = train(corpus.path(), "run", &[]);
    assert!(said(&ran).contains("passed over 1 hidden"), "{}", said(&ran));
    let weights = |root: &Path| fs::read(root.join("run/final/model.safetensors")).unwrap();
    assert!(weights(root) == weights(corpus.path()), "other windows from shards than from text");
}

#[test]
fn shards_that_do_not_fit_or_are_damaged_are_named_before_the_first_step() {
    let folder = folder("shards = \"shards\"");
    let root = folder.path();
    assert!(pack(root, &["--held-out", "0", "src"]).status.success());
    let ran = train(root, "run", &["--set", "data.window=8"]);
    assert!(said(&ran).contains("windows hold 16 tokens, data.window says 8"), "{}", said(&ran));
    let shard = root.join("shards/train/shard-00000.bin");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[130] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let ran = train(root, "run", &[]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(said(&ran).contains("shard 0") && said(&ran).contains("hash"), "{}", said(&ran));
    let ran = train(root, "run", &["-q", "--set", "data.verify_shards=false"]);
    assert!(ran.status.success(), "{}", said(&ran));
}

#[test]
fn a_packing_is_whole_or_absent_and_never_over_another() {
    let folder = folder("");
    let root = folder.path();
    let failed = pack(root, &["nowhere"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(!root.join("shards").exists(), "nothing is left of a packing that failed");
    assert!(pack(root, &["--held-out", "0", "src"]).status.success());
    let before = fs::read(root.join("shards/train/manifest.json")).unwrap();
    let again = pack(root, &["--held-out", "0", "src"]);
    assert!(said(&again).contains("already holds shards"), "{}", said(&again));
    assert_eq!(fs::read(root.join("shards/train/manifest.json")).unwrap(), before);
    let names: Vec<_> =
        fs::read_dir(root.join("shards")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["train"]);
}

#[test]
fn numbers_that_no_recipe_can_say_are_wrong_usage() {
    let folder = folder("");
    for flags in [["--window", "1"], ["--held-out", "1"], ["--held-out", "NaN"]] {
        let ran = lacuna(
            folder.path(),
            &[&["pack", "--tokenizer", "tok.json", "--out", "o"], &flags[..], &["src"]].concat(),
        );
        assert_eq!(ran.status.code(), Some(2), "{flags:?} {}", said(&ran));
    }
    let flags = ["tokenizer", "--vocab-size", "300", "--out", "t", "--held-out", "2", "src"];
    assert_eq!(lacuna(folder.path(), &flags).status.code(), Some(2));
    let all = pack(folder.path(), &["--held-out", "0.9999999", "src"]);
    assert!(said(&all).contains("all 1 documents are held out"), "{}", said(&all));
}

#[test]
fn a_model_gives_its_tokenizer_to_packing_as_it_does_to_a_run() {
    let folder = folder("shards = \"shards\"");
    let root = folder.path();
    let model =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/tiny_untied");
    let model = model.to_str().unwrap();
    assert!(lacuna(root, &["convert", model, "model.gguf"]).status.success());
    let packed = |tokenizer: &str, out: &str| {
        let ran = lacuna(
            root,
            &["pack", "--tokenizer", tokenizer, "--window", "16", "--out", out, "src"],
        );
        assert!(ran.status.success(), "{}", said(&ran));
        let manifest = files(&root.join(out));
        assert!(!manifest.is_empty());
        manifest
    };
    let expected = packed(&format!("{model}/tokenizer.json"), "of-file");
    assert!(packed(model, "of-folder") == expected);
    assert!(packed("model.gguf", "of-gguf").len() == expected.len());
}

#[test]
fn a_corpus_is_packed_beside_the_run_once() {
    let folder = folder("corpus = [\"src\"]\nheld_out = 0.0");
    let root = folder.path();
    let ran = train(root, "runs/one", &[]);
    assert!(ran.status.success(), "{}", said(&ran));
    let kept = || -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(root.join("runs/.packed")).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    };
    let first = kept();
    assert_eq!(first.len(), 1);
    let shard = first[0].join("train/shard-00000.bin");
    let written = fs::metadata(&shard).unwrap().modified().unwrap();
    let ran = train(root, "runs/two", &[]);
    assert!(ran.status.success() && kept() == first, "{}", said(&ran));
    assert_eq!(fs::metadata(&shard).unwrap().modified().unwrap(), written);
    assert!(said(&ran).contains("passed over 1 hidden"), "{}", said(&ran));
    let mut bytes = fs::read(&shard).unwrap();
    bytes[140] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let ran = train(root, "runs/three", &[]);
    assert!(ran.status.success(), "{}", said(&ran));
    assert!(said(&ran).contains("damaged") && said(&ran).contains("shard 0"), "{}", said(&ran));
    let weights = |run: &str| fs::read(root.join(run).join("final/model.safetensors")).unwrap();
    assert!(
        weights("runs/one") == weights("runs/two") && weights("runs/one") == weights("runs/three")
    );
}

#[test]
fn a_mixture_trains_and_goes_on_where_it_stopped() {
    let folder = folder(
        "[[data.source]]\nshards = \"shards\"\nweight = 0.75\n[[data.source]]\ncorpus = [\"src\"]\nweight = 0.25",
    );
    let root = folder.path();
    fs::create_dir(root.join("more")).unwrap();
    fs::write(root.join("more/b.rs"), "fn f(x: u8) -> u8 { x }\n".repeat(60)).unwrap();
    assert!(pack(root, &["--held-out", "0", "more"]).status.success());
    let set = ["--set", "data.held_out=0.0", "--set", "stage.0.steps=6"];
    let ran = train(root, "whole", &set);
    assert!(ran.status.success(), "{}", said(&ran));
    let every = [&set[..], &["--set", "stage.0.checkpoint_every=1"]].concat();
    assert!(train(root, "parts", &every).status.success());
    // As if it had been killed after the third step.
    for step in ["step-4", "step-5", "step-6"] {
        fs::remove_dir_all(root.join("parts/checkpoints").join(step)).ok();
    }
    fs::remove_dir_all(root.join("parts/final")).unwrap();
    let ran = train(root, "parts", &[&every[..], &["--resume"]].concat());
    assert!(ran.status.success(), "{}", said(&ran));
    let weights = |run: &str| fs::read(root.join(run).join("final/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("parts"), "a resumed mixture is another one");
    let weight = [&every[..], &["--resume", "--set", "data.source.1.weight=0.5"]].concat();
    let ran = train(root, "parts", &weight);
    assert!(said(&ran).contains("data.source.1.weight") && !ran.status.success(), "{}", said(&ran));
    let text = [&every[..], &["--resume", "--set", "data.source.1.corpus=[\"more\"]"]].concat();
    fs::remove_dir_all(root.join("parts/final")).unwrap();
    let ran = train(root, "parts", &text);
    assert!(said(&ran).contains("data.source") && !ran.status.success(), "{}", said(&ran));
}

#[test]
fn documents_end_as_the_run_says_or_the_shards_are_refused() {
    let folder = folder("shards = \"shards\"");
    let root = folder.path();
    let end = ["--held-out", "0", "--document-end", "<[PAD▁TOKEN]>", "src"];
    assert!(pack(root, &end).status.success());
    let ran = train(root, "run", &[]);
    assert!(said(&ran).contains("its documents end with <[PAD▁TOKEN]>"), "{}", said(&ran));
    let ran = train(root, "run", &["--set", "data.document_end=<[PAD▁TOKEN]>"]);
    assert!(ran.status.success(), "{}", said(&ran));
    let ran = train(root, "other", &["--set", "data.document_end=<none>"]);
    assert!(said(&ran).contains("data.document_end is `<none>`"), "{}", said(&ran));
}

#[test]
fn conversations_are_packed_and_threads_change_no_byte() {
    let folder = folder("shards = \"talk\"");
    let root = folder.path();
    let talk: String = (0..40)
        .map(|n| format!("{{\"prompt\": \"{n}?\", \"completion\": \"{}\"}}\n", "x ".repeat(n % 9)))
        .collect();
    fs::write(root.join("talk.jsonl"), talk).unwrap();
    let arguments = ["pack", "--tokenizer", "tok.json", "--window", "32", "--conversations"];
    let ran = lacuna(root, &[&arguments[..], &["--out", "talk", "talk.jsonl"]].concat());
    assert!(ran.status.success() && said(&ran).contains("conversations ("), "{}", said(&ran));
    let ran = train(root, "run", &["--set", "data.window=32", "--set", "evaluation.windows=1"]);
    assert!(ran.status.success(), "{}", said(&ran));
    for (threads, out) in [("1", "a"), ("3", "b")] {
        let arguments = [
            "--threads",
            threads,
            "pack",
            "--tokenizer",
            "tok.json",
            "--window",
            "16",
            "--out",
            out,
            "--fim-rate",
            "0.5",
            "--held-out",
            "0",
            "src",
            "r.toml",
        ];
        let ran = lacuna(root, &arguments);
        assert!(ran.status.success(), "{}", said(&ran));
    }
    assert!(files(&root.join("a")) == files(&root.join("b")));
    for flags in [
        ["--fim-rate", "2"],
        ["--fim-order", "middle"],
        ["--fim-context", "8"],
        ["--closing-eos", "4,1"],
        ["--template", "model"],
    ] {
        let ran = pack(root, &[&flags[..], &["src"]].concat());
        assert_eq!(ran.status.code(), Some(2), "{flags:?} {}", said(&ran));
    }
    let ran = pack(root, &["--languages", "pyton", "src"]);
    assert!(said(&ran).contains("no language \"pyton\""), "{}", said(&ran));
}

/// The contents of a folder's files, in the order of their paths.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    let content = |path: std::path::PathBuf| match path.is_dir() {
        true => files(&path),
        false => vec![fs::read(path).unwrap()],
    };
    entries.into_iter().flat_map(content).collect()
}

#[test]
fn flags_that_would_change_nothing_are_wrong_usage() {
    let folder = folder("corpus = [\"src\"]");
    let root = folder.path();
    fs::write(root.join("talk.jsonl"), "{\"prompt\": \"a\", \"completion\": \"b\"}\n").unwrap();
    for (flags, words) in [
        (&["--conversations", "--languages", "python"][..], "--languages chooses documents"),
        (&["--conversations", "--skip-minified"], "--skip-minified"),
        (&["--conversations", "--max-document-bytes", "5"], "--max-document-bytes"),
        (&["--conversations", "--take-duplicates"], "--take-duplicates"),
        (&["--fim-rate", "0.5", "--template", "seed-coder"], "--template is for --conversations"),
    ] {
        let ran = pack(root, &[flags, &["talk.jsonl"]].concat());
        assert_eq!(ran.status.code(), Some(2), "{flags:?}: {}", said(&ran));
        assert!(said(&ran).contains(words), "{flags:?}: {}", said(&ran));
        assert!(!root.join("shards").exists());
    }
    for (flags, words) in [
        (&["--accept-changes"][..], "--resume"),
        (&["--json"], "give --plan with it"),
        (&["--set", "evaluation.sample_every=2"], "evaluation.prompts is empty"),
    ] {
        let ran = train(root, "run", flags);
        assert!(!ran.status.success() && said(&ran).contains(words), "{flags:?}: {}", said(&ran));
        assert!(!root.join("run").exists());
    }
}

#[cfg(unix)]
#[test]
fn a_packing_that_is_ended_by_a_signal_leaves_nothing() {
    let folder = folder("");
    let root = folder.path();
    // A pipe that nobody writes into: the packing has begun, and waits.
    let big = "def f(x):\n    return x + 1\n".repeat(400_000);
    fs::write(root.join("src/big.py"), big).unwrap();
    for out in ["new", "there"] {
        fs::create_dir_all(root.join("there")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
        command.current_dir(root).args(["pack", "--tokenizer", "tok.json", "--window", "16"]);
        command.args(["--max-document-bytes", "1G", "--quiet", "--out", out, "src"]);
        let mut child = command.spawn().unwrap();
        let begun = || {
            let there = fs::read_dir(root.join(out)).into_iter().flatten().flatten();
            there
                .map(|entry| entry.file_name())
                .any(|name| name.to_string_lossy().ends_with(".partial"))
        };
        while !begun() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be ended");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15), "{status:?}");
        let left: Vec<_> = fs::read_dir(root.join(out)).into_iter().flatten().flatten().collect();
        let left: Vec<_> =
            left.iter().map(|entry| entry.file_name()).filter(|name| *name != ".lock").collect();
        assert_eq!(left, [""; 0], "{out}");
        assert_eq!(root.join(out).exists(), out == "there");
    }
}
