//! Tests a model that goes on reading its checkpoint's files.

use std::fs;
use std::path::{Path, PathBuf};

use lacuna_model::{AttentionMask, Batch, Transformer, Weights};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hostile")
}

#[test]
fn a_file_shortened_between_two_passes_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(corpus().join("valid/single").join(name), dir.path().join(name)).unwrap();
    }
    let model = Transformer::mapped(&Weights::open(dir.path()).unwrap()).unwrap();
    let batch = Batch::of([1u32, 2].as_slice(), AttentionMask::Causal).unwrap();
    let pass = || model.forward(&batch);
    pass().unwrap();
    let file = dir.path().join("model.safetensors");
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(64).unwrap();
    let error = pass().unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("held"), "{error}");
}
