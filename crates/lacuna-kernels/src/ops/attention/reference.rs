//! Defines attention, segment by segment, with all scores of a segment in memory at once.

use candle_core::{D, Result, Tensor};

use super::{KeyRanges, Segment, Segments, StoredRows};
use crate::reference::{gradients, widen};

/// softmax(q · kᵀ · scale, over visible keys) · v for each segment; a query that sees nothing yields zeros.
///
/// q: `[rows, heads, d]`, k and v: `[keys, kv_heads, d]` → `[rows, heads, d]`.
///
/// # Errors
/// If shapes disagree with each other or with the segments.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    scale: f64,
) -> Result<Tensor> {
    segments.check(q, k, v)?;
    let of_segment = |segment: &Segment| {
        let keys = |x: &Tensor| x.narrow(0, segment.keys.start, segment.keys.len());
        attend(&queries(q, segment)?, &keys(k)?, &keys(v)?, &segment.ranges, scale)
    };
    joined(q, segments.iter().map(of_segment).collect::<Result<_>>()?)
}

/// [`attention`] with keys and values of its own for each segment; packed ones count as what they unpack to.
///
/// # Errors
/// If shapes disagree with each other or with the segments.
pub fn attention_over(
    q: &Tensor,
    caches: &[(StoredRows, StoredRows)],
    segments: &Segments,
    scale: f64,
) -> Result<Tensor> {
    segments.check_over(q, caches)?;
    let of_segment = |(segment, (k, v)): (&Segment, &(StoredRows, StoredRows))| {
        let keys = |rows: &StoredRows| {
            let x = rows.unpacked()?.detach().to_dtype(q.dtype())?;
            x.narrow(0, segment.keys.start, segment.keys.len())
        };
        attend(&queries(&q.detach(), segment)?, &keys(k)?, &keys(v)?, &segment.ranges, scale)
    };
    joined(q, segments.iter().zip(caches).map(of_segment).collect::<Result<_>>()?)
}

fn queries(q: &Tensor, segment: &Segment) -> Result<Tensor> {
    q.narrow(0, segment.queries.start, segment.queries.len())
}

fn joined(q: &Tensor, parts: Vec<Tensor>) -> Result<Tensor> {
    if parts.is_empty() { q.zeros_like() } else { Tensor::cat(&parts, 0) }
}

/// Attention of one segment.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, ranges: &KeyRanges, scale: f64) -> Result<Tensor> {
    let ((_, heads, d), (kv_len, kv_heads, _)) = (q.dims3()?, k.dims3()?);
    if q.elem_count() == 0 || kv_len == 0 {
        return q.zeros_like();
    }
    let dtype = q.dtype();
    let group = heads / kv_heads;
    let by_head = |x: &Tensor| widen(x)?.transpose(0, 1)?.contiguous();
    let repeat = |x: &Tensor| {
        let x = by_head(x)?.unsqueeze(1)?.expand((kv_heads, group, kv_len, d))?;
        x.reshape((heads, kv_len, d))
    };
    let (q, k, v) = (by_head(q)?, repeat(k)?, repeat(v)?);
    let seen = ranges.to_tensor(q.dtype(), q.device())?;
    let hidden = seen.affine(1e30, -1e30)?; // 0 where visible, -1e30 elsewhere
    let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(&hidden)?;
    // The maximum cancels out of the quotient, so it needs no gradient.
    let max = scores.max_keepdim(D::Minus1)?.detach();
    let p = scores.broadcast_sub(&max)?.exp()?.broadcast_mul(&seen)?;
    let sum = p.sum_keepdim(D::Minus1)?;
    let empty = seen.max_keepdim(D::Minus1)?.affine(-1., 1.)?;
    let p = p.broadcast_div(&sum.broadcast_add(&empty)?)?;
    p.matmul(&v)?.transpose(0, 1)?.to_dtype(dtype)
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
    gradients(qkv, d_out, |[q, k, v]| attention(q, k, v, segments, scale))
}
