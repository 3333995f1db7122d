//! Times a whole training step, forward, backward, clip and update, as `lacuna_train::step` does
//! it.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{Config, Mode};
use lacuna_kernels::{
    AttentionMask, Backend, KeyRanges, global_norm, linear_cross_entropy,
    linear_cross_entropy_gradients,
};
use lacuna_model::{Batch, Sequence, Transformer};
use lacuna_train::{AdamW, AdamWConfig, Parameter};

use crate::machine::Machine;
use crate::measure::{Effort, forget_peak, peak_memory_bytes, timing};
use crate::report::Whole;

pub(crate) const NAMES: [&str; 3] = [
    "train/block-diffusion/14M",
    "train/block-diffusion/14M/recompute",
    "train/block-diffusion/14M/plain",
];

const BATCH: usize = 4;
const SEQ: usize = 512;
const BLOCK_SIZE: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");
const MASK_ID: u32 = 5;

/// The model that `scripts/peers/train_step.py` trains: 13 767 552 parameters.
fn config() -> Config {
    Config {
        vocab_size: 8192,
        hidden_size: 384,
        intermediate_size: 1024,
        num_layers: 6,
        num_heads: 6,
        num_kv_heads: 6,
        head_dim: 64,
        max_position_embeddings: SEQ,
        tie_word_embeddings: true,
        mode: Mode::BlockDiffusion { block_size: BLOCK_SIZE, mask_token_id: Some(MASK_ID) },
        ..Config::default()
    }
}

/// Windows whose every second token is masked, so that each block has one, and what the masked ones are.
struct Step {
    batch: Batch,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

fn windows(vocab_size: usize) -> Result<Step> {
    let clean: Vec<u32> = (0..(BATCH * SEQ) as u32)
        .map(|i| 6 + i.wrapping_mul(2_654_435_761) % (vocab_size as u32 - 6))
        .collect();
    let rows: Vec<u32> = (0..SEQ as u32).step_by(2).collect();
    let (mut batch, mut targets) = (Batch::default(), Vec::new());
    for clean in clean.chunks_exact(SEQ) {
        let mut noisy = clean.to_vec();
        rows.iter().for_each(|row| noisy[*row as usize] = MASK_ID);
        targets.extend(rows.iter().map(|row| clean[*row as usize]));
        let window = Sequence { tokens: &noisy, wanted: Some(&rows), ..Sequence::default() };
        batch.push_noisy_and_clean(window, clean, BLOCK_SIZE)?;
    }
    let weights = vec![2.0 / (BATCH * SEQ) as f32; targets.len()]; // 1/u over the eligible tokens
    Ok(Step { batch, targets, weights })
}

/// A step as the trainer makes it; `recompute`: each layer's activations anew in the backward pass;
/// `plain`: composed of candle's own operations, its graph walked back by candle.
pub(crate) fn run(machine: &Machine, effort: Effort, name: &'static str) -> Result<Whole> {
    forget_peak();
    let (recompute, plain) = (name.ends_with("recompute"), name.ends_with("plain"));
    let backend = if plain { Backend::Reference } else { Backend::cpu() };
    let model = Transformer::init(config(), 1, DType::F32, &Device::Cpu)?.with_backend(backend);
    let parameters = model.parameters()?.iter().map(|(_, var)| Parameter::new(var.clone()));
    let mut optimizer = AdamW::new(parameters.collect(), AdamWConfig::default())?;
    let windows = windows(config().vocab_size)?;
    let mut losses = Vec::new();
    let timing = timing(effort, || {
        losses.push(match plain {
            true => plain_step(&model, &mut optimizer, &windows)?,
            false => step(&model, &mut optimizer, &windows, recompute)?,
        });
        Ok(())
    })?;
    // A fresh model knows nothing, ln(8192) = 9.01 a token; a few steps on one batch teach it something.
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    ensure!((first - 9.01).abs() < 0.3, "the first loss is {first}, not about 9.01");
    ensure!(last < first, "the loss rose from {first} to {last}");
    Ok(Whole {
        name,
        timing,
        tokens: BATCH * SEQ,
        floor: machine.floor(bytes(&model), flop()),
        peak_memory_bytes: peak_memory_bytes(),
    })
}

fn step(model: &Transformer, optimizer: &mut AdamW, step: &Step, recompute: bool) -> Result<f32> {
    let (hidden, saved) = model.forward_train(&step.batch, recompute)?;
    let head = model.head()?.detach();
    let backend = model.backend();
    let out =
        linear_cross_entropy_gradients(backend, &hidden, &head, &step.targets, &step.weights)?;
    let gradients = model.backward(saved, &out.hidden, &out.head)?;
    let gradients: Vec<Tensor> = gradients.iter().map(|(_, gradient)| gradient.clone()).collect();
    update(model.backend(), optimizer, &gradients, out.loss as f32)
}

fn plain_step(model: &Transformer, optimizer: &mut AdamW, step: &Step) -> Result<f32> {
    let hidden = model.forward(&step.batch)?;
    let head = model.head()?;
    let out = linear_cross_entropy(model.backend(), &hidden, &head, &step.targets, &step.weights)?;
    let store = out.loss.backward()?;
    let gradient = |var: &Var| store.get(var.as_tensor()).cloned();
    let gradients: Option<Vec<Tensor>> =
        model.parameters()?.iter().map(|(_, var)| gradient(var)).collect();
    let gradients = gradients.context("a parameter has no gradient")?;
    update(model.backend(), optimizer, &gradients, out.loss.to_scalar()?)
}

fn update(backend: Backend, optimizer: &mut AdamW, gradients: &[Tensor], loss: f32) -> Result<f32> {
    let norm = global_norm(backend, gradients)?;
    ensure!(norm.is_finite(), "the gradient is not finite");
    optimizer.step_with_norm(backend, gradients, norm, 1e-3)?;
    Ok(loss)
}

/// Parameters and both moments in and out, gradients in: what the optimizer alone must move.
fn bytes(model: &Transformer) -> f64 {
    let parameters = model.parameters().into_iter().flat_map(|all| all.iter());
    let count: usize = parameters.map(|(_, var)| var.elem_count()).sum();
    7.0 * 4.0 * count as f64
}

/// Products that can't be left out, forward (2 flop a pair of weight and row) and backward (twice that).
fn flop() -> f64 {
    let config = config();
    let (hidden, layers) = (config.hidden_size, config.num_layers);
    let (rows, masked) = (2 * BATCH * SEQ, BATCH * SEQ / 2);
    let square = hidden * hidden;
    let feed_forward = 3 * hidden * config.intermediate_size;
    // The first layer projects each token once, the clean ones and MASK. In the last layer the clean half is keys
    // and values only, and unmasked rows are nothing.
    let weights = (BATCH * SEQ + 1) * 3 * square
        + rows * (square + feed_forward)
        + (layers - 2) * rows * (4 * square + feed_forward)
        + rows * 2 * square
        + masked * (2 * square + feed_forward)
        + masked * hidden * config.vocab_size;
    let mask = AttentionMask::BlockDiffusion { block_size: BLOCK_SIZE, seq_len: SEQ };
    let every = KeyRanges::new(mask, 2 * SEQ, 2 * SEQ, 0);
    let last = every.select_queries(&(0..SEQ).step_by(2).collect::<Vec<_>>());
    let pairs = BATCH * ((layers - 1) * every.pairs() + last.pairs());
    6.0 * weights as f64 + 14.0 * (pairs * hidden) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_peers() {
        assert_eq!(config().parameter_count(), 13_767_552);
    }

    #[test]
    fn every_block_of_the_batch_has_a_masked_token() {
        let step = windows(8192).unwrap();
        for window in step.batch.tokens().chunks(2 * SEQ) {
            let (noisy, clean) = window.split_at(SEQ);
            assert!(noisy.chunks(BLOCK_SIZE.get()).all(|block| block.contains(&MASK_ID)));
            assert!(!clean.contains(&MASK_ID));
        }
        assert_eq!(step.batch.wanted().len(), BATCH * SEQ / 2);
    }
}
