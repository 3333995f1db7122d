//! Takes one optimizer step: the lines that say what training is.

use lacuna_model::Transformer;
use std::collections::BTreeMap;

use crate::adamw::AdamW;
use crate::collective::Collective;
use crate::collective::tree;
use crate::error::{Result, TrainError};
use crate::example::Example;
use crate::groups::ParameterGroup;
use crate::objective::{LossAndGradients, StageObjective};

/// The outcome of a step. All of it is 0 and empty if no token was supervised, and nothing was updated then.
#[derive(Clone, Debug, Default)]
pub struct StepOutcome {
    /// Σ w·ce over the step's supervised tokens, divided by its eligible tokens (choice 6).
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// The norm of each group's part of it.
    pub group_norms: BTreeMap<ParameterGroup, f64>,
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
    let StepSettings { micro_batch_size, learning_rate, collective, skip_above } = settings;
    let eligible = examples.iter().map(|example| example.eligible).sum();
    let micro_batches: Vec<_> = examples.chunks(micro_batch_size).collect();
    let ranks = optimizer.ranks(collective);

    let mut part = |i: usize| objective.loss_and_gradients(model, micro_batches[i], eligible);
    let own = tree::nodes(micro_batches.len(), &collective.share(micro_batches.len()));
    let sums = own
        .into_iter()
        .map(|node| Ok((node.clone(), tree::sum(node, &mut part, &LossAndGradients::add)?)));
    let sums = sums.collect::<Result<_>>()?;
    let sum = ranks.sum(micro_batches.len(), sums, &optimizer.tensors())?;
    let Some(LossAndGradients { loss, nll, gradients }) = sum else {
        return Ok(StepOutcome::default());
    };
    let loss = finite("loss", loss)?;
    let squares = ranks.sums_of_squares(model.backend(), &gradients)?;
    let grad_norm = finite("gradient norm", squares.iter().sum::<f64>().sqrt())?;
    let group_norms = group_norms(model, &squares)?;
    let skipped = skip_above.is_some_and(|limit| mean(&nll) > limit);
    if !skipped {
        optimizer.step_with_norm(model.backend(), &gradients, grad_norm, learning_rate)?;
        ranks.spread(optimizer)?;
    }
    Ok(StepOutcome { loss, grad_norm, group_norms, nll, skipped })
}

/// The norms of the groups that have gradients, given the sum of squares of each of what is trained.
fn group_norms(model: &Transformer, squares: &[f64]) -> Result<BTreeMap<ParameterGroup, f64>> {
    let mut sums = BTreeMap::new();
    for ((name, _), square) in model.trained()?.iter().zip(squares) {
        *sums.entry(ParameterGroup::of(name.parameter())).or_insert(0.0) += square;
    }
    Ok(sums.into_iter().map(|(group, sum): (_, f64)| (group, sum.sqrt())).collect())
}

/// The value, which is an error if it is no number.
pub(crate) fn finite(what: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    let advice = "lower the learning rate or clip harder".to_owned();
    Err(TrainError::Diverged { what, value, place: String::new(), advice })
}
