//! Measures what reading prompts with rounded activations costs and saves: time, logits behind a prompt, tokens.
//!
//! `cargo run --release -p lacuna-engine --example prompt_precision -- MODEL FILE…` takes the first 338 tokens of each
//! file as a prompt. Logits are those of its last 32 tokens, computed exactly behind what was read in either precision;
//! tokens are the 64 most probable that follow.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use lacuna_engine::{
    Activations, Algorithm, GenerateOptions, Model, OpenOptions, Session, generate,
};
use lacuna_model::{AttentionMask, Batch, KvCache, Sequence};
use lacuna_samplers::{Denoiser, View};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROMPT_TOKENS: usize = 338;
const LOGIT_ROWS: usize = 32;
const NEW_TOKENS: usize = 64;
/// Reads of each prompt in each precision, in turn; the fastest counts.
const READS: usize = 3;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, files @ ..] = &args[..] else { return Err("MODEL FILE…".into()) };
    let model = Model::open(Path::new(model), &OpenOptions::default())?;
    if model.prompt_precision(Activations::Int8) == Activations::F32 {
        return Err("the model's weights have no form for rounded activations".into());
    }
    println!(
        "| prompt | tokens | f32 | int8 | logits: largest error | mean | KL, nats | same tokens |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut all = Measured::default();
    for file in files {
        let mut prompt = model.tokenizer()?.encode(&std::fs::read_to_string(file)?)?;
        prompt.truncate(PROMPT_TOKENS);
        let measured = measured(&model, &prompt)?;
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
        measured.print(&name, prompt.len());
        all.add(&measured, files.len());
    }
    all.print("mean (largest error of all)", PROMPT_TOKENS);
    Ok(())
}

/// The results of one prompt, or of all.
#[derive(Default)]
struct Measured {
    /// Seconds in f32 and in int8.
    seconds: [f64; 2],
    largest: f32,
    mean: f32,
    divergence: f64,
    /// The share of places in which both continuations have the same token.
    same: f64,
}

impl Measured {
    fn print(&self, name: &str, tokens: usize) {
        let Self { seconds: [exact, rounded], largest, mean, divergence, same } = self;
        println!(
            "| {name} | {tokens} | {exact:.3} s | {rounded:.3} s | {largest:.3} | {mean:.4} | {divergence:.5} | \
             {:.0} % |",
            100. * same
        );
    }

    fn add(&mut self, other: &Self, count: usize) {
        let n = count as f64;
        for (seconds, other) in self.seconds.iter_mut().zip(other.seconds) {
            *seconds += other / n;
        }
        self.largest = self.largest.max(other.largest);
        self.mean += other.mean / n as f32;
        self.divergence += other.divergence / n;
        self.same += other.same / n;
    }
}

fn measured(model: &Model, prompt: &[u32]) -> Result<Measured> {
    let precisions = [Activations::F32, Activations::Int8];
    let mut seconds = [f64::MAX; 2];
    for _ in 0..READS {
        for (seconds, precision) in seconds.iter_mut().zip(precisions) {
            *seconds = seconds.min(reading_seconds(model, prompt, precision)?);
        }
    }
    let [exact, rounded] = precisions.map(|precision| logits(model, prompt, precision));
    let (exact, rounded) = (exact?, rounded?);
    let errors = exact.iter().flatten().zip(rounded.iter().flatten()).map(|(a, b)| (a - b).abs());
    let [a, b] = precisions.map(|precision| continuation(model, prompt, precision));
    let (a, b) = (a?, b?);
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    let divergences = exact.iter().zip(&rounded).map(|(p, q)| divergence(p, q));
    Ok(Measured {
        seconds,
        largest: errors.clone().fold(0., f32::max),
        mean: errors.clone().sum::<f32>() / errors.count() as f32,
        divergence: divergences.sum::<f64>() / exact.len() as f64,
        same: same as f64 / a.len().max(b.len()) as f64,
    })
}

/// The seconds of a pass over the prompt and nothing else.
fn reading_seconds(model: &Model, prompt: &[u32], precision: Activations) -> Result<f64> {
    let mut session = Session::new(Arc::clone(&model.transformer));
    session.read_prompt_in(0, precision);
    // Blocks of one token are causal, and their prompt has a pass of its own in either precision.
    let view = View::Blocks { block_size: std::num::NonZeroUsize::MIN };
    session.prefill(0, prompt, view)?;
    Ok(session.prefill_seconds())
}

/// The logits of the last tokens, [`LOGIT_ROWS`] rows, behind what was read of the others.
fn logits(model: &Model, prompt: &[u32], precision: Activations) -> Result<Vec<Vec<f32>>> {
    let model = &model.transformer;
    let mut cache = KvCache::new(model.config(), prompt.len(), model.dtype(), model.device())?;
    let mut pass = |tokens: &[u32], wanted: Option<&[u32]>, precision| -> Result<Tensor> {
        let sequence = Sequence { tokens, past: cache.len(), wanted, documents: None };
        let batch = Batch::of(sequence, AttentionMask::Causal)?.in_precision(precision);
        let hidden = model.forward_cached(&batch, &mut [&mut cache])?;
        cache.keep(0..tokens.len())?;
        Ok(hidden)
    };
    let read = prompt.len().saturating_sub(LOGIT_ROWS);
    if read > 0 {
        pass(&prompt[..read], Some(&[]), precision)?;
    }
    let hidden = pass(&prompt[read..], None, Activations::F32)?;
    Ok(model.logits(&hidden)?.to_vec2()?)
}

fn continuation(model: &Model, prompt: &[u32], precision: Activations) -> Result<Vec<u32>> {
    let options = GenerateOptions {
        max_new_tokens: NEW_TOKENS,
        algorithm: Some(Algorithm::Autoregressive),
        allow_mode_mismatch: true,
        eos_ids: Some(Vec::new()),
        prompt_precision: precision,
        ..GenerateOptions::default()
    };
    Ok(generate(model, prompt.to_vec(), &options, |_| {})?.tokens)
}

/// KL(p ‖ q) of the distributions that two rows of logits stand for.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let normalized = |row: &[f32]| -> Vec<f64> {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|l| f64::from(l - highest).exp()).sum();
        row.iter().map(|l| f64::from(l - highest) - sum.ln()).collect()
    };
    let (p, q) = (normalized(p), normalized(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}
