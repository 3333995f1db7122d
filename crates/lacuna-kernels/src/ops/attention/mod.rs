//! Computes attention over [`Segments`], and its gradients: in tiles, with a streamed softmax, so that scores are
//! never stored beyond a tile; for grouped queries without repeating keys; backward by recomputing probabilities from
//! log Σ exp.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::backend::{Backend, Serving};

mod cpu;
mod key_ranges;
mod mask;
pub(crate) mod reference;
mod segments;
mod stored;

pub use key_ranges::KeyRanges;
pub use mask::AttentionMask;
pub use segments::{Segment, Segments};
pub use stored::{CachePrecision, StoredRows};

/// Attention: softmax(q · kᵀ · scale, over visible keys) · v for every segment; differentiable in q, k and v. A query
/// that sees nothing yields zeros.
///
/// q: `[rows, heads, d]`, k and v: `[keys, kv_heads, d]` → `[rows, heads, d]`: the order in which projections
/// leave their result. Rows may lie anywhere (a narrowed view) as long as each is contiguous.
///
/// # Errors
/// If shapes disagree with each other or with the segments; on the way back if segments share keys.
pub fn attention(
    backend: Backend,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    scale: f64,
) -> Result<Tensor> {
    segments.check(q, k, v)?;
    match backend.serving_filled(&[q, k, v]) {
        Serving::Reference => reference::attention(q, k, v, segments, scale),
        Serving::Cpu(isa) => cpu::attention(isa, [q, k, v], segments, scale),
    }
}

/// The output of attention, and what its backward pass needs of the forward pass ([`attention_kept`],
/// [`attention_backward`]).
#[derive(Clone, Debug)]
pub struct AttentionOutput {
    /// The output, `[rows, heads, d]`.
    pub out: Tensor,
    /// log Σ exp of every query, as the fused pass leaves it; the reference computes it anew.
    lse: Option<Arc<cpu::Lse>>,
}

/// [`attention`] for a caller who will ask for its gradients by [`attention_backward`]. Records nothing.
///
/// # Errors
/// As [`attention`].
pub fn attention_kept(
    backend: Backend,
    [q, k, v]: [&Tensor; 3],
    segments: &Segments,
    scale: f64,
) -> Result<AttentionOutput> {
    segments.check(q, k, v)?;
    match backend.serving_filled(&[q, k, v]) {
        Serving::Reference => {
            let out = reference::attention(&q.detach(), &k.detach(), &v.detach(), segments, scale)?;
            Ok(AttentionOutput { out, lse: None })
        }
        Serving::Cpu(isa) => {
            let (out, lse) = cpu::attention_kept(isa, [q, k, v], segments, scale)?;
            Ok(AttentionOutput { out, lse: Some(Arc::new(lse)) })
        }
    }
}

/// The gradients of q, k and v, from `d_out`, the output's gradient. Records nothing.
///
/// # Errors
/// If shapes are not those of the forward pass, or segments share keys.
pub fn attention_backward(
    backend: Backend,
    [q, k, v]: [&Tensor; 3],
    output: &AttentionOutput,
    d_out: &Tensor,
    segments: &Segments,
    scale: f64,
) -> Result<[Tensor; 3]> {
    segments.check(q, k, v)?;
    if d_out.dims() != q.dims() {
        bail!("attention: the gradient is {:?}, expected {:?}", d_out.dims(), q.dims())
    }
    if output.out.dims() != q.dims() {
        bail!("attention: the output is {:?}, expected {:?}", output.out.dims(), q.dims())
    }
    match (backend.serving_filled(&[q, k, v, d_out]), &output.lse) {
        (Serving::Cpu(isa), Some(lse)) => {
            let outer = (&output.out, d_out, &**lse);
            cpu::attention_backward(isa, [q, k, v], outer, segments, scale)
        }
        _ => reference::attention_backward([q, k, v], d_out, segments, scale),
    }
}

/// [`attention`] over segments whose keys and values lie apart, as in one cache for each sequence. A segment's result
/// has the same bits whatever stands beside it. Records nothing.
///
/// q: `[rows, heads, d]`, each cache: keys and values `[capacity, kv_heads, d]`, of which a segment reads its
/// `keys`; packed ones are unpacked a few at a time, while they are read.
///
/// # Errors
/// If shapes disagree with each other or with the segments, or there is not one cache for each segment.
pub fn attention_over(
    backend: Backend,
    q: &Tensor,
    caches: &[(StoredRows, StoredRows)],
    segments: &Segments,
    scale: f64,
) -> Result<Tensor> {
    segments.check_over(q, caches)?;
    let rows = || caches.iter().flat_map(|(k, v)| [k, v]);
    let is_empty = |rows: &StoredRows| rows.data().elem_count() == 0;
    let floats = rows().filter(|rows| rows.precision() == CachePrecision::F32);
    let tensors: Vec<_> = [q].into_iter().chain(floats.map(StoredRows::data)).collect();
    match backend.serving_filled(&tensors) {
        Serving::Cpu(isa) if !rows().any(is_empty) => {
            cpu::attention_over(isa, q, caches, segments, scale)
        }
        _ => reference::attention_over(q, caches, segments, scale),
    }
}
