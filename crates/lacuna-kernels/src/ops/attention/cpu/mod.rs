//! Computes attention on CPU tensors of f32, as a differentiable operation and as functions that record nothing.
#![allow(unsafe_code, reason = "rows that tasks write each once, and blocks of a product")]

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use super::{CachePrecision, KeyRanges, Segment, Segments, StoredRows};
use crate::backend::Isa;
use crate::raw::shaped;

mod backward;
mod block;
mod forward;
mod layout;
mod panel;
pub(super) mod plan;
mod unpack;

use backward::{Gradients, Outer};
pub(super) use forward::Lse;
use forward::Part;
use layout::{Rows, Sizes, Stored, View};

pub(super) fn attention(
    isa: Isa,
    [q, k, v]: [&Tensor; 3],
    segments: &Segments,
    scale: f64,
) -> Result<Tensor> {
    by_rows(q)?.apply_op3(&by_rows(k)?, &by_rows(v)?, Attention::new(isa, segments, scale))
}

pub(super) fn attention_kept(
    isa: Isa,
    [q, k, v]: [&Tensor; 3],
    segments: &Segments,
    scale: f64,
) -> Result<(Tensor, Lse)> {
    let qkv = [&by_rows(q)?, &by_rows(k)?, &by_rows(v)?];
    let (out, lse) = Attention::new(isa, segments, scale).output(qkv)?;
    Ok((shaped(out, q)?, lse))
}

/// The gradients of q, k and v, from the output, the output's gradient and the log sums that the forward pass kept.
pub(super) fn attention_backward(
    isa: Isa,
    [q, k, v]: [&Tensor; 3],
    (out, d_out, lse): (&Tensor, &Tensor, &Lse),
    segments: &Segments,
    scale: f64,
) -> Result<[Tensor; 3]> {
    let qkv = [&by_rows(q)?, &by_rows(k)?, &by_rows(v)?];
    Attention::new(isa, segments, scale).gradients(qkv, out, d_out, lse)
}

pub(super) fn attention_over(
    isa: Isa,
    q: &Tensor,
    caches: &[(StoredRows, StoredRows)],
    segments: &Segments,
    scale: f64,
) -> Result<Tensor> {
    let q = by_rows(q)?;
    let data = |(k, v): &(StoredRows, StoredRows)| Ok((by_rows(k.data())?, by_rows(v.data())?));
    let tensors = caches.iter().map(data).collect::<Result<Vec<_>>>()?;
    let (q_storage, q_layout) = q.storage_and_layout();
    let storages: Vec<_> =
        tensors.iter().map(|(k, v)| (k.storage_and_layout(), v.storage_and_layout())).collect();
    let q_view = view(&q_storage, q_layout)?;
    let mut parts = Vec::with_capacity(segments.len());
    for ((segment, (k, v)), kept) in segments.iter().zip(&storages).zip(caches) {
        let kv = (stored(&k.0, k.1, kept.0.precision())?, stored(&v.0, v.1, kept.1.precision())?);
        let sizes = Sizes::new(q.dims(), kept.0.dims()?[1], segment);
        parts.push(Part::new(sizes, q_view, kv, segment));
    }
    let mut out = Vec::new();
    let rows = Rows::reserve(&mut out, q.dims3()?.into());
    forward::forward_apart(isa, scale as f32, &parts, &rows);
    // SAFETY: the segments' queries are all rows of q, and every row of each has been written.
    unsafe { out.set_len(q.elem_count()) };
    shaped(out, &q)
}

/// The same tensor with contiguous rows, which may lie anywhere; only rows that are not contiguous are copied.
fn by_rows(x: &Tensor) -> Result<Tensor> {
    if x.stride()[2] == 1 { Ok(x.clone()) } else { x.contiguous() }
}

fn view<'a>(storage: &'a Storage, layout: &Layout) -> Result<View<'a>> {
    match storage {
        Storage::Cpu(storage) => View::new(storage.as_slice::<f32>()?, layout),
        _ => bail!("attention: an input is on another device, expected the CPU"),
    }
}

fn stored<'a>(
    storage: &'a Storage,
    layout: &Layout,
    precision: CachePrecision,
) -> Result<Stored<'a>> {
    match (storage, precision) {
        (_, CachePrecision::F32) => Ok(Stored::Exact(view(storage, layout)?)),
        (Storage::Cpu(storage), packed) => {
            Ok(Stored::Packed(View::new(storage.as_slice::<u8>()?, layout)?, packed))
        }
        _ => bail!("attention: packed keys are on another device, expected the CPU"),
    }
}

struct Attention {
    isa: Isa,
    segments: Segments,
    scale: f32,
    /// log Σ exp of every query, kept from the forward pass.
    lse: OnceLock<Lse>,
}

impl Attention {
    fn new(isa: Isa, segments: &Segments, scale: f64) -> Self {
        Self { isa, segments: segments.clone(), scale: scale as f32, lse: OnceLock::new() }
    }

    fn parts<'a>(
        &'a self,
        [q, k, v]: [View<'a>; 3],
        q_dims: &[usize],
        kv_heads: usize,
    ) -> Vec<Part<'a>> {
        let kv = (Stored::Exact(k), Stored::Exact(v));
        let part = |segment| Part::new(Sizes::new(q_dims, kv_heads, segment), q, kv, segment);
        self.segments.iter().map(part).collect()
    }

    fn output(&self, qkv: [&Tensor; 3]) -> Result<(Vec<f32>, Lse)> {
        let dims = (qkv[0].dims3()?, qkv[1].dims()[1]);
        let [(q, q_layout), (k, k_layout), (v, v_layout)] = qkv.map(Tensor::storage_and_layout);
        let views = [view(&q, q_layout)?, view(&k, k_layout)?, view(&v, v_layout)?];
        Ok(self.forward(views, dims))
    }

    fn forward(
        &self,
        views: [View<'_>; 3],
        (q, kv_heads): ((usize, usize, usize), usize),
    ) -> (Vec<f32>, Lse) {
        let q: [usize; 3] = q.into();
        let parts = self.parts(views, &q, kv_heads);
        let mut out = Vec::new();
        let rows = Rows::reserve(&mut out, q);
        let lse = forward::forward(self.isa, self.scale, &parts, &rows);
        // SAFETY: the segments' queries are all rows of q, and every row of each has been written.
        unsafe { out.set_len(q.iter().product()) };
        (out, lse)
    }

    fn gradients(
        &self,
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        d_out: &Tensor,
        lse: &Lse,
    ) -> Result<[Tensor; 3]> {
        let (q_dims, k_dims): ([usize; 3], [usize; 3]) = (q.dims3()?.into(), k.dims3()?.into());
        let unread = self.segments.unread_keys(k_dims[0])?;
        let d_out = d_out.contiguous()?;
        let tensors = [q, k, v, out, &d_out].map(Tensor::storage_and_layout);
        let [q_view, k_view, v_view, out, d_out] = tensors.each_ref().map(|t| view(&t.0, t.1));
        let parts = self.parts([q_view?, k_view?, v_view?], &q_dims, k_dims[1]);
        let outer = Outer { out: out?, d_out: d_out?, lse };
        let (mut d_q, mut d_k, mut d_v) = (Vec::new(), Vec::new(), Vec::new());
        let to = Gradients {
            q: Rows::reserve(&mut d_q, q_dims),
            k: Rows::reserve(&mut d_k, k_dims),
            v: Rows::reserve(&mut d_v, k_dims),
        };
        for rows in unread {
            // SAFETY: no segment writes these rows.
            unsafe { (to.k.zero(rows.clone()), to.v.zero(rows)) };
        }
        backward::backward(self.isa, self.scale, &parts, outer, &to)?;
        // SAFETY: the segments' queries are all rows of q, and each has been written; rows of keys and values
        // have been by their segment, or just above.
        unsafe {
            d_q.set_len(q.elem_count());
            d_k.set_len(k.elem_count());
            d_v.set_len(v.elem_count());
        }
        Ok([shaped(d_q, q)?, shaped(d_k, k)?, shaped(d_v, v)?])
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
        let views = [
            View::new(q.as_slice::<f32>()?, q_layout)?,
            View::new(k.as_slice::<f32>()?, k_layout)?,
            View::new(v.as_slice::<f32>()?, v_layout)?,
        ];
        let (out, lse) = self.forward(views, (q_layout.shape().dims3()?, k_layout.dims()[1]));
        // A second forward pass of one op would only compute the same again.
        let _ = self.lse.set(lse);
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
        let Some(lse) = self.lse.get() else { bail!("attention: backward came before forward") };
        let [d_q, d_k, d_v] = self.gradients([q, k, v], out, d_out, lse)?;
        Ok((Some(d_q), Some(d_k), Some(d_v)))
    }
}
