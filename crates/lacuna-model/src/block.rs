//! Computes one layer and its gradients: h = x + attend(norm(x)), y = h + mlp(norm(h)).

use candle_core::Tensor;
use lacuna_checkpoint::{Layer, Linear, Parameters};
use lacuna_kernels::{
    AttentionOutput, Backend, add_rms_norm, attention_backward, attention_kept, embedding_backward,
    linear, linear_input_gradient, linear_weight_gradient, rms_norm, rms_norm_backward, rope,
    rope_backward, swiglu, swiglu_backward,
};

use crate::dropout::{Dropout, Term};
use crate::error::Result;
use crate::keys::Keys;
use crate::role::{Adapter, Gradient, Role};
use crate::rows::{Plan, Rows, gather, gather_backward};
use crate::transformer::Transformer;
use crate::weight::{Weight, project};

/// A pass under way: the model, the rows of each layer, and the keys and values that queries meet.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Transformer,
    /// The model's weights; cut off from candle's graph where the backward pass is written out.
    pub(crate) weights: &'a Parameters<Weight>,
    pub(crate) plan: &'a Plan,
    pub(crate) keys: Keys<'a>,
    /// True if a backward pass will ask for the activations.
    pub(crate) saves: bool,
    /// The values that are dropped from what layers add to the residual stream; `None`: none.
    pub(crate) dropout: Option<&'a Dropout>,
}

/// The activations of a layer's forward pass that its backward pass needs.
#[derive(Debug)]
pub(crate) struct Activations {
    /// The layer's input: [inputs, hidden].
    pub(crate) x: Tensor,
    heads: Heads,
    /// The residual stream behind the attention, [rows, hidden], of the rows that the rest of the layer is computed
    /// for.
    h: Tensor,
    /// The two inputs of the gated activation, of the same rows: [rows, intermediate].
    gate: Tensor,
    up: Tensor,
}

/// The activations of a layer's attention.
#[derive(Debug)]
struct Heads {
    /// Queries and keys before their norms, if the model has these.
    unnormed: Option<(Tensor, Tensor)>,
    /// Queries, keys and values as attention read them: [rows, heads, head_dim] each.
    qkv: [Tensor; 3],
    output: AttentionOutput,
}

impl Pass<'_> {
    /// Computes layer `i` for the stream `x`; returns the stream behind it, and the layer's activations if they are
    /// saved.
    pub(crate) fn block(
        &mut self,
        i: usize,
        mut x: Stream,
    ) -> Result<(Stream, Option<Activations>)> {
        let layer = &*self.model.layer(self.weights, (i, !self.saves))?;
        let normed = x.norm(self.model, &layer.input_norm)?;
        let input = self.saves.then(|| x.sum.clone());
        let (attended, heads) = self.attend((i, layer), normed)?;
        let attended = self.dropped((i, Term::Attention), attended)?;
        let mut h = x.select(self.model, &self.plan.layers[i])?.plus(attended);
        let normed = h.norm(self.model, &layer.mlp_norm)?;
        let middle = self.saves.then(|| h.sum.clone());
        let (fed, gated) = self.mlp(layer, normed)?;
        let fed = self.dropped((i, Term::FeedForward), fed)?;
        let saved = match (input, heads, middle, gated) {
            (Some(x), Some(heads), Some(h), Some([gate, up])) => {
                Some(Activations { x, heads, h, gate, up })
            }
            _ => None,
        };
        Ok((h.plus(fed), saved))
    }

    /// The attention's term of the residual stream, for the rows that the rest of the layer is computed for. Tensors
    /// are dropped as soon as they are not needed any more: those of a long prompt are large.
    fn attend(
        &mut self,
        (i, layer): (usize, &Layer<Weight>),
        normed: Tensor,
    ) -> Result<(Tensor, Option<Heads>)> {
        let (model, rows) = (self.model, &self.plan.layers[i]);
        let backend = model.backend();
        let [q, k, v] = self.project_heads(layer, rows, normed)?;
        let unnormed = (self.saves && layer.q_norm.is_some()).then(|| (q.clone(), k.clone()));
        let q = rope(backend, &self.head_norm(q, &layer.q_norm)?, &model.rope, &rows.positions)?;
        let k =
            rope(backend, &self.head_norm(k, &layer.k_norm)?, &model.rope, &self.plan.positions)?;
        let (out, heads) = if self.saves {
            let output = attention_kept(backend, [&q, &k, &v], &rows.segments, model.scale())?;
            let out = output.out.clone();
            (out, Some(Heads { unnormed, qkv: [q, k, v], output }))
        } else {
            (self.keys.attend(model, (i, self.plan), [q, k, v])?, None)
        };
        let out = gather(model, flat(out)?, rows.attended.as_ref())?;
        let [attended] = self.project([&layer.o], &out)?;
        Ok((attended, heads))
    }

    /// Queries, keys and values of a layer's normed inputs: [rows, heads, head_dim] each.
    fn project_heads(
        &self,
        layer: &Layer<Weight>,
        rows: &Rows,
        normed: Tensor,
    ) -> Result<[Tensor; 3]> {
        let model = self.model;
        let spread = |x: Tensor| gather(model, x, rows.inputs.as_ref());
        let [q, k, v] = match &rows.queries {
            None => {
                let [q, k, v] = self.project([&layer.q, &layer.k, &layer.v], &normed)?;
                [spread(q)?, k, v]
            }
            Some(queries) => {
                let [k, v] = self.project([&layer.k, &layer.v], &normed)?;
                let read = gather(model, normed, Some(queries))?;
                let [q] = self.project([&layer.q], &read)?;
                [q, k, v]
            }
        };
        let config = &model.config;
        Ok([
            by_head(q, config.num_heads)?,
            by_head(spread(k)?, config.num_kv_heads)?,
            by_head(spread(v)?, config.num_kv_heads)?,
        ])
    }

    fn head_norm(&self, x: Tensor, norm: &Option<Weight>) -> Result<Tensor> {
        match norm {
            Some(norm) => {
                let eps = self.model.config.rms_norm_eps;
                Ok(rms_norm(self.model.backend(), &x, norm.tensor()?, eps)?)
            }
            None => Ok(x),
        }
    }

    /// Multiplies a common input with projections, in the precision of the pass.
    fn project<const N: usize>(
        &self,
        layers: [&Linear<Weight>; N],
        x: &Tensor,
    ) -> Result<[Tensor; N]> {
        project(self.model.backend(), layers, x, self.plan.precision)
    }

    /// Computes the keys and values of a last layer of which nothing else is read.
    pub(crate) fn keys_alone(&mut self, i: usize, mut x: Stream) -> Result<()> {
        let model = self.model;
        let layer = &*model.layer(self.weights, (i, !self.saves))?;
        let (backend, heads) = (model.backend(), model.config.num_kv_heads);
        let normed = x.norm(model, &layer.input_norm)?;
        let [k, v] = self.project([&layer.k, &layer.v], &normed)?;
        let k = self.head_norm(by_head(k, heads)?, &layer.k_norm)?;
        let k = rope(backend, &k, &model.rope, &self.plan.positions)?;
        self.keys.store((i, self.plan), k, by_head(v, heads)?)
    }

    /// The feed-forward part's term of the residual stream, and gate and up if they are saved.
    fn mlp(&self, layer: &Layer<Weight>, normed: Tensor) -> Result<(Tensor, Option<[Tensor; 2]>)> {
        let backend = self.model.backend();
        let [gate, up] = self.project([&layer.gate, &layer.up], &normed)?;
        drop(normed);
        let gated = swiglu(backend, &gate, &up)?;
        let saved = self.saves.then_some([gate, up]);
        let [fed] = self.project([&layer.down], &gated)?;
        Ok((fed, saved))
    }

    /// A term of the residual stream, or its gradient, without the values that are dropped.
    fn dropped(&self, at: (usize, Term), x: Tensor) -> Result<Tensor> {
        match self.dropout {
            None => Ok(x),
            Some(dropout) => Ok((x * dropout.factors((self.model, self.plan), at)?)?),
        }
    }

    /// The gradients of the input of layer `i` and of its parameters, given that of its output.
    pub(crate) fn block_backward(
        &self,
        i: usize,
        saved: Activations,
        d_y: &Tensor,
    ) -> Result<(Tensor, Layer<Gradient>)> {
        let (model, rows) = (self.model, &self.plan.layers[i]);
        let (backend, eps) = (model.backend(), model.config.rms_norm_eps);
        let layer = model.layer(self.weights, (i, false))?;
        let layer = layer.try_map(|_, _, weight| weight.tensor().cloned())?;
        let roles = &model.roles.layers[i];
        let Activations { x, heads, h, gate, up } = saved;

        // y = h + mlp(norm(h))
        let d_fed = self.dropped((i, Term::FeedForward), d_y.clone())?;
        let d_gated = linear_input_gradient(backend, &[(&d_fed, &layer.down.weight)])?;
        let [gated, d_gate, d_up] = swiglu_backward(backend, &gate, &up, &d_gated)?;
        let down = linear_gradients(backend, (&roles.down, &layer.down), &d_fed, &gated)?;
        drop((d_fed, d_gated, gated, gate, up));
        let normed = rms_norm(backend, &h, &layer.mlp_norm, eps)?;
        let gate = linear_gradients(backend, (&roles.gate, &layer.gate), &d_gate, &normed)?;
        let up = linear_gradients(backend, (&roles.up, &layer.up), &d_up, &normed)?;
        let terms = [(&d_gate, &layer.gate.weight), (&d_up, &layer.up.weight)];
        let d_normed = linear_input_gradient(backend, &terms)?;
        let (d_h, mlp_norm) =
            rms_norm_backward(backend, &h, &layer.mlp_norm, eps, &d_normed, Some(d_y))?;
        drop((d_gate, d_up, d_normed, normed, h));

        // h = x + attend(norm(x))
        let Heads { unnormed, qkv, output } = heads;
        let attended = flat(output.out.clone())?;
        let read = gather(model, attended.clone(), rows.attended.as_ref())?;
        let d_attended = self.dropped((i, Term::Attention), d_h.clone())?;
        let o = linear_gradients(backend, (&roles.o, &layer.o), &d_attended, &read)?;
        let d_read = linear_input_gradient(backend, &[(&d_attended, &layer.o.weight)])?;
        drop(d_attended);
        let d_out = gather_backward(model, d_read, rows.attended.as_ref(), attended.dim(0)?)?;
        let d_out = d_out.reshape(output.out.shape())?;
        drop((attended, read));
        let [q, k, v] = &qkv;
        let [d_q, d_k, d_v] =
            attention_backward(backend, [q, k, v], &output, &d_out, &rows.segments, model.scale())?;
        drop((qkv, output, d_out));
        let d_q = rope_backward(backend, &d_q, &model.rope, &rows.positions)?;
        let d_k = rope_backward(backend, &d_k, &model.rope, &self.plan.positions)?;
        let (q, k) = unnormed.unzip();
        let (d_q, q_norm) = self.head_norm_backward(q.as_ref(), &layer.q_norm, d_q)?;
        let (d_k, k_norm) = self.head_norm_backward(k.as_ref(), &layer.k_norm, d_k)?;
        let normed = rms_norm(backend, &x, &layer.input_norm, eps)?;
        let ([q, k, v], d_normed) =
            self.project_heads_backward((i, &layer), rows, &normed, [d_q, d_k, d_v])?;
        let carried = rows.residual.is_none().then_some(&d_h);
        let (mut d_x, input_norm) =
            rms_norm_backward(backend, &x, &layer.input_norm, eps, &d_normed, carried)?;
        if let Some(residual) = &rows.residual {
            d_x = embedding_backward(backend, residual, &d_h, &d_x)?;
        }
        let of_head_norm = |role: &Option<Role>, d: Option<Tensor>| {
            role.as_ref().zip(d).map(|(role, d)| Gradient::unless_frozen(role, d))
        };
        let gradients = Layer {
            input_norm: Gradient::unless_frozen(&roles.input_norm, input_norm),
            q,
            k,
            v,
            o,
            q_norm: of_head_norm(&roles.q_norm, q_norm),
            k_norm: of_head_norm(&roles.k_norm, k_norm),
            mlp_norm: Gradient::unless_frozen(&roles.mlp_norm, mlp_norm),
            gate,
            up,
            down,
        };
        Ok((d_x, gradients))
    }

    /// The gradients of the three projections, and of the normed inputs that they read.
    fn project_heads_backward(
        &self,
        (i, layer): (usize, &Layer<Tensor>),
        rows: &Rows,
        normed: &Tensor,
        [d_q, d_k, d_v]: [Tensor; 3],
    ) -> Result<([Linear<Gradient>; 3], Tensor)> {
        let (model, backend) = (self.model, self.model.backend());
        let roles = &model.roles.layers[i];
        let inputs = normed.dim(0)?;
        let gathered = |d: Tensor| gather_backward(model, flat(d)?, rows.inputs.as_ref(), inputs);
        let (d_k, d_v) = (gathered(d_k)?, gathered(d_v)?);
        let k = linear_gradients(backend, (&roles.k, &layer.k), &d_k, normed)?;
        let v = linear_gradients(backend, (&roles.v, &layer.v), &d_v, normed)?;
        let [of_k, of_v] = [(&d_k, &layer.k.weight), (&d_v, &layer.v.weight)];
        match &rows.queries {
            None => {
                let d_q = gathered(d_q)?;
                let q = linear_gradients(backend, (&roles.q, &layer.q), &d_q, normed)?;
                let terms = [(&d_q, &layer.q.weight), of_k, of_v];
                Ok(([q, k, v], linear_input_gradient(backend, &terms)?))
            }
            Some(queries) => {
                let d_q = flat(d_q)?;
                let read = gather(model, normed.clone(), Some(queries))?;
                let q = linear_gradients(backend, (&roles.q, &layer.q), &d_q, &read)?;
                let onto = linear_input_gradient(backend, &[of_k, of_v])?;
                let d_read = linear_input_gradient(backend, &[(&d_q, &layer.q.weight)])?;
                let d_normed = embedding_backward(backend, queries, &d_read, &onto)?;
                Ok(([q, k, v], d_normed))
            }
        }
    }

    /// The gradients of a head norm's input and of its weight; `d_y` itself if the model has no such norm.
    fn head_norm_backward(
        &self,
        x: Option<&Tensor>,
        norm: &Option<Tensor>,
        d_y: Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (Some(x), Some(norm)) = (x, norm) else { return Ok((d_y, None)) };
        let eps = self.model.config.rms_norm_eps;
        let (d_x, d_norm) = rms_norm_backward(self.model.backend(), x, norm, eps, &d_y, None)?;
        Ok((d_x, Some(d_norm)))
    }
}

/// The residual stream. Its last term is added when the next norm reads the sum, so that one operation does both.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    sum: Tensor,
    last: Option<Tensor>,
}

impl Stream {
    pub(crate) fn new(x: Tensor) -> Self {
        Self { sum: x, last: None }
    }

    /// Adds the last term and norms the sum, in one operation where no graph is wanted.
    pub(crate) fn norm(&mut self, model: &Transformer, weight: &Weight) -> Result<Tensor> {
        let (backend, eps, weight) = (model.backend(), model.config.rms_norm_eps, weight.tensor()?);
        if let Some(last) = self.last.take() {
            if !(weight.track_op() || self.sum.track_op() || last.track_op()) {
                let normed;
                (self.sum, normed) = add_rms_norm(backend, &self.sum, &last, weight, eps)?;
                return Ok(normed);
            }
            self.sum = (&self.sum + last)?;
        }
        Ok(rms_norm(backend, &self.sum, weight, eps)?)
    }

    /// The sum as the final norm read it.
    pub(crate) fn into_sum(self) -> Tensor {
        self.sum
    }

    /// The stream with one term more.
    fn plus(self, term: Tensor) -> Self {
        Self { last: Some(term), ..self }
    }

    /// Selects the rows that the rest of the layer is computed for.
    fn select(self, model: &Transformer, rows: &Rows) -> Result<Self> {
        Ok(Self { sum: gather(model, self.sum, rows.residual.as_ref())?, ..self })
    }
}

/// The gradients of a projection's weight or of its adapter, and of its bias if it has one, as far as they are trained.
fn linear_gradients(
    backend: Backend,
    (roles, layer): (&Linear<Role>, &Linear<Tensor>),
    d_y: &Tensor,
    x: &Tensor,
) -> Result<Linear<Gradient>> {
    let weight = match &roles.weight {
        Role::Trained => Gradient::Of(linear_weight_gradient(backend, d_y, x)?),
        Role::Frozen => Gradient::Nothing,
        // y = x · (W + s · B · A)ᵀ: dA = s · (dy · B)ᵀ · x and dB = s · dyᵀ · (x · Aᵀ).
        Role::Adapted(Adapter { a, b, scale }) => {
            let (a, b) = (a.as_tensor().detach(), b.as_tensor().detach());
            let inner = linear_input_gradient(backend, &[(d_y, &b)])?;
            let d_a = linear_weight_gradient(backend, &inner, x)?;
            let d_b = linear_weight_gradient(backend, d_y, &linear(backend, x, &a)?)?;
            Gradient::OfAdapter((d_a * *scale)?, (d_b * *scale)?)
        }
    };
    let bias = match (&layer.bias, &roles.bias) {
        (Some(_), Some(Role::Trained)) => Some(Gradient::Of(d_y.sum(0)?)),
        (Some(_), _) => Some(Gradient::Nothing),
        (None, _) => None,
    };
    Ok(Linear { weight, bias })
}

/// Splits rows into heads: [rows, heads · head_dim] to [rows, heads, head_dim].
fn by_head(x: Tensor, heads: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    Ok(x.reshape((rows, heads, width / heads))?)
}

/// Joins the heads of rows: [rows, heads, head_dim] to [rows, heads · head_dim].
fn flat(x: Tensor) -> Result<Tensor> {
    let (rows, heads, head_dim) = x.dims3()?;
    Ok(x.reshape((rows, heads * head_dim))?)
}
