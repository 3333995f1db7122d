//! Takes one optimizer step: the lines that say what training is.

use lacuna_model::Transformer;

use crate::adamw::AdamW;
use crate::collective::Collective;
use crate::collective::shards::Sum;
use crate::collective::tree;
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
}

/// Takes one step: forward, backward, sum, clip, update.
///
/// The loss of each micro-batch is divided by the eligible tokens of the *whole* step, so gradients add up to the same
/// sum for any split, over micro-batches and over ranks. They are added in one order, which the number of micro-batches
/// decides; each rank updates its part of the parameters and then has them all.
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
    let StepSettings { micro_batch_size, learning_rate, collective } = settings;
    let eligible = examples.iter().map(|example| example.eligible).sum();
    let micro_batches: Vec<_> = examples.chunks(micro_batch_size).collect();
    let shards = optimizer.shards(collective.size());

    let mut part =
        |i: usize| part_of(objective.loss_and_gradients(model, micro_batches[i], eligible)?);
    let own = tree::nodes(micro_batches.len(), &collective.share(micro_batches.len()));
    let sums =
        own.into_iter().map(|node| Ok((node.clone(), tree::sum(node, &mut part, &Sum::add)?)));
    let sums = sums.collect::<Result<_>>()?;
    let Some(sum) = shards.sum(collective, micro_batches.len(), sums, &optimizer.tensors())? else {
        return Ok(StepOutcome::default());
    };
    let Sum { loss, nll, gradients } = sum;
    let loss = finite("loss", loss)?;
    let grad_norm = finite("gradient norm", shards.norm(collective, model.backend(), &gradients)?)?;
    optimizer.step_with_norm(model.backend(), &gradients, grad_norm, learning_rate)?;
    shards.spread(collective, optimizer)?;
    Ok(StepOutcome { loss, grad_norm, nll })
}

/// A micro-batch's share as a sum of one.
fn part_of(share: Option<LossAndGradients>) -> Result<Option<Sum>> {
    Ok(share.map(|LossAndGradients { loss, nll, gradients }| {
        let gradients = gradients.iter().map(|(_, gradient)| gradient.clone()).collect();
        Sum { loss, nll, gradients }
    }))
}

fn finite(what: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    let advice = "lower the learning rate or clip harder".to_owned();
    Err(TrainError::Diverged { what, value, advice })
}
