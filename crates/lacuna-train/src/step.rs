//! Takes one optimizer step: the lines that say what training is.

use lacuna_kernels::global_norm;
use lacuna_model::Transformer;

use crate::adamw::AdamW;
use crate::collective::Collective;
use crate::error::{Result, TrainError};
use crate::example::Example;
use crate::objective::{LossAndGradients, StageObjective};

/// The outcome of a step. All of it is 0 and empty if no token was supervised, and nothing was updated then.
#[derive(Clone, Debug, Default)]
pub struct StepOutcome {
    /// Σ w·ce over the step's supervised tokens, divided by its eligible tokens (choice 6).
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Cross-entropy of every supervised token, in the order of the examples.
    pub nll: Vec<f32>,
    /// True if nothing was updated because the loss stood out.
    pub skipped: bool,
}

impl StepOutcome {
    /// Mean cross-entropy of the supervised tokens, in nats; 0 without any.
    pub fn mean_nll(&self) -> f64 {
        mean(&self.nll)
    }
}

fn mean(nll: &[f32]) -> f64 {
    nll.iter().fold(0.0, |sum, v| sum + f64::from(*v)) / nll.len().max(1) as f64
}

/// The settings of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings<'a> {
    /// Examples of one forward and backward pass.
    pub micro_batch_size: usize,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// The ranks that take the step together.
    pub collective: &'a Collective,
    /// The mean cross-entropy above which nothing is updated.
    pub skip_above: Option<f64>,
}

/// Takes one step: forward, backward, sum, clip, update.
///
/// The loss of each micro-batch is divided by the eligible tokens of the *whole* step, so gradients add up to the same
/// sum for any split, over micro-batches and over ranks.
///
/// # Errors
/// Errors if a loss or gradient is no number (the weights are left as they were), or a tensor operation fails.
pub fn step(
    model: &Transformer,
    objective: &StageObjective,
    optimizer: &mut AdamW,
    examples: &[Example],
    settings: StepSettings<'_>,
) -> Result<StepOutcome> {
    let StepSettings { micro_batch_size, learning_rate, collective, skip_above } = settings;
    let eligible = examples.iter().map(|example| example.eligible).sum();
    let micro_batches: Vec<_> = examples.chunks(micro_batch_size).collect();

    let mut sum = None;
    for examples in &micro_batches[collective.share(micro_batches.len())] {
        sum = added(sum, objective.loss_and_gradients(model, examples, eligible)?)?;
    }
    let sum = collective.joined(sum, |parts| parts.into_iter().try_fold(None, added))?;
    let Some(LossAndGradients { loss, nll, gradients }) = sum else {
        return Ok(StepOutcome::default());
    };
    let gradients: Vec<_> = gradients.iter().map(|(_, gradient)| gradient.clone()).collect();
    let loss = finite("loss", loss)?;
    let grad_norm = finite("gradient norm", global_norm(model.backend(), &gradients)?)?;
    let skipped = skip_above.is_some_and(|limit| mean(&nll) > limit);
    if !skipped {
        optimizer.step_with_norm(model.backend(), &gradients, grad_norm, learning_rate)?;
    }
    Ok(StepOutcome { loss, grad_norm, nll, skipped })
}

/// The sum of two parts of a step, either of which may have no supervised token.
fn added(
    sum: Option<LossAndGradients>,
    part: Option<LossAndGradients>,
) -> Result<Option<LossAndGradients>> {
    let (mut sum, part) = match (sum, part) {
        (Some(sum), Some(part)) => (sum, part),
        (sum, part) => return Ok(sum.or(part)),
    };
    sum.loss += part.loss;
    sum.nll.extend(part.nll);
    let pairs = sum.gradients.zip(&part.gradients).expect("two gradients of one model");
    let gradients = pairs.try_map(|_, (sum, part)| *sum + *part)?;
    Ok(Some(LossAndGradients { gradients, ..sum }))
}

fn finite(what: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    let advice = "lower the learning rate or clip harder".to_owned();
    Err(TrainError::Diverged { what, value, place: String::new(), advice })
}
