//! Computes the loss and its gradients from the hidden states of the supervised rows.

use candle_core::Tensor;
use lacuna_kernels::{Backend, CrossEntropyGradients, linear_cross_entropy_gradients};

use crate::{Error, Result, Targets};

impl Targets {
    /// The weights divided by `denominator`: what each target's cross-entropy counts for in the loss.
    ///
    /// # Errors
    /// The denominator is not above 0.
    pub fn weights_over(&self, denominator: f64) -> Result<Vec<f32>> {
        if !(denominator.is_finite() && denominator > 0.0) {
            return Err(Error::Denominator(denominator));
        }
        let over = |weight: &f32| (f64::from(*weight) / denominator) as f32;
        Ok(self.weights.iter().map(over).collect())
    }
}

/// The training loss, Σ w_i · c_i / `denominator` over the targets, with c_i each one's cross-entropy in nats, and
/// its gradients.
///
/// hidden: `[targets, h]`, the targets' rows alone, in their order; head: `[v, h]`. `denominator` is the number of
/// eligible tokens of the *whole* step, over all micro-batches and ranks: it depends neither on the noise nor on how
/// the batch is split, so the losses and gradients of the parts simply add.
///
/// # Errors
/// The denominator is not above 0; a target lies outside the vocabulary; shapes disagree.
pub fn weighted_loss(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &Targets,
    denominator: f64,
) -> Result<CrossEntropyGradients> {
    let weights = targets.weights_over(denominator)?;
    Ok(linear_cross_entropy_gradients(backend, hidden, head, &targets.ids, &weights)?)
}
