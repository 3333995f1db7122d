//! Times passes and whole decodes, on a given checkpoint or on random weights of SmolLM2-135M's
//! shape.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use lacuna::{
    Algorithm, CachePrecision, DraftSource, Engine, EngineOptions, Event, GenerateOptions, Model,
    OpenOptions, Resolved, Session, generate,
};
use lacuna_checkpoint::{Config, Mode};
use lacuna_model::Transformer;
use lacuna_samplers::{Denoiser, Segment, View};

use crate::machine::Machine;
use crate::measure::{Effort, forget_peak, peak_memory_bytes, timing};
use crate::report::Whole;

pub(crate) const NAMES: [&str; 16] = [
    "decode/pass-1",
    "decode/pass-4",
    "decode/pass-8",
    "decode/block-diffusion",
    "decode/autoregressive",
    "decode/requests-1",
    "decode/requests-2",
    "decode/requests-4",
    "decode/requests-8",
    "decode/requests-16",
    "decode/past-2048-f32",
    "decode/past-2048-bf16",
    "decode/past-2048-q8_0",
    "decode/past-8000-f32",
    "decode/past-8000-bf16",
    "decode/past-8000-q8_0",
];

const CONTEXT: usize = 128;
const NEW_TOKENS: usize = 64;
const BLOCK_SIZE: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");
const MASK_ID: u32 = 4;

fn config() -> Config {
    Config {
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: 30,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        max_position_embeddings: 8192,
        rope_theta: 1e5,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        mode: Mode::BlockDiffusion { block_size: BLOCK_SIZE, mask_token_id: Some(MASK_ID) },
        ..Config::default()
    }
}

pub(crate) fn run(
    machine: &Machine,
    effort: Effort,
    checkpoint: Option<&Path>,
    names: &[&'static str],
) -> Result<Vec<Whole>> {
    let scratch = tempfile::tempdir().context("no room for a temporary checkpoint")?;
    let path = match checkpoint {
        Some(path) => path,
        None => {
            eprintln!("writing random weights of SmolLM2-135M's shape …");
            Transformer::init(config(), 1, DType::F32, &Device::Cpu)?.save(scratch.path())?;
            scratch.path()
        }
    };
    let model = Model::open(path, &OpenOptions::default())?;
    // Read once for every pass, whatever it holds: the weights as they are stored.
    let weights = lacuna_checkpoint::Weights::open(path)?.report().bytes as f64;
    let mut measured = Vec::new();
    for name in names {
        forget_peak();
        // Bytes of keys and values that a pass reads, where they are counted.
        let mut cache = 0.0;
        let (timing, tokens, passes) = match *name {
            "decode/pass-1" => (pass(&model.transformer, effort, CONTEXT, 1)?, 1, 1),
            "decode/pass-4" => (pass(&model.transformer, effort, CONTEXT, 4)?, 4, 1),
            "decode/pass-8" => (pass(&model.transformer, effort, CONTEXT, 8)?, 8, 1),
            "decode/block-diffusion" => {
                (write(&model, effort, Algorithm::Blocks)?, NEW_TOKENS, NEW_TOKENS)
            }
            "decode/autoregressive" => {
                (write(&model, effort, Algorithm::Autoregressive)?, NEW_TOKENS, NEW_TOKENS)
            }
            behind if behind.starts_with("decode/past-") => {
                let (past, precision) = behind["decode/past-".len()..]
                    .split_once('-')
                    .and_then(|(past, name)| {
                        Some((past.parse().ok()?, CachePrecision::from_name(name)?))
                    })
                    .context("a name without a number and a format")?;
                let transformer = Transformer::clone(&model.transformer);
                let transformer = Arc::new(transformer.with_cache_precision(precision)?);
                cache = past as f64 * transformer.cache_bytes_per_token() as f64;
                (pass(&transformer, effort, past, 4)?, 4, 1)
            }
            several => {
                let (_, count) = several.rsplit_once('-').context("a name without a number")?;
                let count = count.parse()?;
                (together(&model, effort, count)?, count * NEW_TOKENS, NEW_TOKENS + count)
            }
        };
        measured.push(Whole {
            name,
            timing,
            tokens,
            floor: machine.floor(weights * passes as f64 + cache, 0.0),
            peak_memory_bytes: peak_memory_bytes(),
        });
    }
    Ok(measured)
}

fn prompt(tokens: usize, vocab_size: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| 10 + i * 7919 % (vocab_size as u32 - 10)).collect()
}

/// One denoising pass over `tokens` masks behind `past` tokens, every row wanted.
fn pass(
    model: &Arc<Transformer>,
    effort: Effort,
    past: usize,
    tokens: usize,
) -> Result<crate::measure::Timing> {
    let block_size = NonZeroUsize::new(tokens).context("a pass over no token")?;
    let mut session = Session::new(Arc::clone(model));
    let vocab_size = model.config().vocab_size;
    let view = View::Blocks { block_size };
    session.prefill(0, &prompt(past, vocab_size), view)?;
    let mask_id = model.config().mask_token_id().unwrap_or(MASK_ID);
    let block = vec![mask_id; tokens];
    let rows: Vec<usize> = (0..tokens).collect();
    timing(effort, || {
        let segment = Segment { sequence: 0, view, block: &block, rows: &rows };
        let mut read = 0;
        session.denoise(&[segment], &mut |logits| {
            read += usize::from(logits.len() == vocab_size);
        })?;
        ensure!(read == tokens, "{read} rows of logits of {tokens}");
        Ok(())
    })
}

/// A continuation without an end, one token a refinement, commits fused.
fn options(model: &Model, algorithm: Algorithm) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: NEW_TOKENS,
        block_size: Some(BLOCK_SIZE),
        steps: NonZeroUsize::new(NEW_TOKENS),
        eos_ids: Some(Vec::new()),
        mask_id: Some(model.config().mask_token_id().unwrap_or(MASK_ID)),
        algorithm: Some(algorithm),
        allow_mode_mismatch: true,
        // Kernels and passes are timed, not what a text repeats.
        drafts: Some(DraftSource::None),
        ..GenerateOptions::default()
    }
}

/// A whole continuation of one prompt.
fn write(model: &Model, effort: Effort, algorithm: Algorithm) -> Result<crate::measure::Timing> {
    let options = options(model, algorithm);
    let prompt = prompt(CONTEXT, model.config().vocab_size);
    let mut first = None;
    timing(effort, || {
        let written = generate(model, prompt.clone(), &options, |_| {})?;
        ensure!(written.tokens.len() == NEW_TOKENS, "{} tokens", written.tokens.len());
        let first = first.get_or_insert_with(|| written.tokens.clone());
        ensure!(*first == written.tokens, "the same request gave other tokens");
        Ok(())
    })
}

/// As many prompts as there are, in blocks, in the same passes; each gets the tokens that it gets alone.
fn together(model: &Model, effort: Effort, count: usize) -> Result<crate::measure::Timing> {
    let options = options(model, Algorithm::Blocks);
    let prompts: Vec<Vec<u32>> = (0..count)
        .map(|n| {
            let mut prompt = prompt(CONTEXT, model.config().vocab_size);
            prompt.rotate_left(n);
            prompt
        })
        .collect();
    let last = prompts.last().context("no prompt")?;
    let alone = generate(model, last.clone(), &options, |_| {})?.tokens;
    timing(effort, || {
        let mut engine = Engine::new(model, EngineOptions::default());
        for prompt in &prompts {
            engine.push(Resolved::new(model, prompt.clone(), &options)?)?;
        }
        let mut written = BTreeMap::new();
        while !engine.is_empty() {
            for event in engine.step() {
                match event {
                    Event::Finished { id, completion: one } => drop(written.insert(id, one.tokens)),
                    Event::Failed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
        }
        let whole = written.values().filter(|tokens| tokens.len() == NEW_TOKENS).count();
        ensure!(whole == count, "{whole} of {count} texts came whole");
        ensure!(written.values().last() == Some(&alone), "a request gets other tokens than alone");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_random_model_has_the_shape_of_smollm2() {
        assert_eq!(config().parameter_count(), 134_515_008);
    }
}
