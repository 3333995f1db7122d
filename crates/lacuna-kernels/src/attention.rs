//! Attention over [`Spans`]: tiled, the softmax streamed, scores never stored beyond a tile,
//! grouped queries without repeating keys, the backward pass recomputing from log Σ exp.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

#[cfg(target_arch = "x86_64")]
mod avx512;
mod backward;
mod cpu;
mod layout;
mod panel;
pub(crate) mod plan;

pub(crate) use layout::Axes;

use crate::cpu::is_f32;
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
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &Spans, scale: f64) -> Result<Tensor> {
    reference::check_attention(q, k, v)?;
    spans.check(q.dims()[0], q.dims()[2], k.dims()[2])?;
    if [q, k, v].into_iter().all(is_fast) {
        return fused(q, k, v, spans, scale, Axes::HeadsFirst);
    }
    reference::attention(q, k, v, spans, scale)
}

/// [`attention`] on `[b, l, heads, d]`, the order in which projections leave their result: a model
/// that stays in it needs no transposes, in neither direction.
///
/// # Errors
/// As [`attention`].
pub fn attention_by_token(
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
    if [q, k, v].into_iter().all(is_fast) {
        return fused(q, k, v, spans, scale, Axes::TokensFirst);
    }
    let (q, k, v) = heads_first;
    reference::attention(&q, &k, &v, spans, scale)?.transpose(1, 2)
}

fn is_fast(x: &Tensor) -> bool {
    is_f32(x) && x.elem_count() > 0
}

fn fused(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Spans,
    scale: f64,
    axes: Axes,
) -> Result<Tensor> {
    let rows = |x: &Tensor| if x.stride()[3] == 1 { Ok(x.clone()) } else { x.contiguous() };
    let log_sums = OnceLock::new();
    let op = Attention { spans: spans.clone(), scale: scale as f32, axes, log_sums };
    rows(q)?.apply_op3(&rows(k)?, &rows(v)?, op)
}

struct Attention {
    spans: Spans,
    scale: f32,
    axes: Axes,
    /// log Σ exp of every query, kept from the forward pass.
    log_sums: OnceLock<LogSums>,
}

impl Attention {
    fn inputs<'a>(&'a self, views: [(&'a CpuStorage, &'a Layout); 3]) -> Result<Inputs<'a>> {
        let [q, k, v] = views;
        let axes = self.axes;
        let sizes = Sizes::new(axes, q.1.dims(), k.1.dims())?;
        let view = |(s, l): (&'a CpuStorage, &'a Layout)| View::new(s.as_slice::<f32>()?, l, axes);
        let (q, k, v) = (view(q)?, view(k)?, view(v)?);
        Ok(Inputs { axes, sizes, q, k, v, spans: &self.spans, scale: self.scale })
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
        let d_out = d_out.contiguous()?;
        let (qs, ql) = q.storage_and_layout();
        let (ks, kl) = k.storage_and_layout();
        let (vs, vl) = v.storage_and_layout();
        let (os, ol) = out.storage_and_layout();
        let (ds, dl) = d_out.storage_and_layout();
        let (
            Storage::Cpu(qs),
            Storage::Cpu(ks),
            Storage::Cpu(vs),
            Storage::Cpu(os),
            Storage::Cpu(ds),
        ) = (&*qs, &*ks, &*vs, &*os, &*ds)
        else {
            bail!("attention: a gradient is on another device, expected the CPU")
        };
        let inputs = self.inputs([(qs, ql), (ks, kl), (vs, vl)])?;
        let out = View::new(os.as_slice::<f32>()?, ol, self.axes)?;
        let d_out = View::new(ds.as_slice::<f32>()?, dl, self.axes)?;
        let gradients = backward::backward(&inputs, out, d_out, log_sums);
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(tensor(gradients.q, q)?),
            Some(tensor(gradients.k, k)?),
            Some(tensor(gradients.v, v)?),
        ))
    }
}
