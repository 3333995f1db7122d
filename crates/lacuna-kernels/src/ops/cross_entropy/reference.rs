//! Defines the language-model head and its loss.

use candle_core::{DType, Result, Tensor, Var};

use super::{CrossEntropy, CrossEntropyGradients};
use crate::reference::{found, widen};

/// Σ_i weights\[i\] · ce_i with ce_i = log Σ_j exp(z_ij) − z_i,target(i), z = hidden · headᵀ.
///
/// # Errors
/// If shapes disagree or a target is not below the number of head rows.
pub fn linear_cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropy> {
    let (n, _, _) = super::check(hidden, head, targets, Some(weights))?;
    let hidden = widen(hidden)?;
    if n == 0 {
        return Ok(CrossEntropy { loss: hidden.sum_all()?, nll: vec![] });
    }
    let ce = cross_entropy_rows(&hidden, &widen(head)?, targets)?;
    let w = Tensor::new(weights, ce.device())?.to_dtype(ce.dtype())?;
    let loss = ce.mul(&w)?.sum_all()?;
    Ok(CrossEntropy { loss, nll: ce.to_dtype(DType::F32)?.to_vec1()? })
}

/// ce_i of every row, without gradients.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn token_nll(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let (n, _, _) = super::check(hidden, head, targets, None)?;
    if n == 0 {
        return Ok(vec![]);
    }
    let ce = cross_entropy_rows(&widen(&hidden.detach())?, &widen(&head.detach())?, targets)?;
    ce.to_dtype(DType::F32)?.to_vec1()
}

fn cross_entropy_rows(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let logits = hidden.matmul(&head.t()?)?;
    let centred = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let log_sum = centred.exp()?.sum_keepdim(1)?.log()?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    (log_sum - centred.gather(&targets, 1)?)?.squeeze(1)
}

/// Computes the loss of [`linear_cross_entropy`] and its gradients.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn linear_cross_entropy_gradients(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropyGradients> {
    let (hidden, head) = (Var::from_tensor(&hidden.detach())?, Var::from_tensor(&head.detach())?);
    let CrossEntropy { loss, nll } = linear_cross_entropy(&hidden, &head, targets, weights)?;
    let store = loss.backward()?;
    let (hidden, head) = (found(&store, &hidden)?, found(&store, &head)?);
    let loss = loss.to_dtype(DType::F64)?.to_scalar()?;
    Ok(CrossEntropyGradients { loss, nll, hidden, head })
}
