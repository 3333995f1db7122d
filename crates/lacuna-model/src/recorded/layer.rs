//! One layer, there and back.

use candle_core::Tensor;
use lacuna_checkpoint::{Layer, Linear};
use lacuna_kernels::{
    AttentionOutput, Backend, add_rms_norm, attention_by_token_backward, attention_by_token_kept,
    embedding, embedding_backward, linear, linear_input_gradient, linear_weight_gradient, rms_norm,
    rms_norm_backward, rope_by_token, rope_by_token_backward, swiglu, swiglu_backward,
};

use super::rows::{Rows, gather, gather_backward};
use crate::error::Result;
use crate::transformer::Transformer;
use crate::windows::Windows;

#[derive(Debug)]
pub(super) struct Activations {
    /// The layer's input: [inputs, hidden].
    x: Tensor,
    /// Queries and keys before their norms (only if the model has these), then q, k, v as attention read
    /// them: [batch, len, heads, head_dim].
    unnormed: Option<(Tensor, Tensor)>,
    qkv: [Tensor; 3],
    attended: AttentionOutput,
    /// Behind the attention, wanted rows only in the last layer: the residual stream, gate and up.
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
}

impl Transformer {
    /// One layer, given its input and the norm of it: its activations, and the two terms of what it leaves on
    /// the residual stream, to be summed where the next norm reads them.
    pub(super) fn layer_forward(
        &self,
        layer: &Layer<Tensor>,
        x: Tensor,
        normed: &Tensor,
        windows: &Windows,
        rows: &Rows,
    ) -> Result<(Activations, [Tensor; 2])> {
        let (backend, eps) = (self.backend, self.config.rms_norm_eps);
        let heads = |x: Tensor, len: usize, n: usize| -> Result<Tensor> {
            Ok(x.reshape((windows.batch, len, n, self.config.head_dim))?)
        };
        let of_inputs = |linear: &Linear<Tensor>| {
            gather(backend, &affine(backend, linear, normed)?, rows.inputs.as_ref())
        };
        let q = match &rows.queries {
            Some(queries) => affine(backend, &layer.q, &embedding(backend, normed, queries)?)?,
            None => of_inputs(&layer.q)?,
        };
        let mut q = heads(q, rows.n_query, self.config.num_heads)?;
        let mut k = heads(of_inputs(&layer.k)?, windows.len, self.config.num_kv_heads)?;
        let v = heads(of_inputs(&layer.v)?, windows.len, self.config.num_kv_heads)?;
        let mut unnormed = None;
        if let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) {
            let before = (q, k);
            q = rms_norm(backend, &before.0, q_norm, eps)?;
            k = rms_norm(backend, &before.1, k_norm, eps)?;
            unnormed = Some(before);
        }
        q = rope_by_token(backend, &q, &self.rope, &rows.positions)?;
        k = rope_by_token(backend, &k, &self.rope, &windows.positions)?;
        let attended = attention_by_token_kept(backend, [&q, &k, &v], &rows.spans, self.scale())?;
        let out = gather(backend, &self.rows_first(&attended.out)?, rows.attended.as_ref())?;
        let residual = gather(backend, &x, rows.residual.as_ref())?;
        let projected = affine(backend, &layer.o, &out)?;
        let (middle, normed) = add_rms_norm(backend, &residual, &projected, &layer.mlp_norm, eps)?;
        let (gate, up) =
            (affine(backend, &layer.gate, &normed)?, affine(backend, &layer.up, &normed)?);
        let fed = affine(backend, &layer.down, &swiglu(backend, &gate, &up)?)?;
        let left = [middle.clone(), fed];
        let qkv = [q, k, v];
        Ok((Activations { x, unnormed, qkv, attended, middle, gate, up }, left))
    }

    /// The gradients of a layer's input and of its parameters, given that of its output.
    pub(super) fn layer_backward(
        &self,
        layer: &Layer<Tensor>,
        kept: Activations,
        windows: &Windows,
        rows: &Rows,
        d_y: &Tensor,
    ) -> Result<(Tensor, Layer<Tensor>)> {
        let (backend, eps) = (self.backend, self.config.rms_norm_eps);
        let Activations { x, unnormed, qkv, attended, middle, gate, up } = kept;

        // Feed-forward.
        let d_act = linear_input_gradient(backend, &[(d_y, &layer.down.weight)])?;
        let [act, d_gate, d_up] = swiglu_backward(backend, &gate, &up, &d_act)?;
        let down = linear_gradients(backend, &layer.down, d_y, &act)?;
        drop((d_act, act, gate, up));
        let normed = rms_norm(backend, &middle, &layer.mlp_norm, eps)?;
        let gate = linear_gradients(backend, &layer.gate, &d_gate, &normed)?;
        let up = linear_gradients(backend, &layer.up, &d_up, &normed)?;
        let terms = [(&d_gate, &layer.gate.weight), (&d_up, &layer.up.weight)];
        let d_normed = linear_input_gradient(backend, &terms)?;
        let norm = &layer.mlp_norm;
        let (d_middle, mlp_norm) =
            rms_norm_backward(backend, &middle, norm, eps, &d_normed, Some(d_y))?;
        drop((d_gate, d_up, d_normed, normed, middle));

        // Attention.
        let out = self.rows_first(&attended.out)?;
        let wanted = gather(backend, &out, rows.attended.as_ref())?;
        let o = linear_gradients(backend, &layer.o, &d_middle, &wanted)?;
        let d_out = linear_input_gradient(backend, &[(&d_middle, &layer.o.weight)])?;
        let d_out = gather_backward(backend, d_out, rows.attended.as_ref(), out.dim(0)?)?;
        let d_out = d_out.reshape(attended.out.shape())?;
        let [q, k, v] = &qkv;
        let [d_q, d_k, d_v] = attention_by_token_backward(
            backend,
            [q, k, v],
            &attended,
            &d_out,
            &rows.spans,
            self.scale(),
        )?;
        let mut d_q = rope_by_token_backward(backend, &d_q, &self.rope, &rows.positions)?;
        let mut d_k = rope_by_token_backward(backend, &d_k, &self.rope, &windows.positions)?;
        let (mut q_norm, mut k_norm) = (None, None);
        if let (Some(q_weight), Some(k_weight), Some((q, k))) =
            (&layer.q_norm, &layer.k_norm, &unnormed)
        {
            let (d_q_norm, d_k_norm);
            (d_q, d_q_norm) = rms_norm_backward(backend, q, q_weight, eps, &d_q, None)?;
            (d_k, d_k_norm) = rms_norm_backward(backend, k, k_weight, eps, &d_k, None)?;
            (q_norm, k_norm) = (Some(d_q_norm), Some(d_k_norm));
        }

        // Projections and the first norm.
        let of_inputs = |d: &Tensor| {
            gather_backward(backend, self.rows_first(d)?, rows.inputs.as_ref(), x.dim(0)?)
        };
        let (d_k, d_v) = (of_inputs(&d_k)?, of_inputs(&d_v)?);
        let normed = rms_norm(backend, &x, &layer.input_norm, eps)?;
        let k = linear_gradients(backend, &layer.k, &d_k, &normed)?;
        let v = linear_gradients(backend, &layer.v, &d_v, &normed)?;
        let of_keys = [(&d_k, &layer.k.weight), (&d_v, &layer.v.weight)];
        let (q, d_normed) = match &rows.queries {
            Some(queries) => {
                let d_q = self.rows_first(&d_q)?;
                let of_queries = embedding(backend, &normed, queries)?;
                let q = linear_gradients(backend, &layer.q, &d_q, &of_queries)?;
                let onto = linear_input_gradient(backend, &of_keys)?;
                let d_queries = linear_input_gradient(backend, &[(&d_q, &layer.q.weight)])?;
                (q, embedding_backward(backend, queries, &d_queries, &onto)?)
            }
            None => {
                let d_q = of_inputs(&d_q)?;
                let q = linear_gradients(backend, &layer.q, &d_q, &normed)?;
                let [of_k, of_v] = of_keys;
                (q, linear_input_gradient(backend, &[(&d_q, &layer.q.weight), of_k, of_v])?)
            }
        };
        let carried = rows.residual.is_none().then_some(&d_middle);
        let (mut d_x, input_norm) =
            rms_norm_backward(backend, &x, &layer.input_norm, eps, &d_normed, carried)?;
        if let Some(residual) = &rows.residual {
            d_x = embedding_backward(backend, residual, &d_middle, &d_x)?;
        }
        let gradients = Layer { input_norm, q, k, v, o, q_norm, k_norm, mlp_norm, gate, up, down };
        Ok((d_x, gradients))
    }
}

/// Those of a dense layer's weight, and of its bias if it has one.
fn linear_gradients(
    backend: Backend,
    layer: &Linear<Tensor>,
    d_y: &Tensor,
    x: &Tensor,
) -> Result<Linear<Tensor>> {
    let weight = linear_weight_gradient(backend, d_y, x)?;
    let bias = layer.bias.as_ref().map(|_| d_y.sum(0)).transpose()?;
    Ok(Linear { weight, bias })
}

/// x · weightᵀ + bias.
fn affine(backend: Backend, layer: &Linear<Tensor>, x: &Tensor) -> Result<Tensor> {
    let y = linear(backend, x, &layer.weight)?;
    Ok(match &layer.bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    })
}
