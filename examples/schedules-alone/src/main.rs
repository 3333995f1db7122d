//! Trains a masked model of program text with `lacuna-schedules` and nothing else.
//!
//! The model is the smallest that can do it, a softmax over one table of logits per neighbour, with
//! its gradient written out. Put your framework in its place; what [`Recipe::draw`] and [`train`] do
//! stays the same: times → rate → masks and weights → loss.

use std::num::NonZeroUsize;
use std::ops::Range;

use lacuna_schedules::{
    BlockClipped, Linear, NoiseSchedule, TimeSampling, Warmup, forced_mask_probability,
};

const BLOCK_SIZE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
const BLOCKS_PER_STEP: usize = 64;
const STEPS: u64 = 1500;
const WARMUP_STEPS: u64 = 300;

/// The texts that the model learns from, which are the crate's own source; one more file is held out.
const TRAINING: [&str; 4] = [
    include_str!("../../../crates/lacuna-schedules/src/schedule.rs"),
    include_str!("../../../crates/lacuna-schedules/src/closed_forms.rs"),
    include_str!("../../../crates/lacuna-schedules/src/times.rs"),
    include_str!("../../../crates/lacuna-schedules/src/clipped.rs"),
];
const HELD_OUT: &str = include_str!("../../../crates/lacuna-schedules/src/warmup.rs");

fn main() {
    let training: Vec<u8> = TRAINING.iter().flat_map(|file| encode(file)).collect();
    let held_out = encode(HELD_OUT);

    let mut model = Model::new();
    train(&mut model, &training);

    let unigram = unigram_nll(&training, &held_out);
    let masked = held_out_nll(&model, &held_out);
    println!("\nheld-out text, nats per byte: unigram {unigram:.3}, masked model {masked:.3}");
    assert!(masked < 0.8 * unigram, "the model has learned nothing");
}

/// The recipe: a schedule and a warmup.
struct Recipe {
    schedule: BlockClipped<Linear>,
    warmup: Warmup,
}

impl Recipe {
    /// Masks one block at time `t`: decides which of its tokens are hidden, and what each one's loss counts for.
    fn draw(&self, step: u64, t: f64, uniform: &mut impl FnMut() -> f64) -> (Vec<bool>, f64) {
        let block_size = BLOCK_SIZE.get();
        // During the warmup rates go up to u_max(step), every loss counts once, and blocks may come out empty.
        if let Some(early) = self.warmup.capped(Linear, step) {
            let rate = early.mask_rate(t);
            let masked = (0..block_size).map(|_| uniform() < rate).collect();
            return (masked, early.loss_weight(t));
        }
        // Afterwards at least 1/B is masked on average, and one token is forced if none was.
        let rate = self.schedule.mask_rate(t);
        let mut masked: Vec<bool> = (0..block_size).map(|_| uniform() < rate).collect();
        if !masked.contains(&true) {
            masked[(uniform() * block_size as f64) as usize] = true;
        }
        // The paper's weight is `self.schedule.loss_weight(t)`, 1/rate, which counts the forced
        // token too much; this one is unbiased.
        (masked, 1.0 / forced_mask_probability(rate, BLOCK_SIZE))
    }
}

fn train(model: &mut Model, text: &[u8]) {
    let recipe = Recipe {
        schedule: BlockClipped::new(Linear, BLOCK_SIZE),
        warmup: Warmup::new(WARMUP_STEPS),
    };
    let mut uniform = random(1);
    let mut times = [0.0; BLOCKS_PER_STEP];
    println!("{:>5}  {:>8}  {:>8}  {:>10}", "step", "max rate", "loss", "unweighted");
    let (mut weighted, mut unweighted, mut count) = (0.0, 0.0, 0);
    for step in 0..STEPS {
        // There is one time per block, spread evenly over (0, 1] in every step.
        TimeSampling::PermutedStratified.fill(&mut times, &mut uniform);
        for &t in &times {
            let block = random_block(text.len(), &mut uniform);
            let (masked, weight) = recipe.draw(step, t, &mut uniform);
            for (position, _) in block.clone().zip(&masked).filter(|(_, masked)| **masked) {
                let context = context(text, &block, &masked, position);
                let nll = model.learn(&context, text[position], weight);
                // The denominator is *all* tokens of the step, masked or not.
                weighted += weight * nll / (BLOCKS_PER_STEP * BLOCK_SIZE.get()) as f64;
                (unweighted, count) = (unweighted + nll, count + 1);
            }
        }
        if (step + 1) % 100 == 0 {
            let (loss, mean) = (weighted / 100.0, unweighted / f64::from(count));
            let rate_max = recipe.warmup.rate_max(step);
            println!("{:>5}  {rate_max:>8.3}  {loss:>8.3}  {mean:>10.3}", step + 1);
            (weighted, unweighted, count) = (0.0, 0.0, 0);
        }
    }
}

/// The distances of the neighbours that a token is predicted from.
const NEIGHBOURS: [isize; 9] = [-6, -5, -4, -3, -2, -1, 1, 2, 3];
/// The number of tokens: printable ASCII and the newline.
const VOCAB: usize = 96;
/// Two more things that a neighbour can be: masked, or out of sight.
const MASK: usize = VOCAB;
const UNSEEN: usize = VOCAB + 1;

/// The neighbours that a masked position sees: clean text to the left, its own block with masks, nothing to the right
/// of it.
fn context(text: &[u8], block: &Range<usize>, masked: &[bool], position: usize) -> [usize; 9] {
    NEIGHBOURS.map(|distance| match position.checked_add_signed(distance) {
        Some(i) if block.contains(&i) && masked[i - block.start] => MASK,
        Some(i) if i < block.end => usize::from(text[i]),
        _ => UNSEEN,
    })
}

/// The model: logits[v] = Σ over neighbours of table[neighbour][token that stands there][v].
struct Model {
    table: Vec<[f64; VOCAB]>,
    /// Sums of squared gradients, for Adagrad.
    squares: Vec<[f64; VOCAB]>,
}

impl Model {
    fn new() -> Self {
        let rows = NEIGHBOURS.len() * (VOCAB + 2);
        Self { table: vec![[0.0; VOCAB]; rows], squares: vec![[1e-8; VOCAB]; rows] }
    }

    fn rows(context: &[usize; 9]) -> impl Iterator<Item = usize> {
        context.iter().enumerate().map(|(neighbour, symbol)| neighbour * (VOCAB + 2) + symbol)
    }

    fn probabilities(&self, context: &[usize; 9]) -> [f64; VOCAB] {
        let mut p = [0.0; VOCAB];
        for row in Self::rows(context) {
            p.iter_mut().zip(&self.table[row]).for_each(|(logit, entry)| *logit += entry);
        }
        let max = p.iter().copied().fold(f64::MIN, f64::max);
        p.iter_mut().for_each(|logit| *logit = (*logit - max).exp());
        let sum: f64 = p.iter().sum();
        p.map(|p| p / sum)
    }

    fn nll(&self, context: &[usize; 9], target: u8) -> f64 {
        -self.probabilities(context)[usize::from(target)].ln()
    }

    /// Takes one gradient step on weight · −log p(target | context); returns the unweighted loss before it.
    fn learn(&mut self, context: &[usize; 9], target: u8, weight: f64) -> f64 {
        let mut gradient = self.probabilities(context);
        let nll = -gradient[usize::from(target)].ln();
        // d(−log softmax)/d(logit v) = p_v − [v = target], the same for every row that was summed.
        gradient[usize::from(target)] -= 1.0;
        for row in Self::rows(context) {
            let entries = self.table[row].iter_mut().zip(&mut self.squares[row]);
            for ((entry, square), g) in entries.zip(gradient.map(|g| weight * g)) {
                *square += g * g;
                *entry -= 0.1 * g / square.sqrt();
            }
        }
        nll
    }
}

/// The NLL of a text with each block filled from left to right: comparable with any left-to-right model's.
fn held_out_nll(model: &Model, text: &[u8]) -> f64 {
    let mut sum = 0.0;
    for position in 0..text.len() {
        let start = position - position % BLOCK_SIZE;
        let block = start..(start + BLOCK_SIZE.get()).min(text.len());
        let masked: Vec<bool> = block.clone().map(|i| i >= position).collect();
        sum += model.nll(&context(text, &block, &masked, position), text[position]);
    }
    sum / text.len() as f64
}

/// The NLL under the letter frequencies of the training text, each letter counted once more.
fn unigram_nll(training: &[u8], text: &[u8]) -> f64 {
    let mut counts = [1.0; VOCAB];
    training.iter().for_each(|&id| counts[usize::from(id)] += 1.0);
    let total: f64 = counts.iter().sum();
    text.iter().map(|&id| -(counts[usize::from(id)] / total).ln()).sum::<f64>() / text.len() as f64
}

fn encode(text: &str) -> Vec<u8> {
    let id = |byte: u8| match byte {
        b'\n' => 95,
        b' '..=b'~' => byte - b' ',
        _ => b'?' - b' ',
    };
    text.bytes().map(id).collect()
}

/// A whole block somewhere in a text of `len` tokens, aligned to its start.
fn random_block(len: usize, uniform: &mut impl FnMut() -> f64) -> Range<usize> {
    let blocks = len / BLOCK_SIZE;
    let start = (uniform() * blocks as f64) as usize * BLOCK_SIZE.get();
    start..start + BLOCK_SIZE.get()
}

/// Uniform numbers in [0, 1), by splitmix64. Any generator will do.
fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
