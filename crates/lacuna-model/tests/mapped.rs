//! A model that goes on reading its checkpoint's files.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::path::{Path, PathBuf};

use lacuna_model::{Transformer, Weights};

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
    let tokens = candle_core::Tensor::new(&[[1u32, 2]], &candle_core::Device::Cpu).unwrap();
    let pass = || model.hidden(&tokens, lacuna_kernels::AttentionMask::Causal, None, None);
    pass().unwrap();
    let file = dir.path().join("model.safetensors");
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(64).unwrap();
    let error = pass().unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("held"), "{error}");
}
