//! One optimizer step: the lines that say what training is.

use candle_core::Tensor;
use lacuna_kernels::AdamW;
use lacuna_model::{Parameters, Transformer};

use crate::error::{Result, TrainError};
use crate::example::Example;
use crate::objective::StageObjective;

/// What came out of a step.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// Σ w·ce over the step's supervised tokens, divided by its eligible tokens (choice 6).
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Cross-entropy of every supervised token, in the order of the examples.
    pub nll: Vec<f32>,
}

/// Forward, backward, clip, update.
///
/// The loss of each micro-batch is divided by the eligible tokens of the *whole* step, so gradients add up to
/// the same sum for any split.
///
/// # Errors
/// Errors if a loss or gradient is no number (the weights are left as they were), or a tensor operation fails.
pub fn step(
    model: &Transformer,
    objective: &StageObjective,
    optimizer: &mut AdamW,
    examples: &[Example],
    micro_batch_size: usize,
    learning_rate: f64,
) -> Result<StepOutcome> {
    let eligible: usize = examples.iter().map(|e| e.eligible).sum();
    let mut gradients: Option<Parameters<Tensor>> = None;
    let (mut loss, mut nll) = (0.0, Vec::new());
    for micro_batch in examples.chunks(micro_batch_size) {
        let Some(part) = objective.loss_and_gradients(model, micro_batch, eligible)? else {
            continue;
        };
        loss += part.loss;
        nll.extend(part.nll);
        gradients = Some(match gradients.take() {
            None => part.gradients,
            Some(sum) => {
                let pairs = sum.zip(&part.gradients).expect("two gradients of one model");
                pairs.try_map(|_, (a, b)| *a + *b)?
            }
        });
    }
    let diverged = |what, value| {
        let advice = "lower the learning rate or clip harder".to_owned();
        TrainError::Diverged { what, value, advice }
    };
    if !loss.is_finite() {
        return Err(diverged("loss", loss));
    }
    let Some(gradients) = gradients else {
        return Ok(StepOutcome { loss, grad_norm: 0.0, nll });
    };
    let gradients: Vec<Tensor> = gradients.iter().map(|(_, gradient)| gradient.clone()).collect();
    let grad_norm = lacuna_kernels::global_norm(model.backend(), &gradients)?;
    if !grad_norm.is_finite() {
        return Err(diverged("gradient norm", grad_norm));
    }
    optimizer.step_with_norm(model.backend(), &gradients, grad_norm, learning_rate)?;
    Ok(StepOutcome { loss, grad_norm, nll })
}
