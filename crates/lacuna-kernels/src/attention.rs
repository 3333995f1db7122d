//! Attention over [`Spans`]: tiled, the softmax streamed, scores never stored beyond a tile,
//! grouped queries without repeating keys, the backward pass recomputing from log Σ exp.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

#[cfg(target_arch = "x86_64")]
mod avx512;
mod backward;
mod cpu;
mod layout;
mod panel;
pub(crate) mod plan;

pub(crate) use layout::Axes;

use crate::backend::{Backend, Isa};
use crate::cpu::shaped;
use crate::{Spans, reference};
use cpu::{Inputs, LogSums};
use layout::{Sizes, View};

/// softmax(q · kᵀ · scale, over visible keys) · v; differentiable in q, k and v. A query that
/// sees nothing yields zeros.
///
/// q: `[b, heads, q_len, d]`, k and v: `[b, kv_heads, kv_len, d]` → `[b, heads, q_len, d]`. Rows
/// may lie anywhere (a narrowed cache, a transposed view) as long as each is contiguous.
///
/// # Errors
/// If shapes disagree with each other or with `spans`.
pub fn attention(
    backend: Backend,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Spans,
    scale: f64,
) -> Result<Tensor> {
    reference::check_attention(q, k, v)?;
    spans.check(q.dims()[0], q.dims()[2], k.dims()[2])?;
    if let Backend::Cpu(isa) = backend.serving_filled(&[q, k, v]) {
        return fused(isa, [q, k, v], spans, scale, Axes::HeadsFirst);
    }
    reference::attention(q, k, v, spans, scale)
}

/// [`attention`] on `[b, l, heads, d]`, the order in which projections leave their result: a model
/// that stays in it needs no transposes, in neither direction.
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
    let by_head = |x: &Tensor| x.transpose(1, 2);
    let heads_first = (by_head(q)?, by_head(k)?, by_head(v)?);
    reference::check_attention(&heads_first.0, &heads_first.1, &heads_first.2)?;
    spans.check(q.dims()[0], q.dims()[1], k.dims()[1])?;
    if let Backend::Cpu(isa) = backend.serving_filled(&[q, k, v]) {
        return fused(isa, [q, k, v], spans, scale, Axes::TokensFirst);
    }
    let (q, k, v) = heads_first;
    reference::attention(&q, &k, &v, spans, scale)?.transpose(1, 2)
}

/// What the backward pass of attention needs besides its inputs.
#[derive(Clone, Debug)]
pub struct Attended {
    /// The output, `[b, l, heads, d]`.
    pub out: Tensor,
    /// log Σ exp of every query, as the fused pass leaves it; the reference computes it anew.
    log_sums: Option<Arc<LogSums>>,
}

/// [`attention_by_token`] for a caller who will ask for its gradients by
/// [`attention_by_token_backward`]. Records nothing.
///
/// # Errors
/// As [`attention`].
pub fn attention_by_token_kept(
    backend: Backend,
    [q, k, v]: [&Tensor; 3],
    spans: &Spans,
    scale: f64,
) -> Result<Attended> {
    let Backend::Cpu(isa) = backend.serving_filled(&[q, k, v]) else {
        let qkv = (&q.detach(), &k.detach(), &v.detach());
        let out = attention_by_token(Backend::Reference, qkv.0, qkv.1, qkv.2, spans, scale)?;
        return Ok(Attended { out, log_sums: None });
    };
    let (b, l, heads, d) = q.dims4()?;
    let op = Attention::new(isa, spans, scale, Axes::TokensFirst);
    spans.check(b, l, k.dim(1)?)?;
    let (q, k, v) = (by_rows(q)?, by_rows(k)?, by_rows(v)?);
    let (out, log_sums) = op.on_cpu([&q, &k, &v], |inputs| Ok(cpu::forward(&inputs)))?;
    let out = Tensor::from_vec(out, (b, l, heads, d), q.device())?;
    Ok(Attended { out, log_sums: Some(Arc::new(log_sums)) })
}

/// The gradients of q, k and v. Records nothing.
///
/// # Errors
/// If shapes are not those of the forward pass.
pub fn attention_by_token_backward(
    backend: Backend,
    [q, k, v]: [&Tensor; 3],
    attended: &Attended,
    d_out: &Tensor,
    spans: &Spans,
    scale: f64,
) -> Result<[Tensor; 3]> {
    let (Some(log_sums), Backend::Cpu(isa)) =
        (&attended.log_sums, backend.serving_filled(&[q, k, v, d_out]))
    else {
        return reference::attention_by_token_backward([q, k, v], d_out, spans, scale);
    };
    if d_out.dims() != q.dims() {
        bail!("attention: the gradient is {:?}, expected {:?}", d_out.dims(), q.dims())
    }
    let op = Attention::new(isa, spans, scale, Axes::TokensFirst);
    let qkv = [&by_rows(q)?, &by_rows(k)?, &by_rows(v)?];
    op.gradients(qkv, &attended.out, d_out, log_sums)
}

/// Rows may lie anywhere, but each is contiguous.
fn by_rows(x: &Tensor) -> Result<Tensor> {
    if x.stride()[3] == 1 { Ok(x.clone()) } else { x.contiguous() }
}

fn fused(
    isa: Isa,
    [q, k, v]: [&Tensor; 3],
    spans: &Spans,
    scale: f64,
    axes: Axes,
) -> Result<Tensor> {
    by_rows(q)?.apply_op3(&by_rows(k)?, &by_rows(v)?, Attention::new(isa, spans, scale, axes))
}

struct Attention {
    isa: Isa,
    spans: Spans,
    scale: f32,
    axes: Axes,
    /// log Σ exp of every query, kept from the forward pass.
    log_sums: OnceLock<LogSums>,
}

impl Attention {
    fn new(isa: Isa, spans: &Spans, scale: f64, axes: Axes) -> Self {
        let log_sums = OnceLock::new();
        Self { isa, spans: spans.clone(), scale: scale as f32, axes, log_sums }
    }

    /// Runs `f` on the elements of q, k and v.
    fn on_cpu<R>(&self, qkv: [&Tensor; 3], f: impl FnOnce(Inputs<'_>) -> Result<R>) -> Result<R> {
        let [(q, q_layout), (k, k_layout), (v, v_layout)] = qkv.map(Tensor::storage_and_layout);
        let (Storage::Cpu(q), Storage::Cpu(k), Storage::Cpu(v)) = (&*q, &*k, &*v) else {
            bail!("attention: an input is on another device, expected the CPU")
        };
        f(self.inputs([(q, q_layout), (k, k_layout), (v, v_layout)])?)
    }

    fn gradients(
        &self,
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        d_out: &Tensor,
        log_sums: &LogSums,
    ) -> Result<[Tensor; 3]> {
        let d_out = d_out.contiguous()?;
        let ((out, out_layout), (d_out, d_out_layout)) =
            (out.storage_and_layout(), d_out.storage_and_layout());
        let (Storage::Cpu(out), Storage::Cpu(d_out)) = (&*out, &*d_out) else {
            bail!("attention: a gradient is on another device, expected the CPU")
        };
        let out = View::new(out.as_slice::<f32>()?, out_layout, self.axes)?;
        let d_out = View::new(d_out.as_slice::<f32>()?, d_out_layout, self.axes)?;
        let run = |inputs: Inputs<'_>| Ok(backward::backward(&inputs, out, d_out, log_sums));
        let gradients = self.on_cpu([q, k, v], run)?;
        Ok([shaped(gradients.q, q)?, shaped(gradients.k, k)?, shaped(gradients.v, v)?])
    }

    fn inputs<'a>(&'a self, views: [(&'a CpuStorage, &'a Layout); 3]) -> Result<Inputs<'a>> {
        let [q, k, v] = views;
        let axes = self.axes;
        let sizes = Sizes::new(axes, q.1.dims(), k.1.dims())?;
        let view = |(s, l): (&'a CpuStorage, &'a Layout)| View::new(s.as_slice::<f32>()?, l, axes);
        let (q, k, v) = (view(q)?, view(k)?, view(v)?);
        Ok(Inputs { isa: self.isa, axes, sizes, q, k, v, spans: &self.spans, scale: self.scale })
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = self.inputs([(q, q_layout), (k, k_layout), (v, v_layout)])?;
        let (out, log_sums) = cpu::forward(&inputs);
        // A second forward pass of one op would only compute the same again.
        let _ = self.log_sums.set(log_sums);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        d_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else {
            bail!("attention: backward came before forward")
        };
        let [d_q, d_k, d_v] = self.gradients([q, k, v], out, d_out, log_sums)?;
        Ok((Some(d_q), Some(d_k), Some(d_v)))
    }
}
