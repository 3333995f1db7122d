//! Plans the way forward: h = x + attend(norm(x)), y = h + mlp(norm(h)), layer by layer.

use lacuna_checkpoint::Layer;

use super::builder::{Builder, Pass, biased, matrix};
use crate::arena::Region;
use crate::layout::Place;
use crate::recorder::Matrix;

/// A layer's buffers that its way back reads; its input alone if the rest is computed once more.
pub(super) struct Saved {
    pub(super) x: Region,
    pub(super) kept: Option<Kept>,
}

/// A layer's activations.
pub(super) struct Kept {
    /// Queries and keys before their norms, if the model has these.
    pub(super) unnormed: Option<[Region; 2]>,
    pub(super) qkv: [Region; 3],
    pub(super) out: Region,
    pub(super) log_sums: Region,
    /// The residual stream behind the attention.
    pub(super) h: Region,
    pub(super) gate: Region,
    pub(super) up: Region,
}

impl Builder<'_> {
    /// All layers and the final norm: what each layer keeps, the final norm's input, and its result.
    pub(super) fn forward(&mut self) -> (Vec<Saved>, Region, Region) {
        let parameters = self.layout.parameters();
        let mut x = self.embed(parameters.embed);
        let mut normed =
            self.norm(x, parameters.layers[0].input_norm, [self.n_rows(), self.sizes.hidden]);
        let mut layers = Vec::new();
        for i in 0..self.n_layers() {
            let kept = self.up_to_gates(i, x, normed);
            let fed = self.feed(i, &kept);
            let rows = self.layer(i).1.queries();
            let norm = match parameters.layers.get(i + 1) {
                Some(next) => next.input_norm,
                None => parameters.norm,
            };
            let sum;
            (sum, normed) = self.add_and_norm(kept.h, fed, norm, rows);
            layers.push(match self.options.recompute {
                true => {
                    self.drop_kept(kept);
                    Saved { x, kept: None }
                }
                false => Saved { x, kept: Some(kept) },
            });
            x = sum;
        }
        (layers, x, normed)
    }

    fn embed(&mut self, embed: Place) -> Region {
        let (rows, h) = (self.n_rows(), self.sizes.hidden);
        let x = self.recorder.bf16(rows * h);
        let table = Matrix { at: embed.values, rows: self.sizes.vocab, columns: h };
        self.recorder.embedding(table, self.tables.tokens, x.at, rows);
        x
    }

    /// The sum of the stream and its last term, which is dropped, and the sum's norm.
    fn add_and_norm(
        &mut self,
        x: Region,
        term: Region,
        norm: Place,
        rows: usize,
    ) -> (Region, Region) {
        let h = self.sizes.hidden;
        let [sum, normed] = [(); 2].map(|()| self.recorder.bf16(rows * h));
        let added = Some((term.at, sum.at));
        self.recorder.rms_norm(matrix(x, rows, h), added, norm.values, normed.at, self.sizes.eps);
        self.recorder.free([term]);
        (sum, normed)
    }

    /// A layer from its normed input, which is dropped, to the two inputs of the gated activation.
    pub(super) fn up_to_gates(&mut self, i: usize, x: Region, normed: Region) -> Kept {
        let ((layer, pass), sizes) = (self.layer(i), self.sizes);
        let (rows, h) = (pass.queries(), sizes.hidden);
        let (unnormed, qkv) = self.project_heads(layer, pass, normed);
        let [q, k, v] = qkv;
        let out = self.recorder.bf16(rows * sizes.q());
        let log_sums = self.recorder.f32(sizes.heads * rows);
        self.recorder.attention(pass.heads, [q.at, k.at, v.at, out.at], log_sums.at);
        let attended = self.recorder.bf16(rows * h);
        let read = matrix(out, rows, sizes.q());
        self.recorder.linear(read, biased(&layer.o, h, sizes.q()), attended.at);
        let selected = self.gather(x, pass, h);
        let (sum, normed) =
            self.add_and_norm(selected.unwrap_or(x), attended, layer.mlp_norm, rows);
        self.recorder.free(selected);
        let [gate, up] = self.recorder.together(|r| {
            [&layer.gate, &layer.up].map(|linear| {
                let result = r.bf16(rows * sizes.inner);
                r.linear(matrix(normed, rows, h), biased(linear, sizes.inner, h), result.at);
                result
            })
        });
        self.recorder.free([normed]);
        Kept { unnormed, qkv, out, log_sums, h: sum, gate, up }
    }

    /// Queries, keys and values as attention reads them; the normed input is dropped.
    fn project_heads(
        &mut self,
        layer: &Layer<Place>,
        pass: Pass,
        normed: Region,
    ) -> (Option<[Region; 2]>, [Region; 3]) {
        let (sizes, h) = (self.sizes, self.sizes.hidden);
        let (rows, keys) = (pass.queries(), pass.keys());
        let selected = self.gather(normed, pass, h);
        let projected = [
            (&layer.q, selected.unwrap_or(normed), rows, sizes.q()),
            (&layer.k, normed, keys, sizes.kv()),
            (&layer.v, normed, keys, sizes.kv()),
        ];
        let [q, k, v] = self.recorder.together(|r| {
            projected.map(|(linear, x, rows, width)| {
                let result = r.bf16(rows * width);
                r.linear(matrix(x, rows, h), biased(linear, width, h), result.at);
                result
            })
        });
        self.recorder.free([normed].into_iter().chain(selected));
        let [at_keys, at_queries] = pass.positions;
        let heads = [
            (q, layer.q_norm, at_queries, [rows, sizes.heads]),
            (k, layer.k_norm, at_keys, [keys, sizes.kv_heads]),
        ];
        let [q_turned, k_turned] = heads.map(|(x, norm, positions, [rows, heads])| {
            let normed = norm.map(|norm| self.norm(x, norm, [rows * heads, sizes.head_dim]));
            let turned = self.turn(normed.unwrap_or(x), positions, [rows, heads], 1.);
            self.recorder.free(normed);
            turned
        });
        let unnormed = layer.q_norm.is_some().then_some([q, k]);
        if unnormed.is_none() {
            self.recorder.free([q, k]);
        }
        (unnormed, [q_turned, k_turned, v])
    }

    /// The feed-forward part's term of the residual stream.
    fn feed(&mut self, i: usize, kept: &Kept) -> Region {
        let ((layer, pass), sizes) = (self.layer(i), self.sizes);
        let (rows, h) = (pass.queries(), sizes.hidden);
        let gated = self.recorder.bf16(rows * sizes.inner);
        let gates = [kept.gate.at, kept.up.at];
        self.recorder.swiglu(gates, gated.at, rows * sizes.inner);
        let fed = self.recorder.bf16(rows * h);
        let x = matrix(gated, rows, sizes.inner);
        self.recorder.linear(x, biased(&layer.down, h, sizes.inner), fed.at);
        self.recorder.free([gated]);
        fed
    }

    fn drop_kept(&mut self, kept: Kept) {
        let Kept { unnormed, qkv, out, log_sums, h, gate, up } = kept;
        self.recorder.free(unnormed.into_iter().flatten());
        self.recorder.free(qkv.into_iter().chain([out, log_sums, h, gate, up]));
    }
}
