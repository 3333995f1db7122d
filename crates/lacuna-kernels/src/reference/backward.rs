//! Gradients as functions: the definitions of the operations whose names end in `_backward`,
//! `_gradient` or `_gradients`. Each records its forward definition on the spot and walks it back.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};

use crate::{CrossEntropy, CrossEntropyGradients, Rope, Segments, reference};

/// The gradients of Σ f(inputs) · dy in each input.
fn gradients<const N: usize>(
    inputs: [&Tensor; N],
    dy: &Tensor,
    f: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let mut vars = Vec::with_capacity(N);
    for input in inputs {
        vars.push(Var::from_tensor(&input.detach())?);
    }
    let store = f(std::array::from_fn(|i| vars[i].as_tensor()))?.mul(&dy.detach())?.backward()?;
    let found = vars.iter().map(|var| found(&store, var)).collect::<Result<Vec<_>>>()?;
    Ok(found.try_into().expect("one gradient for each input"))
}

fn found(store: &GradStore, var: &Var) -> Result<Tensor> {
    match store.get(var) {
        Some(gradient) => Ok(gradient.detach()),
        None => var.zeros_like(),
    }
}

/// The loss of [`reference::linear_cross_entropy`] and its gradients.
///
/// # Errors
/// As there.
pub fn linear_cross_entropy_gradients(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropyGradients> {
    let (hidden, head) = (Var::from_tensor(&hidden.detach())?, Var::from_tensor(&head.detach())?);
    let CrossEntropy { loss, nll } =
        reference::linear_cross_entropy(&hidden, &head, targets, weights)?;
    let store = loss.backward()?;
    let (hidden, head) = (found(&store, &hidden)?, found(&store, &head)?);
    let loss = loss.to_dtype(DType::F64)?.to_scalar()?;
    Ok(CrossEntropyGradients { loss, nll, hidden, head })
}

/// Σ dy · weight.
///
/// # Errors
/// If shapes disagree.
pub fn linear_input_gradient(terms: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (dy, weight) in terms {
        let dy = dy.detach().flatten_to(dy.rank().saturating_sub(2))?;
        let term = dy.matmul(&weight.detach())?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.ok_or_else(|| candle_core::Error::msg("linear: no layer, no gradient"))
}

/// dyᵀ · x.
///
/// # Errors
/// If the numbers of rows differ.
pub fn linear_weight_gradient(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let rows = |t: &Tensor| t.detach().flatten_to(t.rank().saturating_sub(2));
    rows(dy)?.t()?.matmul(&rows(x)?)
}

/// See [`crate::rms_norm_backward`].
///
/// # Errors
/// If shapes disagree.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    dy: &Tensor,
    carried: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let [dx, d_weight] = gradients([x, weight], dy, |[x, w]| reference::rms_norm(x, w, eps))?;
    let dx = carried.map_or(Ok(dx.clone()), |carried| dx + carried.detach())?;
    Ok((dx, d_weight))
}

/// See [`crate::swiglu_backward`].
///
/// # Errors
/// If shapes differ.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<[Tensor; 3]> {
    let y = reference::swiglu(&gate.detach(), &up.detach())?;
    let [d_gate, d_up] = gradients([gate, up], dy, |[g, u]| reference::swiglu(g, u))?;
    Ok([y, d_gate, d_up])
}

/// See [`crate::rope_backward`].
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope_backward(dy: &Tensor, rope: &Rope, positions: &[u32]) -> Result<Tensor> {
    // The operation is linear, so any point will do.
    let [dx] = gradients([&dy.zeros_like()?], dy, |[x]| reference::rope(x, rope, positions))?;
    Ok(dx)
}

/// `onto` plus each row of dy at its token's row.
///
/// # Errors
/// If shapes disagree or an id is not below the number of rows.
pub fn embedding_backward(ids: &[u32], dy: &Tensor, onto: &Tensor) -> Result<Tensor> {
    let ids = Tensor::new(ids, dy.device())?;
    onto.detach().index_add(&ids, &dy.detach().flatten_to(dy.rank().saturating_sub(2))?, 0)
}

/// See [`crate::attention_backward`].
///
/// # Errors
/// If shapes disagree with each other or with the segments.
pub fn attention_backward(
    qkv: [&Tensor; 3],
    d_out: &Tensor,
    segments: &Segments,
    scale: f64,
) -> Result<[Tensor; 3]> {
    gradients(qkv, d_out, |[q, k, v]| reference::attention(q, k, v, segments, scale))
}
