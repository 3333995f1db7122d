//! Takes a run's steps on a machine that runs planned launches, a card as a rule: bf16 with masters in f32. The tensors
//! of model and optimizer are brought up to date before anybody looks at them.

use candle_core::{DType, Device, Tensor};
use lacuna_device::{
    Card, Layout, Machine, Optimizer, ParameterState, Place, StepOptions, Training, TrainingBatch,
};
use lacuna_model::Transformer;
use lacuna_objective::Targets;
use std::time::Duration;

use crate::adamw::{AdamW, AdamWConfig, AdamWState};
use crate::error::Result;
use crate::example::Example;
use crate::metrics::MachineMetrics;
use crate::objective::StageObjective;
use crate::step::{StepOutcome, StepSettings, finite};

/// The machine that a run takes its steps on.
pub struct OnMachine<'m> {
    /// A card, or its emulation.
    pub machine: &'m mut dyn Machine,
    /// The kernels that are used.
    pub card: Card,
    /// Operations a second that it reaches at most, if that is known.
    pub peak_operations: Option<f64>,
}

impl std::fmt::Debug for OnMachine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnMachine").field("card", &self.card).finish_non_exhaustive()
    }
}

/// A model in training on a machine, whose tensors may lag behind.
pub(crate) struct Steps<'m> {
    training: Training<'m>,
    peak_operations: Option<f64>,
    /// Updates that were made, those of earlier processes included.
    updates: u64,
    /// True if the tensors are not what the machine holds.
    ahead: bool,
    /// Operations of the last step.
    operations: f64,
}

impl<'m> Steps<'m> {
    /// Hands model and optimizer over to the machine; positions: the longest text's.
    pub(crate) fn new(
        on: OnMachine<'m>,
        (model, optimizer): (&Transformer, &AdamW),
        positions: usize,
    ) -> Result<Self> {
        let AdamWConfig { beta1, beta2, eps, weight_decay, clip_norm, eight_bit: _ } =
            optimizer.config();
        let rules = Optimizer { beta1, beta2, eps, weight_decay, clip_norm };
        let layout = Layout::new(model.config(), positions)?;
        let options = StepOptions { card: on.card, ..StepOptions::default() };
        let mut training = Training::new(on.machine, layout, &options, rules)?;
        let AdamWState { step, moments, masters } = optimizer.state()?;
        let all = moments.into_iter().zip(masters).zip(places(&training));
        for ((_, var), (((first, second), master), place)) in model.parameters()?.iter().zip(all) {
            let master = match &master {
                Some(master) => floats(master)?,
                None => floats(var)?,
            };
            let (first, second) = (floats(&first)?, floats(&second)?);
            training.write(place, &ParameterState { master, first, second })?;
        }
        let peak_operations = on.peak_operations;
        Ok(Self { training, peak_operations, updates: step, ahead: false, operations: 0.0 })
    }

    /// Takes one step, as [`step`](crate::step()) does by tensors.
    pub(crate) fn step(
        &mut self,
        objective: &StageObjective,
        examples: &[Example],
        settings: StepSettings<'_>,
    ) -> Result<StepOutcome> {
        let eligible: usize = examples.iter().map(|example| example.eligible).sum();
        self.training.set_recompute(objective.recompute);
        self.operations = 0.0;
        let mut outcome = StepOutcome::default();
        for examples in examples.chunks(settings.micro_batch_size) {
            let targets = Targets::of(examples.iter().flat_map(|example| &example.targets));
            if targets.ids.is_empty() {
                continue;
            }
            let batch = objective.batch(examples)?;
            let part = self.training.micro_batch(TrainingBatch {
                tokens: batch.tokens(),
                positions: batch.positions(),
                segments: &batch.segments()?,
                wanted: batch.wanted(),
                targets: &targets.ids,
                weights: &targets.weights_over(eligible as f64)?,
            })?;
            outcome.loss += part.loss;
            outcome.nll.extend(part.nll);
            self.operations += part.operations;
        }
        if outcome.nll.is_empty() {
            return Ok(outcome);
        }
        outcome.loss = finite("loss", outcome.loss)?;
        outcome.grad_norm = finite("gradient norm", self.training.gradient_norm()?)?;
        self.training.update(self.updates + 1, settings.learning_rate)?;
        (self.updates, self.ahead) = (self.updates + 1, true);
        Ok(outcome)
    }

    /// The figures of the last step, which took this long: the operations of its products, as
    /// [`lacuna_device::TrainingStep::operations`] counts them, against what the machine reaches at most, and the most of
    /// its memory that a step has taken so far.
    pub(crate) fn metrics(&self, took: Duration) -> MachineMetrics {
        let operations_per_second = self.operations / took.as_secs_f64().max(1e-9);
        MachineMetrics {
            share_of_peak: self.peak_operations.map(|peak| operations_per_second / peak),
            memory_bytes: Some(self.training.peak_bytes()),
        }
    }

    /// Brings the tensors of model and optimizer up to date.
    pub(crate) fn settle(&mut self, model: &Transformer, optimizer: &mut AdamW) -> Result<()> {
        if !self.ahead {
            return Ok(());
        }
        let (mut moments, mut masters) = (Vec::new(), Vec::new());
        for ((_, var), place) in model.parameters()?.iter().zip(places(&self.training)) {
            let state = self.training.read(place)?;
            let tensor = |list: Vec<f32>| Tensor::from_vec(list, var.shape(), &Device::Cpu);
            let master = tensor(state.master)?;
            var.set(&master.to_dtype(var.dtype())?.to_device(var.device())?)?;
            moments.push((tensor(state.first)?, tensor(state.second)?));
            masters.push((var.dtype() != DType::F32).then_some(master));
        }
        optimizer.restore(AdamWState { step: self.updates, moments, masters })?;
        self.ahead = false;
        Ok(())
    }
}

/// The places of all parameters, in the order of the model's.
fn places(training: &Training<'_>) -> Vec<Place> {
    training.layout().parameters().iter().map(|(_, place)| *place).collect()
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}
