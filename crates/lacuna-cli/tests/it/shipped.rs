//! Runs what the README says with the model that the repository ships.

use crate::support::{lacuna, said, stdout};
use lacuna_test::fixtures;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn model() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("models/lacuna-5m/lacuna-5m-q8_0.gguf").display().to_string()
}

fn object(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&lacuna(args))).unwrap()
}

#[test]
fn the_shipped_model_is_small_and_says_what_it_is() {
    assert!(fs::metadata(model()).unwrap().len() <= 16_000_000);
    let inspected = object(&["inspect", &model(), "--json"]);
    assert_eq!(inspected["mode"], "block-diffusion");
    assert_eq!((&inspected["block_size"], &inspected["dtype"]), (&4.into(), &"q8_0".into()));
    let said = inspected.to_string();
    assert!(said.contains("seed-coder"), "it has marks for filling in the middle: {said}");
}

#[test]
fn the_shipped_model_writes_and_fills() {
    let written = object(&[
        "generate",
        "--model",
        &model(),
        "def is_prime(n: int) -> bool:\n",
        "--max-new-tokens",
        "48",
        "--json",
    ]);
    let text = written["text"].as_str().unwrap();
    assert!(text.starts_with("    ") && text.contains('\n'), "the body of a function: {text:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("area.py");
    let code = "def area(width, height):\n    return \n\n\nprint(area(2, 3))\n";
    fs::write(&file, code).unwrap();
    let ran = lacuna(&["fill", "--model", &model(), &file.display().to_string(), "--at", "2:12"]);
    let middle = stdout(&ran);
    assert!(!middle.trim().is_empty() && !middle.contains("<["), "{}", said(&ran));
    assert_eq!(fs::read_to_string(&file).unwrap(), code, "the file is only read");
}

#[test]
fn the_shipped_model_beats_counting_pairs_on_code_that_it_has_not_read() {
    // The bigram of its own corpus needs 2.08 bits a byte of text that was held out.
    let text = fixtures().join("corpus/rust/arrayvec-0.7.8/src/array_string.rs");
    let args = [
        "score",
        "--model",
        &model(),
        "--method",
        "left-to-right",
        "--window",
        "512",
        "--json",
        "--text",
    ];
    let scored = object(&[&args[..], &[&*text.display().to_string()]].concat());
    let bits = scored["bits_per_byte"].as_f64().unwrap();
    assert!(bits < 1.2, "{bits} bits a byte");
}
