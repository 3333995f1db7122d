//! Every operation from plain candle operations that have a backward: any float dtype (f64 too),
//! any device. These are the definitions; the fast versions are tested against them.
//!
//! Avoided on purpose, because candle gives them no gradient and no error either: its fused
//! `rms_norm`, `rope`, `softmax_last_dim` and `slice_set`.

use candle_core::{D, DType, Result, Tensor, bail};

use crate::{CrossEntropy, KeyRanges, Rope, Segment, Segments};

mod backward;

pub use backward::{
    attention_backward, embedding_backward, linear_cross_entropy_gradients, linear_input_gradient,
    linear_weight_gradient, rms_norm_backward, rope_backward, swiglu_backward,
};

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

/// The same with keys and values of their own for each segment.
///
/// # Errors
/// If shapes disagree with each other or with the segments.
pub fn attention_over(
    q: &Tensor,
    caches: &[(Tensor, Tensor)],
    segments: &Segments,
    scale: f64,
) -> Result<Tensor> {
    segments.check_over(q, caches)?;
    let of_segment = |(segment, (k, v)): (&Segment, &(Tensor, Tensor))| {
        let keys = |x: &Tensor| x.detach().narrow(0, segment.keys.start, segment.keys.len());
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

/// One segment.
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

/// x / sqrt(mean(x²) + eps) · weight, over the last dimension; statistics at least in f32.
///
/// # Errors
/// If `weight` is not `[h]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = widen(x)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = wide.broadcast_div(&(mean + eps)?.sqrt()?)?;
    normed.broadcast_mul(&widen(weight)?)?.to_dtype(x.dtype())
}

/// Rotates the pairs (x\[i\], x\[i + d/2\]) by the angles of each row's position.
///
/// x: `[rows, heads, d]`.
///
/// # Errors
/// If a position is beyond the table or shapes disagree.
pub fn rope(x: &Tensor, rope: &Rope, positions: &[u32]) -> Result<Tensor> {
    let (_, _, d) = x.dims3()?;
    let (cos, sin) = rope.rows(x, positions)?; // [rows, 1, d/2]
    let wide = widen(x)?;
    let (cos, sin) = (cos.to_dtype(wide.dtype())?, sin.to_dtype(wide.dtype())?);
    let lo = wide.narrow(2, 0, d / 2)?;
    let hi = wide.narrow(2, d / 2, d / 2)?;
    let first = (lo.broadcast_mul(&cos)? - hi.broadcast_mul(&sin)?)?;
    let second = (hi.broadcast_mul(&cos)? + lo.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.to_dtype(x.dtype())
}

/// silu(gate) · up = gate · σ(gate) · up.
///
/// # Errors
/// If shapes or dtypes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()?.mul(up)
}

/// Row `ids[i]` of `table` for every i. table: `[v, h]`, ids: u32 of any shape → `[ids.., h]`.
///
/// # Errors
/// If an id is not below v.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (_, h) = table.dims2()?;
    let mut shape = ids.dims().to_vec();
    shape.push(h);
    table.contiguous()?.index_select(&ids.flatten_all()?, 0)?.reshape(shape)
}

/// x · weightᵀ. x: `[.., in]`, weight: `[out, in]` → `[.., out]`.
///
/// # Errors
/// If the inner dimensions differ.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, shape) = check_linear(x, weight)?;
    let (_, inner) = weight.dims2()?;
    x.reshape((rows, inner))?.matmul(&weight.t()?)?.reshape(shape)
}

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
    let (n, _, _) = check_cross_entropy(hidden, head, targets, Some(weights))?;
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
    let (n, _, _) = check_cross_entropy(hidden, head, targets, None)?;
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

/// Half-precision operands are computed in f32; f32 and f64 stay as they are.
pub(crate) fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// Rows of x and the shape of x · weightᵀ.
pub(crate) fn check_linear(x: &Tensor, weight: &Tensor) -> Result<(usize, Vec<usize>)> {
    let (out, inner) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut() else {
        bail!("linear: x is a scalar, expected [.., {inner}]")
    };
    if *last != inner {
        bail!("linear: x is {:?}, expected [.., {inner}] for weight {:?}", x.dims(), weight.dims())
    }
    *last = out;
    Ok((x.dims()[..x.rank() - 1].iter().product(), shape))
}

/// (rows, hidden size, vocabulary).
pub(crate) fn check_cross_entropy(
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
