//! From hidden states to a loss: which rows count, for how much, over what.

use candle_core::Tensor;
use lacuna_kernels::{
    Backend, CrossEntropy, CrossEntropyGradients, linear_cross_entropy,
    linear_cross_entropy_gradients,
};

use crate::{Error, Result};

/// What the logits at a masked position predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Predicts {
    /// The token at that position: the released models, and the default.
    #[default]
    Own,
    /// The token after it, as an autoregressive head does: position i is read off the logits at i − 1.
    /// The first position of a window is read off nothing and not supervised.
    Next,
}

/// The rows of a batch that are supervised. Plain data: for telemetry, zip it with the losses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// Rows of the hidden states, flattened over batch and window.
    pub rows: Vec<u32>,
    /// The clean token each must predict.
    pub ids: Vec<u32>,
    /// What each counts for, above 0.
    pub weights: Vec<f32>,
}

impl Targets {
    /// The masked positions of a batch: those with a weight above 0. Windows of `window` tokens, end to end.
    ///
    /// # Errors
    /// `weights` has not the length of `clean`, or that is not a whole number of windows.
    pub fn masked(
        clean: &[u32],
        weights: &[f32],
        window: usize,
        predicts: Predicts,
    ) -> Result<Self> {
        check_batch(clean, weights.len(), window)?;
        let mut targets = Self::default();
        for (i, (&id, &weight)) in clean.iter().zip(weights).enumerate() {
            let row = match predicts {
                Predicts::Own => Some(i),
                Predicts::Next if i % window == 0 => None,
                Predicts::Next => Some(i - 1),
            };
            if let Some(row) = row.filter(|_| weight > 0.0) {
                targets.push(row, id, weight);
            }
        }
        Ok(targets)
    }

    /// Autoregression: every eligible token but a window's first, read off the position before it.
    /// (Where documents are masked from each other, make their first tokens ineligible.)
    ///
    /// # Errors
    /// `eligible` has not the length of `tokens`, or that is not a whole number of windows.
    pub fn next_token(tokens: &[u32], eligible: &[bool], window: usize) -> Result<Self> {
        check_batch(tokens, eligible.len(), window)?;
        let weights: Vec<f32> = eligible.iter().map(|&e| f32::from(u8::from(e))).collect();
        Self::masked(tokens, &weights, window, Predicts::Next)
    }

    fn weights_over(&self, denominator: f64) -> Result<Vec<f32>> {
        check_denominator(denominator)?;
        Ok(self.weights.iter().map(|&w| (f64::from(w) / denominator) as f32).collect())
    }

    fn push(&mut self, row: usize, id: u32, weight: f32) {
        self.rows.push(row as u32);
        self.ids.push(id);
        self.weights.push(weight);
    }
}

/// Σ w_i · c_i / `denominator` over the targets, with c_i each one's cross-entropy in nats.
///
/// hidden: `[batch, window, h]` or `[rows, h]`; head: `[v, h]`. Logits are computed for the targets
/// alone. `denominator` is the number of eligible tokens of the *whole* step, over all micro-batches
/// and ranks: it depends neither on the noise nor on how the batch is split, so the losses and
/// gradients of the parts simply add.
///
/// Without targets the loss is 0, connected to `hidden`; the head then gets no gradient from it.
///
/// # Errors
/// The denominator is not above 0; a target lies outside the tensors; shapes disagree.
pub fn weighted_loss(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &Targets,
    denominator: f64,
) -> Result<CrossEntropy> {
    check_denominator(denominator)?;
    let hidden = hidden.flatten_to(hidden.rank().saturating_sub(2))?;
    if targets.rows.is_empty() {
        // A product with zeros, because candle cuts the graph at `affine(0, 0)`.
        let row = hidden.narrow(0, 0, 1)?;
        let loss = row.mul(&row.zeros_like()?)?.sum_all()?;
        return Ok(CrossEntropy { loss, nll: Vec::new() });
    }
    let rows = Tensor::new(targets.rows.as_slice(), hidden.device())?;
    weighted_loss_of_rows(backend, &hidden.index_select(&rows, 0)?, head, targets, denominator)
}

/// [`weighted_loss`] of hidden states that hold the targets' rows alone, `[targets, h]`: for a model that
/// computes no others. `targets.rows` is not read.
///
/// # Errors
/// The denominator is not above 0; a target lies outside the vocabulary; shapes disagree.
pub fn weighted_loss_of_rows(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &Targets,
    denominator: f64,
) -> Result<CrossEntropy> {
    let weights = targets.weights_over(denominator)?;
    Ok(linear_cross_entropy(backend, hidden, head, &targets.ids, &weights)?)
}

/// [`weighted_loss_of_rows`] and its gradients at once, without a graph.
///
/// # Errors
/// As [`weighted_loss_of_rows`].
pub fn weighted_loss_gradients(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &Targets,
    denominator: f64,
) -> Result<CrossEntropyGradients> {
    let weights = targets.weights_over(denominator)?;
    Ok(linear_cross_entropy_gradients(backend, hidden, head, &targets.ids, &weights)?)
}

fn check_denominator(denominator: f64) -> Result<()> {
    if denominator.is_finite() && denominator > 0.0 {
        Ok(())
    } else {
        Err(Error::Denominator(denominator))
    }
}

fn check_batch(tokens: &[u32], found: usize, window: usize) -> Result<()> {
    let expected = tokens.len();
    if found != expected {
        return Err(Error::Length { what: "weights or flags, one per token", found, expected });
    }
    let whole = tokens.len().checked_div(window).unwrap_or(0) * window;
    if whole != tokens.len() {
        let found = tokens.len();
        return Err(Error::Length { what: "tokens of whole windows", found, expected: whole });
    }
    Ok(())
}
