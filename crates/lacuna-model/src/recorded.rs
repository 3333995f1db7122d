//! The forward pass that training takes, and its backward pass, written out.
//!
//! The same function as [`Transformer::forward`], whose graph candle walks back; that one is the definition,
//! and the tests hold this one against it. Written out it keeps less (norms and activations are computed again
//! where that is cheaper than keeping them), adds gradients while they are formed, and can forget a layer's
//! activations altogether, to compute them anew from the layer's input when its turn comes.

use candle_core::Tensor;
use lacuna_kernels::{
    Attended, Positions, add_rms_norm, attention_by_token_backward, attention_by_token_kept,
    embedding, embedding_backward, linear, linear_input_gradient, linear_weight_gradient, rms_norm,
    rms_norm_backward, rope_by_token, rope_by_token_backward, swiglu, swiglu_backward,
};

use crate::error::{ModelError, Result};
use crate::transformer::{Layer, Linear, Transformer, Weight, first_positions};
use crate::windows::Windows;

/// What a backward pass needs of the forward pass before it.
#[derive(Debug)]
pub struct Record {
    windows: Windows,
    layers: Vec<Kept>,
    /// What the final norm read.
    last: Tensor,
}

/// A layer's activations, or its input alone.
#[derive(Debug)]
enum Kept {
    Activations(Box<Activations>),
    Input(Tensor),
}

#[derive(Debug)]
struct Activations {
    /// The layer's input: [batch · len, hidden].
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

/// Gradients by parameter name.
type Gradients = Vec<(String, Tensor)>;

impl Transformer {
    /// [`forward`](Self::forward) without a graph: hidden states after the final norm, and what
    /// [`backward`](Self::backward) needs. With `recompute`, of each layer only its input is kept.
    ///
    /// # Errors
    /// Errors if the model was opened for inference, no row is wanted, or a tensor operation fails.
    pub fn record(&self, windows: &Windows, recompute: bool) -> Result<(Tensor, Record)> {
        if windows.wants_nothing() {
            return Err(ModelError::Input(
                "a pass of which no row is wanted has no gradient".into(),
            ));
        }
        let eps = self.config.rms_norm_eps;
        let table = tensor(&self.embed)?;
        let mut x = embedding(&table, &windows.tokens)?;
        let mut kept = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let last = i + 1 == self.layers.len();
            let (activations, y) =
                self.layer_forward(&layer.detached()?, x.clone(), windows, last)?;
            kept.push(match recompute {
                true => Kept::Input(x),
                false => Kept::Activations(Box::new(activations)),
            });
            x = y;
        }
        let hidden = rms_norm(&x, &self.norm.detach(), eps)?;
        Ok((hidden, Record { windows: windows.clone(), layers: kept, last: x }))
    }

    /// The gradient of every parameter, in the order of [`parameters`](Self::parameters), given that of the
    /// hidden states, [rows, hidden], and that of [`head`](Self::head), [vocab, hidden].
    ///
    /// # Errors
    /// Errors if a tensor operation fails.
    pub fn backward(
        &self,
        record: Record,
        d_hidden: &Tensor,
        d_head: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let Record { windows, mut layers, last } = record;
        let eps = self.config.rms_norm_eps;
        let mut gradients = Gradients::new();
        let (mut d_x, d_norm) = rms_norm_backward(&last, &self.norm.detach(), eps, d_hidden, None)?;
        gradients.push(("model.norm.weight".into(), d_norm));
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let layer = layer.detached()?;
            let is_last = i + 1 == self.layers.len();
            let kept = layers.pop().ok_or_else(|| {
                ModelError::Input("the record belongs to a model with fewer layers".into())
            })?;
            let activations = match kept {
                Kept::Activations(activations) => *activations,
                Kept::Input(x) => self.layer_forward(&layer, x, &windows, is_last)?.0,
            };
            let mut named = LayerGradients { layer: i, gradients: &mut gradients };
            d_x = self.layer_backward(&layer, activations, &windows, is_last, &d_x, &mut named)?;
        }
        let onto = match self.head {
            None => d_head.clone(),
            Some(_) => {
                gradients.push(("lm_head.weight".into(), d_head.clone()));
                d_head.zeros_like()?
            }
        };
        let d_table = embedding_backward(&windows.tokens, &d_x, &onto)?;
        gradients.push(("model.embed_tokens.weight".into(), d_table));
        self.in_order(gradients)
    }

    fn in_order(&self, mut gradients: Gradients) -> Result<Vec<Tensor>> {
        let take = |(name, _): &(String, _)| {
            let at = gradients.iter().position(|(found, _)| found == name);
            let at = at.ok_or_else(|| ModelError::Input(format!("{name} got no gradient")))?;
            Ok(gradients.swap_remove(at).1)
        };
        self.parameters.iter().map(take).collect()
    }

    /// One layer: its activations and what it leaves on the residual stream.
    fn layer_forward(
        &self,
        layer: &Layer,
        x: Tensor,
        windows: &Windows,
        last: bool,
    ) -> Result<(Activations, Tensor)> {
        let eps = self.config.rms_norm_eps;
        let (batch, len) = (windows.batch, windows.len);
        let (n_query, spans) = windows.queries(last);
        let normed = rms_norm(&x, &layer.input_norm, eps)?;
        let heads = |linear: &Linear, n: usize| -> Result<Tensor> {
            let shape = (batch, len, n, self.config.head_dim);
            Ok(affine(linear, &normed)?.reshape(shape)?)
        };
        let mut q = heads(&layer.q_proj, self.config.num_heads)?.narrow(1, 0, n_query)?;
        let mut k = heads(&layer.k_proj, self.config.num_kv_heads)?;
        let v = heads(&layer.v_proj, self.config.num_kv_heads)?;
        drop(normed);
        let mut unnormed = None;
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            let before = (q.contiguous()?, k);
            q = rms_norm(&before.0, q_norm, eps)?;
            k = rms_norm(&before.1, k_norm, eps)?;
            unnormed = Some(before);
        }
        q = rope_by_token(&q, &self.rope, &windows.query_positions(last))?;
        k = rope_by_token(&k, &self.rope, &windows.positions)?;
        let attended = attention_by_token_kept([&q, &k, &v], spans, self.scale())?;
        let mut out = self.rows_first(&attended.out)?;
        let mut residual = x.clone();
        if last && let Some((in_x, in_attended)) = &windows.select {
            residual = residual.index_select(in_x, 0)?;
            out = out.index_select(in_attended, 0)?;
        }
        let projected = affine(&layer.o_proj, &out)?;
        let (middle, normed) =
            add_rms_norm(&residual, &projected, &layer.post_attention_norm, eps)?;
        let (gate, up) = (affine(&layer.gate_proj, &normed)?, affine(&layer.up_proj, &normed)?);
        let y = (&middle + affine(&layer.down_proj, &swiglu(&gate, &up)?)?)?;
        let qkv = [q, k, v];
        Ok((Activations { x, unnormed, qkv, attended, middle, gate, up }, y))
    }

    /// The gradient of a layer's input, given that of its output; those of its parameters go to `named`.
    fn layer_backward(
        &self,
        layer: &Layer,
        kept: Activations,
        windows: &Windows,
        last: bool,
        d_y: &Tensor,
        named: &mut LayerGradients<'_>,
    ) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps;
        let Activations { x, unnormed, qkv, attended, middle, gate, up } = kept;

        // Feed-forward.
        let d_act = linear_input_gradient(&[(d_y, &weight(&layer.down_proj)?)])?;
        let [act, d_gate, d_up] = swiglu_backward(&gate, &up, &d_act)?;
        named.linear("mlp.down_proj", &layer.down_proj, d_y, &act)?;
        drop((d_act, act, gate, up));
        let normed = rms_norm(&middle, &layer.post_attention_norm, eps)?;
        named.linear("mlp.gate_proj", &layer.gate_proj, &d_gate, &normed)?;
        named.linear("mlp.up_proj", &layer.up_proj, &d_up, &normed)?;
        let terms = [(&d_gate, &weight(&layer.gate_proj)?), (&d_up, &weight(&layer.up_proj)?)];
        let d_normed = linear_input_gradient(&terms)?;
        let norm = &layer.post_attention_norm;
        let (d_middle, d_norm) = rms_norm_backward(&middle, norm, eps, &d_normed, Some(d_y))?;
        named.push("post_attention_layernorm.weight", d_norm);
        drop((d_gate, d_up, d_normed, normed, middle));

        // Attention.
        let select = windows.select.as_ref().filter(|_| last);
        let mut out = self.rows_first(&attended.out)?;
        if let Some((_, in_attended)) = select {
            out = out.index_select(in_attended, 0)?;
        }
        named.linear("self_attn.o_proj", &layer.o_proj, &d_middle, &out)?;
        let mut d_out = linear_input_gradient(&[(&d_middle, &weight(&layer.o_proj)?)])?;
        let mut d_residual = d_middle;
        if let Some((in_x, in_attended)) = select {
            let rows = attended.out.elem_count() / d_out.dim(1)?;
            d_out = spread(&d_out, in_attended, rows)?;
            d_residual = spread(&d_residual, in_x, x.dim(0)?)?;
        }
        let d_out = d_out.reshape(attended.out.shape())?;
        let (_, spans) = windows.queries(last);
        let [q, k, v] = &qkv;
        let [d_q, d_k, d_v] =
            attention_by_token_backward([q, k, v], &attended, &d_out, spans, self.scale())?;
        let mut d_q = rope_by_token_backward(&d_q, &self.rope, &windows.query_positions(last))?;
        let mut d_k = rope_by_token_backward(&d_k, &self.rope, &windows.positions)?;
        if let (Some((q_norm, k_norm)), Some((q, k))) = (&layer.qk_norm, &unnormed) {
            let (d_q_norm, d_k_norm);
            (d_q, d_q_norm) = rms_norm_backward(q, q_norm, eps, &d_q, None)?;
            (d_k, d_k_norm) = rms_norm_backward(k, k_norm, eps, &d_k, None)?;
            named.push("self_attn.q_norm.weight", d_q_norm);
            named.push("self_attn.k_norm.weight", d_k_norm);
        }
        let d_q = d_q.pad_with_zeros(1, 0, windows.len - d_q.dim(1)?)?;

        // Projections and the first norm.
        let [d_q, d_k, d_v] = [d_q, d_k, d_v].map(|d| self.rows_first(&d));
        let (d_q, d_k, d_v) = (d_q?, d_k?, d_v?);
        let normed = rms_norm(&x, &layer.input_norm, eps)?;
        named.linear("self_attn.q_proj", &layer.q_proj, &d_q, &normed)?;
        named.linear("self_attn.k_proj", &layer.k_proj, &d_k, &normed)?;
        named.linear("self_attn.v_proj", &layer.v_proj, &d_v, &normed)?;
        let (q, k, v) = (weight(&layer.q_proj)?, weight(&layer.k_proj)?, weight(&layer.v_proj)?);
        let d_normed = linear_input_gradient(&[(&d_q, &q), (&d_k, &k), (&d_v, &v)])?;
        let norm = &layer.input_norm;
        let (d_x, d_norm) = rms_norm_backward(&x, norm, eps, &d_normed, Some(&d_residual))?;
        named.push("input_layernorm.weight", d_norm);
        Ok(d_x)
    }
}

impl Windows {
    fn query_positions(&self, last: bool) -> Positions {
        first_positions(&self.positions, self.queries(last).0, self.len)
    }
}

/// Where a layer's gradients go.
struct LayerGradients<'a> {
    layer: usize,
    gradients: &'a mut Gradients,
}

impl LayerGradients<'_> {
    fn push(&mut self, name: &str, gradient: Tensor) {
        self.gradients.push((format!("model.layers.{}.{name}", self.layer), gradient));
    }

    /// Those of a dense layer: its weight's, and its bias's if it has one.
    fn linear(&mut self, name: &str, linear: &Linear, d_y: &Tensor, x: &Tensor) -> Result<()> {
        self.push(&format!("{name}.weight"), linear_weight_gradient(d_y, x)?);
        if linear.bias.is_some() {
            self.push(&format!("{name}.bias"), d_y.sum(0)?);
        }
        Ok(())
    }
}

impl Layer {
    /// The same weights without a graph.
    fn detached(&self) -> Result<Self> {
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

fn tensor(weight: &Weight) -> Result<Tensor> {
    match weight {
        Weight::Tensor(weight) => Ok(weight.detach()),
        Weight::Stored(_) => {
            Err(ModelError::Input("a model opened for inference can't be trained".into()))
        }
    }
}

/// x · weightᵀ + bias.
fn affine(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    layer.biased(linear(x, &weight(layer)?)?)
}

/// Rows of zeros with those of `x` added at `at`.
fn spread(x: &Tensor, at: &Tensor, rows: usize) -> Result<Tensor> {
    let zeros = Tensor::zeros((rows, x.dim(1)?), x.dtype(), x.device())?;
    Ok(zeros.index_add(at, x, 0)?)
}
