//! Computes the language-model head and its loss in one operation, so that the logits of all rows never exist at
//! once.

use candle_core::{Result, Tensor, bail};

use crate::backend::{Backend, Serving};

mod cpu;
pub(crate) mod reference;

/// The result of [`linear_cross_entropy`].
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Σ_i weights\[i\] · ce_i: a scalar, differentiable in hidden and head.
    pub loss: Tensor,
    /// The cross-entropy ce_i of every row in nats, unweighted; carries no gradient.
    pub nll: Vec<f32>,
}

/// The weighted loss of a language-model head: Σ_i weights\[i\] · ce_i with ce_i = log Σ_j exp(z_ij) − z_i,target(i),
/// z = hidden · headᵀ.
///
/// hidden: `[n, h]`, head: `[v, h]`. Give it supervised rows only: a row of weight 0 costs as much
/// as any other.
///
/// Rows are taken some hundred at a time, each with its whole vocabulary: their log Σ exp is then
/// exact before the gradient is formed, so one visit of the logits serves the loss and both
/// gradients, in three products instead of four, and only that chunk of logits ever exists.
///
/// # Errors
/// If shapes disagree or a target is not below v.
pub fn linear_cross_entropy(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropy> {
    check(hidden, head, targets, Some(weights))?;
    match backend.serving_filled(&[hidden, head]) {
        Serving::Reference => reference::linear_cross_entropy(hidden, head, targets, weights),
        Serving::Cpu(isa) => cpu::linear_cross_entropy(isa, hidden, head, targets, weights),
    }
}

/// The result of [`linear_cross_entropy_gradients`].
#[derive(Clone, Debug)]
pub struct CrossEntropyGradients {
    /// Σ_i weights\[i\] · ce_i.
    pub loss: f64,
    /// The cross-entropy ce_i of every row in nats, unweighted.
    pub nll: Vec<f32>,
    /// The loss's gradient in hidden, `[n, h]`.
    pub hidden: Tensor,
    /// The loss's gradient in head, `[v, h]`.
    pub head: Tensor,
}

/// [`linear_cross_entropy`] and its gradients at once. Records nothing.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn linear_cross_entropy_gradients(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropyGradients> {
    check(hidden, head, targets, Some(weights))?;
    match backend.serving_filled(&[hidden, head]) {
        Serving::Reference => {
            reference::linear_cross_entropy_gradients(hidden, head, targets, weights)
        }
        Serving::Cpu(isa) => {
            cpu::linear_cross_entropy_gradients(isa, hidden, head, targets, weights)
        }
    }
}

/// The cross-entropy ce_i of every row in nats, without gradients, for scoring.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn token_nll(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
) -> Result<Vec<f32>> {
    check(hidden, head, targets, None)?;
    match backend.serving_filled(&[hidden, head]) {
        Serving::Reference => reference::token_nll(hidden, head, targets),
        Serving::Cpu(isa) => cpu::token_nll(isa, hidden, head, targets),
    }
}

/// Checks shapes and targets; returns (rows, hidden size, vocabulary).
fn check(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: Option<&[f32]>,
) -> Result<(usize, usize, usize)> {
    let (n, h) = hidden.dims2()?;
    let (v, head_h) = head.dims2()?;
    let n_weights = weights.map_or(n, <[f32]>::len);
    if head_h != h || targets.len() != n || n_weights != n {
        bail!(
            "cross-entropy: hidden is [{n}, {h}], head [{v}, {head_h}], {} targets, {n_weights} \
             weights; expected one hidden size and one target and weight per row",
            targets.len()
        )
    }
    if let Some((row, id)) = targets.iter().enumerate().find(|(_, id)| **id as usize >= v) {
        bail!("cross-entropy: target {id} of row {row}, expected an id below {v}")
    }
    Ok((n, h, v))
}
