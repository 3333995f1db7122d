//! Decodes with planned passes, and compares the tokens with the CPU's: both are a [`Denoiser`] under the same sampler.

use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use lacuna_checkpoint::{Config, Parameters};
use lacuna_device::{
    Bytes, CachedSequence, Caches, Candidate, DecodeBatch, DecodePass, Draw, Error, Machine,
    Weights,
};
use lacuna_model::{AttentionMask, Batch, KvCache, Sequence, Transformer};
use lacuna_samplers::{Denoiser, FillRule, Request, Segment, View, generate_batch};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::emulation::Emulation;
use crate::model::{State, state, tied_and_normed};

const MASK: u32 = 3;
const CAPACITY: usize = 48;

/// The computation of a pass: logits of its wanted rows, new keys and values behind each cache.
trait Model {
    fn pass(&mut self, batch: &Batch, caches: &[usize]) -> Vec<Vec<f32>>;
    fn keep(&mut self, cache: usize, tokens: usize);
}

/// Sequences behind caches, on any model. What is committed is queued, and read in front of the next pass.
struct Decoder<M> {
    model: M,
    /// For each sequence what its cache holds, and what is queued.
    sequences: Vec<(usize, Vec<u32>)>,
}

impl<M: Model> Decoder<M> {
    fn new(model: M) -> Self {
        Self { model, sequences: vec![(0, Vec::new()); 2] }
    }
}

impl<M: Model> Denoiser for Decoder<M> {
    type Error = std::convert::Infallible;

    fn prefill(&mut self, sequence: usize, tokens: &[u32], _: View) -> Result<(), Self::Error> {
        self.sequences[sequence] = (0, tokens.to_vec());
        Ok(())
    }

    fn denoise(
        &mut self,
        segments: &[Segment<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Self::Error> {
        let (mut batch, mut caches) = (Batch::default(), Vec::new());
        for segment in segments {
            let (past, queued) = &self.sequences[segment.sequence];
            let tokens = [&queued[..], segment.block].concat();
            let wanted: Vec<u32> =
                segment.rows.iter().map(|row| (queued.len() + row) as u32).collect();
            let block_size = segment.view.block_size();
            let of =
                Sequence { tokens: &tokens, past: *past, documents: None, wanted: Some(&wanted) };
            batch.push(of, AttentionMask::BlockCausal { block_size }).unwrap();
            caches.push(segment.sequence);
        }
        let logits = self.model.pass(&batch, &caches);
        for segment in segments {
            let (past, queued) = &mut self.sequences[segment.sequence];
            self.model.keep(segment.sequence, queued.len());
            *past += std::mem::take(queued).len();
        }
        logits.iter().for_each(|row| read(row));
        Ok(())
    }

    fn commit(&mut self, sequence: usize, tokens: &[u32]) -> Result<(), Self::Error> {
        self.sequences[sequence].1.extend_from_slice(tokens);
        Ok(())
    }

    fn release(&mut self, _: usize) {}
}

/// The CPU's own pass.
struct Cpu {
    model: Transformer,
    caches: Vec<KvCache>,
}

impl Model for Cpu {
    fn pass(&mut self, batch: &Batch, caches: &[usize]) -> Vec<Vec<f32>> {
        let listed = self.caches.iter_mut().enumerate().filter(|(i, _)| caches.contains(i));
        let mut listed: Vec<_> = listed.map(|(_, cache)| cache).collect();
        let hidden = self.model.forward_cached(batch, &mut listed).unwrap();
        self.model.logits(&hidden).unwrap().to_vec2().unwrap()
    }

    fn keep(&mut self, cache: usize, tokens: usize) {
        self.caches[cache].keep(0..tokens).unwrap();
    }
}

/// Passes as they are planned, on the emulation.
struct Planned {
    weights: Weights,
    caches: Caches,
    machine: Emulation,
    held: Vec<usize>,
    vocab: usize,
    /// Passes, and the largest difference of a confidence from that of its logits.
    passes: usize,
}

impl Planned {
    fn new(config: &Config, state: &Parameters<State>, schedule: i32) -> Self {
        let weights = Weights::new(config, CAPACITY).unwrap();
        let caches = weights.caches(&[CAPACITY; 2]);
        let mut machine = Emulation::new(schedule);
        machine.reserve(8 << 20).unwrap();
        for upload in weights.uploads() {
            machine.write(upload.at, &upload.data).unwrap();
        }
        for (name, (at, state)) in weights.parameters().zip(state).unwrap().iter() {
            let rounded = state.master.iter().map(|x| bf16::from_f32(*x));
            let bytes = match name.is_norm() {
                true => rounded.flat_map(|x| x.to_f32().to_ne_bytes()).collect(),
                false => rounded.flat_map(|x| x.to_ne_bytes()).collect(),
            };
            machine.write(**at, &Bytes { bytes, pointers: vec![] }).unwrap();
        }
        Self { weights, caches, machine, held: vec![0; 2], vocab: config.vocab_size, passes: 0 }
    }

    fn run(
        &mut self,
        batch: &Batch,
        caches: &[usize],
        draws: &[Draw],
    ) -> Result<DecodePass, Error> {
        let cached = |cache: &usize| CachedSequence { cache: *cache, past: self.held[*cache] };
        let sequences: Vec<_> = caches.iter().map(cached).collect();
        let segments = batch.segments_in_caches().unwrap();
        let rows = DecodeBatch {
            tokens: batch.tokens(),
            positions: batch.positions(),
            segments: &segments,
            sequences: &sequences,
            wanted: batch.wanted(),
            draws,
        };
        let pass = DecodePass::new(&self.weights, &self.caches, rows)?;
        self.machine.reserve(pass.plan.arena_bytes)?;
        for upload in &pass.plan.uploads {
            self.machine.write(upload.at, &upload.data)?;
        }
        self.machine.run(&pass.plan.steps)?;
        Ok(pass)
    }
}

impl Model for Planned {
    fn pass(&mut self, batch: &Batch, caches: &[usize]) -> Vec<Vec<f32>> {
        let n = batch.wanted().len();
        // The most probable token but MASK, which the sampler forbids too.
        let draw = Draw { forbidden: vec![MASK], ..Draw::default() };
        let pass = self.run(batch, caches, &vec![draw; n]).unwrap();
        self.passes += 1;
        let mut bytes = vec![0; 4 * n * self.vocab];
        self.machine.read(pass.logits, &mut bytes).unwrap();
        let floats: Vec<f32> =
            bytes.chunks_exact(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect();
        let rows: Vec<Vec<f32>> = floats.chunks(self.vocab).map(<[f32]>::to_vec).collect();
        for (i, row) in rows.iter().enumerate() {
            let mut bytes = [0; Candidate::BYTES];
            let at = pass.candidates + (i * Candidate::BYTES) as u64;
            self.machine.read(at, &mut bytes).unwrap();
            let found = Candidate::read(&bytes);
            let (token, confidence) = most_probable(row);
            assert_eq!(found.token, Some(token), "row {i} of pass {}", self.passes);
            assert!((found.confidence - confidence).abs() < 1e-6, "{found:?}, {confidence}");
        }
        rows
    }

    fn keep(&mut self, cache: usize, tokens: usize) {
        self.held[cache] += tokens;
    }
}

fn most_probable(row: &[f32]) -> (u32, f64) {
    let allowed = row.iter().enumerate().filter(|(i, _)| *i as u32 != MASK);
    let (token, most) =
        allowed.fold(
            (0, f32::NEG_INFINITY),
            |(token, most), (i, x)| {
                if *x > most { (i, *x) } else { (token, most) }
            },
        );
    let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
    (token as u32, 1. / sum)
}

fn config() -> Config {
    Config { hidden_size: 96, intermediate_size: 64, ..tied_and_normed() }
}

fn cpu(config: &Config, state: &Parameters<State>) -> Cpu {
    let parameters = state.zip(&config.shapes()).unwrap().map(|_, (state, shape)| {
        let x = Tensor::from_slice(&state.master, shape.as_slice(), &Device::Cpu).unwrap();
        let x = x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        Var::from_tensor(&x).unwrap()
    });
    let model = Transformer::from_parameters(config.clone(), parameters).unwrap();
    let caches = (0..2).map(|_| model.new_cache(CAPACITY).unwrap()).collect();
    Cpu { model, caches }
}

/// Two requests of different lengths, decoded in the same passes.
fn decode(denoiser: &mut impl Denoiser) -> Vec<Vec<u32>> {
    let block_size = NonZeroUsize::new(4).unwrap();
    let requests = [&[7u32, 9, 11, 5, 40, 41, 42, 8][..], &[100, 101, 7]].map(|prompt| Request {
        fill: FillRule::LowConfidence,
        ..Request::new(prompt.to_vec(), 9, block_size, MASK)
    });
    let generations = generate_batch(denoiser, requests, |_| ControlFlow::Continue(()));
    generations.into_iter().map(|generation| generation.unwrap().tokens).collect()
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn two_requests_that_are_decoded_by_planned_passes_get_the_cpus_tokens() {
    let config = config();
    let state = state(&config);
    let expected = decode(&mut Decoder::new(cpu(&config, &state)));
    for schedule in [0, 6] {
        let mut planned = Decoder::new(Planned::new(&config, &state, schedule));
        assert_eq!(decode(&mut planned), expected, "schedule {schedule}");
        assert!(planned.model.passes > 4);
    }
}
