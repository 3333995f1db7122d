//! Attention over [`Spans`], grouped queries without repeating keys.

use candle_core::{Result, Tensor};

use crate::{Spans, reference};

/// softmax(q · kᵀ · scale, over visible keys) · v; differentiable in q, k and v. A query that
/// sees nothing yields zeros.
///
/// q: `[b, heads, q_len, d]`, k and v: `[b, kv_heads, kv_len, d]` → `[b, heads, q_len, d]`.
///
/// # Errors
/// If shapes disagree with each other or with `spans`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &Spans, scale: f64) -> Result<Tensor> {
    reference::attention(q, k, v, spans, scale)
}
