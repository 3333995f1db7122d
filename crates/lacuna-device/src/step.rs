//! Plans a training step: embedding, layers, loss, their gradients in reverse, and the optimizer.
//!
//! It is the step of `lacuna-model` and `lacuna-train` on the CPU, launch by launch: in the last layer only wanted rows
//! have queries, and behind its attention only they are computed; norms and the gated activation are computed again on
//! the way back, which is cheaper than keeping them. Activations are bf16, sums f32.

use crate::batch::{Lists, Rows, TrainingBatch};
use crate::card::{Attention, Card, Products};
use crate::error::{Error, Result};
use crate::launch::{Bytes, Plan};
use crate::layout::Layout;
use crate::recorder::{AdamW, Recorder};
use builder::Builder;

mod backward;
mod builder;
mod forward;
mod loss;

/// The optimizer's settings that stay the same over a run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Optimizer {
    /// Decay of the first moment, β₁.
    pub beta1: f64,
    /// Decay of the second moment, β₂.
    pub beta2: f64,
    /// Added to the root of the second moment, outside of it.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Gradients are scaled by min(1, clip / (norm + 1e-6)); `None` leaves them.
    pub clip_norm: Option<f64>,
}

impl Optimizer {
    /// The numbers of step `step`, counted from 1, for [`Layout::step`]: they are read from memory, so a recorded plan
    /// may be played again with others.
    pub fn step(&self, step: u64, learning_rate: f64) -> Bytes {
        let t = step as f64;
        let step_size = learning_rate / (1. - self.beta1.powf(t));
        let root_scale = 1. / (1. - self.beta2.powf(t)).sqrt();
        let shrink = 1. - learning_rate * self.weight_decay;
        Bytes::default().float(step_size).float(root_scale).float(shrink)
    }
}

/// The update of every parameter from the gradients that micro-batches have left, in two plans: what stands between them
/// may look at the norm.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Update {
    /// Leaves the norm of all gradients at [`Layout::norm`].
    pub(crate) norm: Plan,
    /// AdamW, with the numbers of [`Layout::step`].
    pub(crate) step: Plan,
}

impl Update {
    pub(crate) fn new(layout: &Layout, card: Card, optimizer: Optimizer) -> Result<Self> {
        let of = optimizer.on(layout);
        let plan = |launches: fn(&mut Recorder, AdamW)| {
            let mut recorder = Recorder::new(card, attention(card, layout)?, layout.bytes());
            launches(&mut recorder, of);
            Ok(recorder.finish())
        };
        Ok(Self { norm: plan(Recorder::gradient_norm)?, step: plan(Recorder::adamw)? })
    }

    pub(crate) fn arena_bytes(&self) -> u64 {
        self.norm.arena_bytes.max(self.step.arena_bytes)
    }
}

fn attention(card: Card, layout: &Layout) -> Result<Attention> {
    let head_dim = layout.config.head_dim;
    Attention::of(card, head_dim).ok_or(Error::Unsupported {
        what: format!("heads of {head_dim} numbers"),
        expected: "heads of 64 or 128",
    })
}

/// The choices of a step that change its memory and its kernels, and no result but by rounding.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepOptions {
    /// The kernels that are used.
    pub card: Card,
    /// True if of each layer only its input is kept, and the rest is computed once more on the way back. It changes no
    /// bit.
    pub recompute: bool,
    /// Tokens of the vocabulary whose logits are in memory at a time: a multiple of 128.
    pub vocab_chunk: usize,
    /// True if the plan is to serve other batches of as many rows too: wanted rows are rounded up, by less than a
    /// thirty-second of many, with losses that weigh nothing, and there is room for as many distinct tokens as there can
    /// be.
    pub rounds: bool,
    /// True if gradients are added to those that are there, of the micro-batches before.
    pub adds: bool,
    /// The optimizer that ends the step; `None` ends it with the gradients.
    pub optimizer: Option<Optimizer>,
}

impl Default for StepOptions {
    fn default() -> Self {
        let card = Card::default();
        Self {
            card,
            recompute: false,
            vocab_chunk: 8192,
            rounds: false,
            adds: false,
            optimizer: None,
        }
    }
}

/// A training step as a plan, and where its results are.
#[derive(Clone, PartialEq, Debug)]
pub struct TrainingStep {
    /// The launches.
    pub plan: Plan,
    /// The sum of weighted losses: an f64.
    pub loss: u64,
    /// The loss of each wanted row in nats, unweighted: f32.
    pub nll: u64,
    /// The number of wanted rows.
    pub wanted: usize,
    /// Operations of its products, two for each multiplication, there and twice as many back, over visible pairs: those
    /// that any way to compute it needs, so nothing is counted twice that is computed twice.
    pub operations: f64,
}

impl TrainingStep {
    /// The step of a model on a batch. Every gradient is overwritten, or added to.
    ///
    /// # Errors
    /// Errors if the batch does not fit the model, or the vocabulary's chunk is no multiple of 128.
    pub fn new(layout: &Layout, batch: TrainingBatch<'_>, options: &StepOptions) -> Result<Self> {
        let chunk = options.vocab_chunk;
        if chunk == 0 || !chunk.is_multiple_of(Products::TILE) {
            let reason = format!("a chunk of {chunk} tokens: it must be a multiple of 128");
            return Err(Error::Input(reason));
        }
        let rows = Rows::new(batch, layout, options.rounds)?;
        let (operations, wanted) = (rows.operations(&layout.config), batch.wanted.len());
        let lists = rows.lists(layout.config.vocab_size, options.rounds);
        Self::of_lists(layout, lists, (operations, wanted), options)
    }

    /// The step on a batch that is checked and laid down.
    pub(crate) fn of_lists(
        layout: &Layout,
        lists: Lists,
        (operations, wanted): (f64, usize),
        options: &StepOptions,
    ) -> Result<Self> {
        let attention = attention(options.card, layout)?;
        let recorder = Recorder::new(options.card, attention, layout.bytes());
        let mut step = Builder::new(recorder, layout, lists, options);
        let (layers, last, hidden) = step.forward();
        let (d_hidden, results) = step.loss(hidden);
        step.backward(layers, last, d_hidden);
        if let Some(optimizer) = options.optimizer {
            step.optimize(optimizer);
        }
        let [loss, nll] = results.map(|region| region.at);
        Ok(Self { plan: step.recorder.finish(), loss, nll, wanted, operations })
    }
}
