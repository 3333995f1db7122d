//! Attention on rectangular batches `[b, l, heads, d]`, until its callers lay their sequences end to end.

use candle_core::{Result, Tensor};

use super::{AttentionOutput, attention, attention_backward, attention_kept};
use crate::{Backend, Spans};

/// [`attention`] on `[b, l, heads, d]`.
///
/// # Errors
/// As [`attention`].
pub fn attention_by_token(
    backend: Backend,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Spans,
    scale: f64,
) -> Result<Tensor> {
    let segments = spans.segments(q, k)?;
    let [q_rows, k, v] = [rows(q)?, rows(k)?, rows(v)?];
    attention(backend, &q_rows, &k, &v, &segments, scale)?.reshape(q.shape())
}

/// [`attention_kept`] on `[b, l, heads, d]`.
///
/// # Errors
/// As [`attention`].
pub fn attention_by_token_kept(
    backend: Backend,
    [q, k, v]: [&Tensor; 3],
    spans: &Spans,
    scale: f64,
) -> Result<AttentionOutput> {
    let segments = spans.segments(q, k)?;
    let rows = [&rows(q)?, &rows(k)?, &rows(v)?];
    let AttentionOutput { out, lse } = attention_kept(backend, rows, &segments, scale)?;
    Ok(AttentionOutput { out: out.reshape(q.shape())?, lse })
}

/// [`attention_backward`] on `[b, l, heads, d]`.
///
/// # Errors
/// As [`attention_backward`].
pub fn attention_by_token_backward(
    backend: Backend,
    qkv: [&Tensor; 3],
    output: &AttentionOutput,
    d_out: &Tensor,
    spans: &Spans,
    scale: f64,
) -> Result<[Tensor; 3]> {
    let segments = spans.segments(qkv[0], qkv[1])?;
    let [q, k, v] = [rows(qkv[0])?, rows(qkv[1])?, rows(qkv[2])?];
    let d_out = d_out.reshape(q.shape())?;
    let output = AttentionOutput { out: output.out.reshape(q.shape())?, lse: output.lse.clone() };
    let [d_q, d_k, d_v] =
        attention_backward(backend, [&q, &k, &v], &output, &d_out, &segments, scale)?;
    Ok([d_q.reshape(qkv[0].shape())?, d_k.reshape(qkv[1].shape())?, d_v.reshape(qkv[2].shape())?])
}

fn rows(x: &Tensor) -> Result<Tensor> {
    match x.dim(0)? {
        1 => x.squeeze(0),
        _ => x.flatten(0, 1),
    }
}
