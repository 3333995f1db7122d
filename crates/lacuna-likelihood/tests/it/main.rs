//! Holds likelihoods and orders of filling to their definitions, spelt out in f64 over every masked text there is.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod definitions;
mod orders;
mod windows;

use candle_core::{DType, Device};
use lacuna_checkpoint::Config;
use lacuna_likelihood::{Blocks, Method, Scoring};
use lacuna_model::{Attention, AttentionMask, Batch, Sequence, Transformer};
use lacuna_objective::Predicts;
use std::num::NonZeroUsize;

const MASK: u32 = 5;
const VOCAB: usize = 64;

/// A model whose weights are large enough that every context matters.
fn model(predicts: Predicts) -> Transformer {
    let config = Config {
        vocab_size: VOCAB,
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        ..Config::default()
    };
    let mut model = Transformer::init(config, 5, DType::F32, &Device::Cpu).unwrap();
    for (name, var) in model.parameters().unwrap().iter() {
        if !name.is_norm() {
            var.set(&(var.as_tensor() * 8.0).unwrap()).unwrap();
        }
    }
    model.set_predicts(predicts);
    model
}

fn text(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| 6 + (i * 37 + i * i * 5 + 11) % 50).collect()
}

fn scoring(method: Method, attention: Attention, block_size: usize) -> Scoring {
    let blocks = Blocks { block_size: NonZeroUsize::new(block_size).unwrap(), mask_id: MASK };
    Scoring { method, blocks: Some(blocks), attention, document_mask: false, batch_size: 3 }
}

/// log p of every token of the vocabulary at each position of a noisy text, by the definition: blocks see themselves and
/// the clean blocks before them, or the noisy text as a whole under full attention. All in one pass over [noisy ; clean].
fn log_p(
    model: &Transformer,
    noisy: &[u32],
    clean: &[u32],
    attention: Attention,
    block_size: usize,
) -> Vec<Vec<f64>> {
    let n = clean.len();
    let is_shifted = model.config().predicts == Predicts::Next;
    let mut batch = Batch::default();
    let all: Vec<u32> = (0..2 * n as u32).collect();
    match attention {
        Attention::Full => {
            batch.push(Sequence::from(noisy), AttentionMask::Full).unwrap();
        }
        _ => {
            let size = NonZeroUsize::new(block_size).unwrap();
            let noisy = Sequence { tokens: noisy, wanted: Some(&all), ..Sequence::default() };
            batch.push_noisy_and_clean(noisy, clean, size).unwrap();
        }
    }
    let hidden = model.forward(&batch).unwrap();
    let logits = model.logits(&hidden).unwrap().to_dtype(DType::F64).unwrap();
    let logits = logits.to_vec2::<f64>().unwrap();
    let row = |position: usize| match (is_shifted, attention) {
        (false, _) => position,
        // A shifted head reads a block's first token off the clean row before it.
        (true, Attention::Full) => position.saturating_sub(1),
        (true, _) if position.is_multiple_of(block_size) => (n + position).saturating_sub(1),
        (true, _) => position - 1,
    };
    let normal = |row: &Vec<f64>| {
        let sum = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        row.iter().map(|logit| logit - sum).collect()
    };
    (0..n).map(|position| normal(&logits[row(position)])).collect()
}

/// Equal, but for the rounding of f32 sums.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 2e-5 * b.abs().max(1.0)
}
