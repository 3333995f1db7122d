//! The language-model head and its loss in one operation.

use candle_core::{Result, Tensor};

use crate::reference;

/// What [`linear_cross_entropy`] yields.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Σ_i weights\[i\] · ce_i: a scalar, differentiable in hidden and head.
    pub loss: Tensor,
    /// ce_i of every row, unweighted; carries no gradient.
    pub nll: Vec<f32>,
}

/// Σ_i weights\[i\] · ce_i with ce_i = log Σ_j exp(z_ij) − z_i,target(i), z = hidden · headᵀ.
///
/// hidden: `[n, h]`, head: `[v, h]`. Give it supervised rows only: a row of weight 0 costs as much
/// as any other.
///
/// # Errors
/// If shapes disagree or a target is not below v.
pub fn linear_cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropy> {
    reference::linear_cross_entropy(hidden, head, targets, weights)
}

/// ce_i of every row, without gradients: what scoring needs.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn token_nll(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    reference::token_nll(hidden, head, targets)
}
