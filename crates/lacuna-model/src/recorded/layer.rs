//! One layer, there and back.

use candle_core::Tensor;
use lacuna_kernels::{
    Attended, Backend, add_rms_norm, attention_by_token_backward, attention_by_token_kept,
    embedding, embedding_backward, linear, linear_input_gradient, linear_weight_gradient, rms_norm,
    rms_norm_backward, rope_by_token, rope_by_token_backward, swiglu, swiglu_backward,
};

use super::rows::{Rows, gather, gather_backward};
use super::{Gradients, tensor};
use crate::error::Result;
use crate::transformer::{Layer, Linear, Transformer, Weight};
use crate::windows::Windows;

#[derive(Debug)]
pub(super) struct Activations {
    /// The layer's input: [inputs, hidden].
    x: Tensor,
    /// Queries and keys before their norms (only if the model has these), then q, k, v as attention read
    /// them: [batch, len, heads, head_dim].
    unnormed: Option<(Tensor, Tensor)>,
    qkv: [Tensor; 3],
    attended: Attended,
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
        layer: &Layer,
        x: Tensor,
        normed: &Tensor,
        windows: &Windows,
        rows: &Rows,
    ) -> Result<(Activations, [Tensor; 2])> {
        let (backend, eps) = (self.backend, self.config.rms_norm_eps);
        let heads = |x: Tensor, len: usize, n: usize| -> Result<Tensor> {
            Ok(x.reshape((windows.batch, len, n, self.config.head_dim))?)
        };
        let of_inputs = |linear: &Linear| {
            gather(backend, &affine(backend, linear, normed)?, rows.inputs.as_ref())
        };
        let q = match &rows.queries {
            Some(queries) => affine(backend, &layer.q_proj, &embedding(backend, normed, queries)?)?,
            None => of_inputs(&layer.q_proj)?,
        };
        let mut q = heads(q, rows.n_query, self.config.num_heads)?;
        let mut k = heads(of_inputs(&layer.k_proj)?, windows.len, self.config.num_kv_heads)?;
        let v = heads(of_inputs(&layer.v_proj)?, windows.len, self.config.num_kv_heads)?;
        let mut unnormed = None;
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
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
        let projected = affine(backend, &layer.o_proj, &out)?;
        let (middle, normed) =
            add_rms_norm(backend, &residual, &projected, &layer.post_attention_norm, eps)?;
        let (gate, up) = (
            affine(backend, &layer.gate_proj, &normed)?,
            affine(backend, &layer.up_proj, &normed)?,
        );
        let fed = affine(backend, &layer.down_proj, &swiglu(backend, &gate, &up)?)?;
        let left = [middle.clone(), fed];
        let qkv = [q, k, v];
        Ok((Activations { x, unnormed, qkv, attended, middle, gate, up }, left))
    }

    /// The gradient of a layer's input, given that of its output; those of its parameters go to `named`.
    pub(super) fn layer_backward(
        &self,
        layer: &Layer,
        kept: Activations,
        windows: &Windows,
        rows: &Rows,
        d_y: &Tensor,
        named: &mut LayerGradients<'_>,
    ) -> Result<Tensor> {
        let (backend, eps) = (self.backend, self.config.rms_norm_eps);
        let Activations { x, unnormed, qkv, attended, middle, gate, up } = kept;

        // Feed-forward.
        let d_act = linear_input_gradient(backend, &[(d_y, &weight(&layer.down_proj)?)])?;
        let [act, d_gate, d_up] = swiglu_backward(backend, &gate, &up, &d_act)?;
        named.linear("mlp.down_proj", &layer.down_proj, d_y, &act)?;
        drop((d_act, act, gate, up));
        let normed = rms_norm(backend, &middle, &layer.post_attention_norm, eps)?;
        named.linear("mlp.gate_proj", &layer.gate_proj, &d_gate, &normed)?;
        named.linear("mlp.up_proj", &layer.up_proj, &d_up, &normed)?;
        let terms = [(&d_gate, &weight(&layer.gate_proj)?), (&d_up, &weight(&layer.up_proj)?)];
        let d_normed = linear_input_gradient(backend, &terms)?;
        let norm = &layer.post_attention_norm;
        let (d_middle, d_norm) =
            rms_norm_backward(backend, &middle, norm, eps, &d_normed, Some(d_y))?;
        named.push("post_attention_layernorm.weight", d_norm);
        drop((d_gate, d_up, d_normed, normed, middle));

        // Attention.
        let out = self.rows_first(&attended.out)?;
        let wanted = gather(backend, &out, rows.attended.as_ref())?;
        named.linear("self_attn.o_proj", &layer.o_proj, &d_middle, &wanted)?;
        let d_out = linear_input_gradient(backend, &[(&d_middle, &weight(&layer.o_proj)?)])?;
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
        if let (Some((q_norm, k_norm)), Some((q, k))) = (&layer.qk_norm, &unnormed) {
            let (d_q_norm, d_k_norm);
            (d_q, d_q_norm) = rms_norm_backward(backend, q, q_norm, eps, &d_q, None)?;
            (d_k, d_k_norm) = rms_norm_backward(backend, k, k_norm, eps, &d_k, None)?;
            named.push("self_attn.q_norm.weight", d_q_norm);
            named.push("self_attn.k_norm.weight", d_k_norm);
        }

        // Projections and the first norm.
        let of_inputs = |d: &Tensor| {
            gather_backward(backend, self.rows_first(d)?, rows.inputs.as_ref(), x.dim(0)?)
        };
        let (d_k, d_v) = (of_inputs(&d_k)?, of_inputs(&d_v)?);
        let normed = rms_norm(backend, &x, &layer.input_norm, eps)?;
        named.linear("self_attn.k_proj", &layer.k_proj, &d_k, &normed)?;
        named.linear("self_attn.v_proj", &layer.v_proj, &d_v, &normed)?;
        let (q, k, v) = (weight(&layer.q_proj)?, weight(&layer.k_proj)?, weight(&layer.v_proj)?);
        let d_normed = match &rows.queries {
            Some(queries) => {
                let d_q = self.rows_first(&d_q)?;
                let of_queries = embedding(backend, &normed, queries)?;
                named.linear("self_attn.q_proj", &layer.q_proj, &d_q, &of_queries)?;
                let onto = linear_input_gradient(backend, &[(&d_k, &k), (&d_v, &v)])?;
                embedding_backward(
                    backend,
                    queries,
                    &linear_input_gradient(backend, &[(&d_q, &q)])?,
                    &onto,
                )?
            }
            None => {
                let d_q = of_inputs(&d_q)?;
                named.linear("self_attn.q_proj", &layer.q_proj, &d_q, &normed)?;
                linear_input_gradient(backend, &[(&d_q, &q), (&d_k, &k), (&d_v, &v)])?
            }
        };
        let carried = rows.residual.is_none().then_some(&d_middle);
        let (mut d_x, d_norm) =
            rms_norm_backward(backend, &x, &layer.input_norm, eps, &d_normed, carried)?;
        named.push("input_layernorm.weight", d_norm);
        if let Some(residual) = &rows.residual {
            d_x = embedding_backward(backend, residual, &d_middle, &d_x)?;
        }
        Ok(d_x)
    }
}

/// Where a layer's gradients go.
pub(super) struct LayerGradients<'a> {
    pub(super) layer: usize,
    pub(super) backend: Backend,
    pub(super) gradients: &'a mut Gradients,
}

impl LayerGradients<'_> {
    fn push(&mut self, name: &str, gradient: Tensor) {
        self.gradients.push((format!("model.layers.{}.{name}", self.layer), gradient));
    }

    /// Those of a dense layer: its weight's, and its bias's if it has one.
    fn linear(&mut self, name: &str, linear: &Linear, d_y: &Tensor, x: &Tensor) -> Result<()> {
        self.push(&format!("{name}.weight"), linear_weight_gradient(self.backend, d_y, x)?);
        if linear.bias.is_some() {
            self.push(&format!("{name}.bias"), d_y.sum(0)?);
        }
        Ok(())
    }
}

impl Layer {
    /// The same weights without a graph.
    pub(super) fn detached(&self) -> Result<Self> {
        let linear = |linear: &Linear| -> Result<Linear> {
            let weight = Weight::Tensor(weight(linear)?);
            Ok(Linear { weight, bias: linear.bias.as_ref().map(Tensor::detach) })
        };
        Ok(Self {
            input_norm: self.input_norm.detach(),
            q_proj: linear(&self.q_proj)?,
            k_proj: linear(&self.k_proj)?,
            v_proj: linear(&self.v_proj)?,
            o_proj: linear(&self.o_proj)?,
            qk_norm: self.qk_norm.as_ref().map(|(q, k)| (q.detach(), k.detach())),
            post_attention_norm: self.post_attention_norm.detach(),
            gate_proj: linear(&self.gate_proj)?,
            up_proj: linear(&self.up_proj)?,
            down_proj: linear(&self.down_proj)?,
        })
    }
}

fn weight(linear: &Linear) -> Result<Tensor> {
    tensor(&linear.weight)
}

/// x · weightᵀ + bias.
fn affine(backend: Backend, layer: &Linear, x: &Tensor) -> Result<Tensor> {
    layer.biased(linear(backend, x, &weight(layer)?)?)
}
