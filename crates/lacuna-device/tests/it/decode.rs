//! Decodes with planned passes, and compares the tokens with the CPU's: both are a [`Denoiser`] under the same sampler.

use candle_core::{Device, Tensor, Var};
use half::bf16;
use lacuna_checkpoint::{Config, Name, Parameters, Parts};
use lacuna_device::{
    Bytes, CachedSequence, Caches, Candidate, DecodeBatch, DecodePass, Draw, Error, Machine,
    Weights,
};
use lacuna_kernels::{Backend, StorageDtype, WeightMatrix};
use lacuna_model::{AttentionMask, Batch, KvCache, Sequence, Transformer};
use lacuna_samplers::{Denoiser, FillRule, Request, Segment, View, generate_batch};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::emulation::Emulation;
use crate::model::{State, biased, state, tied_and_normed};

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
    fn new(config: &Config, kept: &Parameters<Kept>, schedule: i32) -> Self {
        let formats = kept.map(|_, kept| kept.dtype);
        let weights = Weights::stored(config, CAPACITY, &formats).unwrap();
        let caches = weights.caches(&[CAPACITY; 2]);
        let mut machine = Emulation::new(schedule);
        machine.reserve(8 << 20).unwrap();
        for upload in weights.uploads() {
            machine.write(upload.at, &upload.data).unwrap();
        }
        for (_, (weight, kept)) in weights.parameters().zip(kept).unwrap().iter() {
            assert_eq!(weight.dtype, kept.dtype);
            let bytes = Bytes { bytes: kept.bytes.clone(), pointers: vec![] };
            machine.write(weight.at, &bytes).unwrap();
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

/// A parameter as it is stored, and the numbers that it stands for.
struct Kept {
    dtype: StorageDtype,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Kept {
    fn new(state: &State, shape: &[usize], dtype: StorageDtype) -> Self {
        let rounded: Vec<_> = state.master.iter().map(|x| bf16::from_f32(*x)).collect();
        let values: Vec<f32> = rounded.iter().map(|x| x.to_f32()).collect();
        let (bytes, values) = match dtype {
            StorageDtype::F32 => (values.iter().flat_map(|x| x.to_ne_bytes()).collect(), values),
            StorageDtype::BF16 => (rounded.iter().flat_map(|x| x.to_ne_bytes()).collect(), values),
            _ => {
                let [rows, columns] = shape.try_into().unwrap();
                let matrix = WeightMatrix::quantize(&values, rows, columns, dtype).unwrap();
                let values = matrix.to_tensor(Backend::Reference).unwrap();
                let values = values.flatten_all().unwrap().to_vec1().unwrap();
                (matrix.as_bytes().to_vec(), values)
            }
        };
        Self { dtype, bytes, values }
    }
}

/// Every parameter of a model, its matrices in the format that `dtype` says.
fn kept(config: &Config, dtype: impl Fn(Name) -> StorageDtype) -> Parameters<Kept> {
    state(config).zip(&config.shapes()).unwrap().map(|name, (state, shape)| {
        let dtype = if shape.len() == 1 { StorageDtype::F32 } else { dtype(name) };
        Kept::new(state, shape, dtype)
    })
}

fn cpu(config: &Config, kept: &Parameters<Kept>) -> Cpu {
    let parameters = kept.zip(&config.shapes()).unwrap().map(|_, (kept, shape)| {
        let x = Tensor::from_slice(&kept.values, shape.as_slice(), &Device::Cpu).unwrap();
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
    let kept = kept(&config, |_| StorageDtype::BF16);
    let expected = decode(&mut Decoder::new(cpu(&config, &kept)));
    for schedule in [0, 6] {
        let mut planned = Decoder::new(Planned::new(&config, &kept, schedule));
        assert_eq!(decode(&mut planned), expected, "schedule {schedule}");
        assert!(planned.model.passes > 4);
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn quantized_weights_and_biases_give_the_cpus_tokens() {
    let parts = Parts { qk_norm: true, ..biased().parts };
    // Rows of whole blocks of every format, also where the attention's output is read.
    let config = Config { hidden_size: 256, intermediate_size: 256, parts, ..config() };
    let formats = [StorageDtype::Q8_0, StorageDtype::Q4_0, StorageDtype::Q4_1, StorageDtype::Q4K];
    for shift in 0..formats.len() {
        // Each projection of a layer has a format of its own, and in turn every format.
        let kept = kept(&config, |name| formats[(name.field as usize + shift) % formats.len()]);
        let expected = decode(&mut Decoder::new(cpu(&config, &kept)));
        let mut planned = Decoder::new(Planned::new(&config, &kept, 0));
        assert_eq!(decode(&mut planned), expected, "shift {shift}");
    }
}

#[test]
fn formats_without_kernels_and_rows_of_broken_blocks_are_refused() {
    let refused = |config: &Config, dtype| {
        let formats = config.shapes().map(|_, _| dtype);
        Weights::stored(config, CAPACITY, &formats).unwrap_err().to_string()
    };
    let error = refused(&config(), StorageDtype::Q6K);
    assert!(error.contains("q6_k") && error.contains("q8_0"), "{error}");
    let error = refused(&config(), StorageDtype::Q4K);
    assert!(error.contains("[300, 96] numbers in q4_k"), "{error}");
}
