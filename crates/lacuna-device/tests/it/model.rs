//! Makes small models and batches, and runs a step of them twice: on the CPU as `lacuna-train` does, and by a plan.

use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use lacuna_checkpoint::{Config, Field, Name, Parameters, Parts};
use lacuna_device::{
    Bytes, Layout, Machine, Optimizer, Place, StepOptions, TrainingBatch, TrainingStep,
};
use lacuna_kernels::{Segments, linear_cross_entropy_gradients};
use lacuna_model::{AttentionMask, Batch, Sequence, Transformer};
use lacuna_train::{AdamW, AdamWConfig, AdamWState, Parameter};
use std::num::NonZeroUsize;

use crate::emulation::Emulation;

pub(crate) const OPTIMIZER: Optimizer =
    Optimizer { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip_norm: Some(0.5) };
const LEARNING_RATE: f64 = 1e-2;
/// The step that is taken: moments are those of two steps before it.
const STEP: u64 = 3;

/// A model in small: four query heads on two key heads, widths that no tile divides.
pub(crate) fn config() -> Config {
    Config {
        vocab_size: 300,
        hidden_size: 72,
        intermediate_size: 104,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 64,
        max_position_embeddings: 64,
        ..Config::default()
    }
}

/// The same with a bias behind every projection.
pub(crate) fn biased() -> Config {
    let parts =
        Parts { attention_bias: true, attention_output_bias: true, mlp_bias: true, qk_norm: false };
    Config { parts, ..config() }
}

/// The same with all that a model may have besides: norms of heads, and a head that is the embedding.
pub(crate) fn tied_and_normed() -> Config {
    let parts = Parts { qk_norm: true, ..Parts::NONE };
    Config { tie_word_embeddings: true, parts, ..config() }
}

/// Numbers between −1 and 1 that are the same everywhere.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.
    };
    (0..n).map(|_| next()).collect()
}

/// A parameter's numbers before the step, in f32.
pub(crate) struct State {
    pub(crate) master: Vec<f32>,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// The state of every parameter, nowhere special: norms not 1, moments not 0.
pub(crate) fn state(config: &Config) -> Parameters<State> {
    let mut seed = 0;
    config.shapes().map(|name, shape| {
        seed += 3;
        let n = shape.iter().product();
        let columns = *shape.last().unwrap() as f32;
        // Matrices of layers as they are when training begins: the larger they are, the more of bf16's rounding reaches
        // the gradients.
        let (at, scale) = match name.layer {
            _ if name.is_norm() => (1., 0.3),
            Some(_) => (0., 0.425 / columns.sqrt()),
            None => (0., 1.7 / columns.sqrt()),
        };
        let master = noise(seed, n).into_iter().map(|x| at + scale * x).collect();
        let first = noise(seed + 1, n).into_iter().map(|x| 1e-3 * x).collect();
        let second = noise(seed + 2, n).into_iter().map(|x| 1e-6 * (1.5 + x)).collect();
        State { master, first, second }
    })
}

/// A batch as a pass reads it, and what is supervised of it.
pub(crate) struct Supervised {
    pub(crate) batch: Batch,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

fn tokens(salt: usize, n: usize, vocab: usize) -> Vec<u32> {
    // A few tokens are most of a text.
    let token = |x: f32| (x * x * x * (vocab as f32 - 1.)).abs() as u32;
    noise(salt as u64 + 99, n).into_iter().map(token).collect()
}

impl Supervised {
    fn new(batch: Batch, vocab: usize) -> Self {
        let n = batch.wanted().len();
        let targets = tokens(5, n, vocab).into_iter().map(|token| token * 7 % vocab as u32);
        let targets = targets.collect();
        let weights = noise(7, n).into_iter().map(|x| (2. + x) / n as f32).collect();
        Self { batch, targets, weights }
    }

    /// Windows of these documents under block diffusion, noisy and clean, of which some rows are wanted.
    pub(crate) fn diffusion(config: &Config, windows: &[&[usize]]) -> Self {
        let mut batch = Batch::default();
        for (i, documents) in windows.iter().enumerate() {
            let n = documents.iter().sum();
            let [noisy, clean] = [i, i + 50].map(|salt| tokens(salt, n, config.vocab_size));
            // Masked rows, and rows of the clean half: a shifted head reads those.
            let wanted: Vec<u32> = (0..2 * n as u32).filter(|row| row * 5 % 7 < 3).collect();
            let documents = (documents.len() > 1).then_some(*documents);
            let noisy = Sequence { tokens: &noisy, documents, wanted: Some(&wanted), past: 0 };
            batch.push_noisy_and_clean(noisy, &clean, NonZeroUsize::new(4).unwrap()).unwrap();
        }
        Self::new(batch, config.vocab_size)
    }

    /// The batch as a step takes it.
    pub(crate) fn on<'a>(&'a self, segments: &'a Segments) -> TrainingBatch<'a> {
        TrainingBatch {
            tokens: self.batch.tokens(),
            positions: self.batch.positions(),
            segments,
            wanted: self.batch.wanted(),
            targets: &self.targets,
            weights: &self.weights,
        }
    }

    /// The same without the last wanted row.
    pub(crate) fn less_one(mut self) -> Self {
        let (tokens, mut batch) = (self.batch.tokens().to_vec(), Batch::default());
        let n = self.batch.wanted().len() - 1;
        let wanted = &self.batch.wanted()[..n];
        let whole = Sequence { tokens: &tokens, wanted: Some(wanted), ..Sequence::default() };
        batch.push(whole, AttentionMask::Causal).unwrap();
        self.targets.truncate(n);
        self.weights.truncate(n);
        Self { batch, ..self }
    }

    /// Texts of these lengths under a causal mask, of which all rows are wanted.
    pub(crate) fn causal(config: &Config, lengths: &[usize]) -> Self {
        let mut batch = Batch::default();
        for (i, n) in lengths.iter().enumerate() {
            let tokens = tokens(i, *n, config.vocab_size);
            batch.push(tokens.as_slice().into(), AttentionMask::Causal).unwrap();
        }
        Self::new(batch, config.vocab_size)
    }
}

/// The results of a step: the loss of all micro-batches, and the last one's rows.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Results {
    pub(crate) loss: f64,
    pub(crate) norm: f64,
    pub(crate) nll: Vec<f32>,
    pub(crate) gradients: Parameters<Vec<f32>>,
    pub(crate) masters: Parameters<Vec<f32>>,
    pub(crate) values: Parameters<Vec<bf16>>,
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The step on the CPU, in f32 on parameters that are bf16 numbers; its micro-batches one after the other.
pub(crate) fn on_the_cpu(
    config: &Config,
    state: &Parameters<State>,
    micro_batches: &[&Supervised],
) -> Results {
    let shapes = config.shapes();
    let with_shapes = state.zip(&shapes).unwrap();
    let half = with_shapes
        .map(|_, (state, shape)| tensor(&state.master, shape).to_dtype(DType::BF16).unwrap());
    let parameters = half.map(|_, x| Var::from_tensor(&x.to_dtype(DType::F32).unwrap()).unwrap());
    let model = Transformer::from_parameters(config.clone(), parameters).unwrap();
    let (head, backend) = (model.head().unwrap().detach(), model.backend());
    let (mut loss, mut nll) = (0., Vec::new());
    let mut gradients: Option<Parameters<Tensor>> = None;
    for of in micro_batches {
        let (hidden, saved) = model.forward_train(&of.batch, false).unwrap();
        let part =
            linear_cross_entropy_gradients(backend, &hidden, &head, &of.targets, &of.weights);
        let part = part.unwrap();
        let of_part = model.backward(saved, &part.hidden, &part.head).unwrap();
        loss += part.loss;
        nll = part.nll;
        gradients = Some(match gradients {
            None => of_part,
            Some(sum) => sum.zip(&of_part).unwrap().map(|_, (sum, part)| (*sum + *part).unwrap()),
        });
    }
    let gradients = gradients.unwrap();

    let vars: Vec<_> = half.iter().map(|(_, x)| Var::from_tensor(x).unwrap()).collect();
    let Optimizer { beta1, beta2, eps, weight_decay, clip_norm } = OPTIMIZER;
    let config = AdamWConfig { beta1, beta2, eps, weight_decay, clip_norm, eight_bit: None };
    let mut adamw = AdamW::new(vars.iter().cloned().map(Parameter::new).collect(), config).unwrap();
    let (mut moments, mut masters) = (Vec::new(), Vec::new());
    for (_, (state, shape)) in with_shapes.iter() {
        moments.push((tensor(&state.first, shape), tensor(&state.second, shape)));
        masters.push(Some(tensor(&state.master, shape)));
    }
    adamw.restore(AdamWState { step: STEP - 1, moments, masters }).unwrap();
    let all: Vec<_> = gradients.iter().map(|(_, gradient)| gradient.clone()).collect();
    let norm = adamw.step_tensors(backend, &all, LEARNING_RATE).unwrap();
    let mut masters = adamw.state().unwrap().masters.into_iter();
    let mut values = vars.iter();
    Results {
        loss,
        norm,
        nll,
        gradients: gradients.map(|_, x| numbers(x)),
        masters: shapes.map(|_, _| numbers(&masters.next().unwrap().unwrap())),
        values: shapes
            .map(|_, _| values.next().unwrap().flatten_all().unwrap().to_vec1::<bf16>().unwrap()),
    }
}

/// A planned step and the state that it begins with.
pub(crate) struct Planned<'a> {
    pub(crate) layout: Layout,
    /// The micro-batches before the last.
    before: Vec<TrainingStep>,
    pub(crate) step: TrainingStep,
    state: &'a Parameters<State>,
}

fn floats(numbers: &[f32]) -> Bytes {
    Bytes { bytes: numbers.iter().flat_map(|x| x.to_ne_bytes()).collect(), pointers: vec![] }
}

impl<'a> Planned<'a> {
    pub(crate) fn new(
        config: &Config,
        state: &'a Parameters<State>,
        of: &Supervised,
        options: &StepOptions,
    ) -> Self {
        Self::of_all(config, state, &[of], options)
    }

    /// A step of several micro-batches, of which the last one's plan ends with the optimizer.
    pub(crate) fn of_all(
        config: &Config,
        state: &'a Parameters<State>,
        micro_batches: &[&Supervised],
        options: &StepOptions,
    ) -> Self {
        let layout = Layout::new(config, 48).unwrap();
        let last = micro_batches.len() - 1;
        let plan = |(i, of): (usize, &&Supervised)| {
            let optimizer = options.optimizer.filter(|_| i == last);
            Self::plan(&layout, of, &StepOptions { adds: i > 0, optimizer, ..*options })
        };
        let mut before: Vec<_> = micro_batches.iter().enumerate().map(plan).collect();
        let step = before.pop().unwrap();
        Self { layout, before, step, state }
    }

    fn plan(layout: &Layout, of: &Supervised, options: &StepOptions) -> TrainingStep {
        TrainingStep::new(layout, of.on(&of.batch.segments().unwrap()), options).unwrap()
    }

    /// Runs the plan, or one with a fault in it, on the emulation.
    pub(crate) fn run(&self, machine: &mut Emulation) -> lacuna_device::Result<Results> {
        let steps = || self.before.iter().chain([&self.step]);
        let bytes = steps().map(|step| step.plan.arena_bytes).max().unwrap();
        machine.reserve(bytes)?;
        // Nothing that an earlier run has left may stand in for what this one leaves out.
        machine.fill(0, bytes, 0xff)?;
        for upload in self.layout.uploads() {
            machine.write(upload.at, &upload.data)?;
        }
        for (_, (place, state)) in self.layout.parameters().zip(self.state).unwrap().iter() {
            let values = state.master.iter().flat_map(|x| bf16::from_f32(*x).to_ne_bytes());
            let values = Bytes { bytes: values.collect(), pointers: vec![] };
            machine.write(place.values, &values)?;
            machine.write(place.master, &floats(&state.master))?;
            machine.write(place.first, &floats(&state.first))?;
            machine.write(place.second, &floats(&state.second))?;
            machine.write(place.gradient, &floats(&vec![f32::NAN; place.len]))?;
        }
        machine.write(self.layout.norm, &floats(&[f32::NAN]))?;
        machine.write(self.layout.step, &OPTIMIZER.step(STEP, LEARNING_RATE))?;
        let mut loss = 0.;
        for step in steps() {
            for upload in &step.plan.uploads {
                machine.write(upload.at, &upload.data)?;
            }
            machine.run(&step.plan.steps)?;
            let mut bytes = [0; 8];
            machine.read(step.loss, &mut bytes)?;
            loss += f64::from_ne_bytes(bytes);
        }
        let mut read = |at, n| read_floats(machine, at, n);
        let nll = read(self.step.nll, self.step.wanted)?;
        let norm = f64::from(read(self.layout.norm, 1)?[0]);
        let places = self.layout.parameters();
        let mut all = |at: fn(&Place) -> u64| {
            places.try_map(|_, place| read_floats(machine, at(place), place.len))
        };
        let (gradients, masters) = (all(|place| place.gradient)?, all(|place| place.master)?);
        let values = places.try_map(|_, place| {
            let mut bytes = vec![0; 2 * place.len];
            machine.read(place.values, &mut bytes)?;
            let pairs = bytes.chunks_exact(2);
            Ok::<_, lacuna_device::Error>(
                pairs.map(|pair| bf16::from_ne_bytes([pair[0], pair[1]])).collect(),
            )
        })?;
        Ok(Results { loss, norm, nll, gradients, masters, values })
    }
}

fn read_floats(machine: &mut Emulation, at: u64, n: usize) -> lacuna_device::Result<Vec<f32>> {
    let mut bytes = vec![0; 4 * n];
    machine.read(at, &mut bytes)?;
    let words = bytes.chunks_exact(4);
    Ok(words.map(|word| f32::from_ne_bytes(word.try_into().unwrap())).collect())
}

/// ‖a − b‖ / ‖b‖; infinite if anything is no number.
pub(crate) fn error(a: &[f32], b: &[f32]) -> f64 {
    let (mut off, mut size) = (0., 0.);
    for (a, b) in a.iter().zip(b) {
        off += f64::from(a - b).powi(2);
        size += f64::from(*b).powi(2);
    }
    let error = (off / size).sqrt();
    if error.is_finite() { error } else { f64::INFINITY }
}

/// The bounds of a step in bf16.
const LOSS: f64 = 3e-3;
const GRADIENT: f64 = 1e-2;
const UPDATE: f64 = 1e-2;

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// The root of the sum of squares of what a key bias's gradient is the sum of, as the gradient of its weight tells it.
///
/// The gradient of the scores of a query sums to 0 over its keys, so the gradients of keys cancel in that of their bias, but
/// for the turn by positions, while each of them keeps its rounding to bf16: an error is to be seen beside them and not
/// beside what is left. The weight's gradient is the sum of the same terms, each by its own row of inputs. These are normed
/// rows, √h long, and differ, so that nothing cancels: ‖dW‖ / √h. Of other parameters it is 0.
fn terms_norm(name: Name, all: &Parameters<(&Vec<f32>, &Vec<f32>)>) -> f64 {
    match name.layer {
        Some(layer) if name.is_bias() && name.field == Field::K => {
            let layer = &all.layers[layer];
            let columns = layer.k.weight.1.len() / layer.k.bias.map_or(1, |(_, bias)| bias.len());
            norm(layer.k.weight.1) / (columns as f64).sqrt()
        }
        _ => 0.,
    }
}

/// Everything in which a planned step differs from the CPU's by more than bf16's rounding explains.
pub(crate) fn differences(
    found: &Results,
    cpu: &Results,
    state: &Parameters<State>,
) -> Vec<String> {
    let mut told = Vec::new();
    let mut expect = |what: String, off: f64, most: f64| {
        if off.is_nan() || off > most {
            told.push(format!("{what}: {off:.1e}, {most:.0e} at most"));
        }
    };
    expect("loss".into(), (found.loss / cpu.loss - 1.).abs(), LOSS);
    expect("norm".into(), (found.norm / cpu.norm - 1.).abs(), GRADIENT);
    expect("losses of rows".into(), error(&found.nll, &cpu.nll), LOSS);
    let all = found.gradients.zip(&cpu.gradients).unwrap();
    for (name, (found, cpu)) in all.iter() {
        let off = error(found, cpu) * norm(cpu) / terms_norm(name, &all).max(norm(cpu));
        expect(format!("gradient of {name}"), off, GRADIENT);
    }
    let masters = found.masters.zip(&cpu.masters).unwrap();
    for (name, ((found, cpu), before)) in masters.zip(state).unwrap().iter() {
        let moved = |after: &[f32]| -> Vec<f32> {
            after.iter().zip(&before.master).map(|(after, before)| after - before).collect()
        };
        expect(format!("update of {name}"), error(&moved(found), &moved(cpu)), UPDATE);
    }
    for (name, (values, master)) in found.values.zip(&found.masters).unwrap().iter() {
        let rounded = master.iter().map(|x| bf16::from_f32(*x));
        let wrong = values.iter().zip(rounded).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        expect(format!("{name} is not its master, rounded"), wrong as f64, 0.);
    }
    told
}
