//! Plans the way back: each layer's gradients from that of its output, the last layer first.

use super::builder::{Builder, Pass, matrix, weight};
use super::forward::{Kept, Saved};
use crate::arena::Region;
use crate::layout::Place;
use crate::recorder::Sum;
use lacuna_checkpoint::Layer;

impl Builder<'_> {
    /// All gradients behind that of the final norm's result.
    pub(super) fn backward(&mut self, layers: Vec<Saved>, last: Region, d_hidden: Region) {
        let parameters = self.layout.parameters();
        let shape = [self.n_wanted(), self.sizes.hidden];
        let mut d_x = self.norm_backward(last, parameters.norm, d_hidden, None, shape);
        self.recorder.free([last, d_hidden]);
        for (i, saved) in layers.into_iter().enumerate().rev() {
            d_x = self.layer_backward(i, saved, d_x);
        }
        // An embedding that is the head too has the head's gradient already.
        let embed = parameters.embed;
        if parameters.head.is_some() && !self.options.adds {
            self.recorder.zero(embed.gradient, 4 * embed.len);
        }
        let (of, h) = (self.tables.of_token, self.sizes.hidden);
        self.recorder.embedding_backward(d_x.at, of, embed.gradient, h, true);
        self.recorder.free([d_x]);
    }

    /// The gradient of a norm's input, in a new buffer.
    fn norm_backward(
        &mut self,
        x: Region,
        norm: Place,
        d_normed: Region,
        carried: Option<Region>,
        [rows, width]: [usize; 2],
    ) -> Region {
        let d_x = self.recorder.bf16(rows * width);
        let (x, carried) = (matrix(x, rows, width), carried.map(|carried| carried.at));
        let weight = (norm.values, self.sizes.eps);
        let to = (d_x.at, norm.gradient, self.options.adds);
        self.recorder.rms_norm_backward(x, weight, d_normed.at, carried, to);
        d_x
    }

    fn layer_backward(&mut self, i: usize, saved: Saved, d_y: Region) -> Region {
        let ((layer, pass), x) = (self.layer(i), saved.x);
        let kept = match saved.kept {
            Some(kept) => kept,
            None => {
                let normed = self.norm(x, layer.input_norm, [pass.keys(), self.sizes.hidden]);
                self.up_to_gates(i, x, normed)
            }
        };
        let Kept { unnormed, qkv, out, log_sums, h, gate, up } = kept;
        let d_h = self.mlp_backward(layer, pass.queries(), h, [gate, up], d_y);
        let d_qkv = self.attention_backward(layer, pass, (qkv, out, log_sums), d_h);
        let d_qkv = self.turn_back(layer, pass, unnormed, d_qkv);
        self.heads_backward(layer, pass, x, d_qkv, d_h)
    }

    /// y = h + mlp(norm(h)): the gradient of h. Everything it is given is dropped.
    fn mlp_backward(
        &mut self,
        layer: &Layer<Place>,
        rows: usize,
        h: Region,
        [gate, up]: [Region; 2],
        d_y: Region,
    ) -> Region {
        let (width, inner) = (self.sizes.hidden, self.sizes.inner);
        let by_inner = |region| matrix(region, rows, inner);
        let by_width = |region| matrix(region, rows, width);
        let r = &mut self.recorder;
        let d_gated = r.bf16(rows * inner);
        let down = weight(&layer.down, width, inner);
        r.input_gradient(by_width(d_y), down, Sum::rounded(d_gated.at));
        let [gated, d_gate, d_up] = [(); 3].map(|()| r.bf16(rows * inner));
        let results = [gated.at, d_gate.at, d_up.at];
        r.swiglu_backward([gate.at, up.at, d_gated.at], results, rows * inner);
        r.free([d_gated, gate, up]);
        self.linear_gradients([(&layer.down, by_width(d_y), by_inner(gated))]);
        self.recorder.free([gated]);
        let normed = self.norm(h, layer.mlp_norm, [rows, width]);
        let both = [(&layer.gate, d_gate), (&layer.up, d_up)];
        self.linear_gradients(both.map(|(linear, d)| (linear, by_inner(d), by_width(normed))));
        let r = &mut self.recorder;
        r.free([normed]);
        let (sums, d_normed) = (r.f32(rows * width), r.bf16(rows * width));
        let [of_gate, of_up] = [&layer.gate, &layer.up].map(|w| weight(w, inner, width));
        r.input_gradient(by_inner(d_gate), of_gate, Sum::wide(sums.at));
        let both = Sum { rounded: Some(d_normed.at), ..Sum::onto(sums.at) };
        r.input_gradient(by_inner(d_up), of_up, both);
        r.free([sums, d_gate, d_up]);
        let shape = [rows, width];
        let d_h = self.norm_backward(h, layer.mlp_norm, d_normed, Some(d_y), shape);
        self.recorder.free([d_normed, d_y, h]);
        d_h
    }

    /// The gradients of turned queries and keys, and of values. The activations are dropped.
    fn attention_backward(
        &mut self,
        layer: &Layer<Place>,
        pass: Pass,
        ([q, k, v], out, log_sums): ([Region; 3], Region, Region),
        d_h: Region,
    ) -> [Region; 3] {
        let (rows, width, wide) = (pass.queries(), self.sizes.hidden, self.sizes.q());
        let keys = pass.keys() * self.sizes.kv();
        let d_h = matrix(d_h, rows, width);
        self.linear_gradients([(&layer.o, d_h, matrix(out, rows, wide))]);
        let r = &mut self.recorder;
        let d_out = r.bf16(rows * wide);
        r.input_gradient(d_h, weight(&layer.o, width, wide), Sum::rounded(d_out.at));
        let [d_q, d_k, d_v] = [rows * wide, keys, keys].map(|n| r.bf16(n));
        let tensors = [q, k, v, out, d_out].map(|region| region.at);
        let to = [d_q, d_k, d_v].map(|region| region.at);
        r.attention_backward(pass.heads, tensors, log_sums.at, to);
        r.free([q, k, v, out, log_sums, d_out]);
        [d_q, d_k, d_v]
    }

    /// The gradients of queries and keys as the projections made them.
    fn turn_back(
        &mut self,
        layer: &Layer<Place>,
        pass: Pass,
        unnormed: Option<[Region; 2]>,
        [d_q, d_k, d_v]: [Region; 3],
    ) -> [Region; 3] {
        let [at_keys, at_queries] = pass.positions;
        let (heads, kv_heads) = (self.sizes.heads, self.sizes.kv_heads);
        let (q, k) = unnormed.map(|[q, k]| (q, k)).unzip();
        let both = [
            (d_q, q.zip(layer.q_norm), at_queries, [pass.queries(), heads]),
            (d_k, k.zip(layer.k_norm), at_keys, [pass.keys(), kv_heads]),
        ];
        let [d_q, d_k] = both.map(|(d, normed, positions, [rows, heads])| {
            let turned = self.turn(d, positions, [rows, heads], -1.);
            self.recorder.free([d]);
            let Some((x, norm)) = normed else { return turned };
            let shape = [rows * heads, self.sizes.head_dim];
            let d_x = self.norm_backward(x, norm, turned, None, shape);
            self.recorder.free([turned, x]);
            d_x
        });
        [d_q, d_k, d_v]
    }

    /// h = x + attend(norm(x)): the gradient of x. Everything it is given is dropped.
    fn heads_backward(
        &mut self,
        layer: &Layer<Place>,
        pass: Pass,
        x: Region,
        [d_q, d_k, d_v]: [Region; 3],
        d_h: Region,
    ) -> Region {
        let (sizes, width) = (self.sizes, self.sizes.hidden);
        let (rows, keys) = (pass.queries(), pass.keys());
        let normed = self.norm(x, layer.input_norm, [keys, width]);
        let selected = self.gather(normed, pass, width);
        let projections = [
            (&layer.q, d_q, selected.unwrap_or(normed), rows, sizes.q()),
            (&layer.k, d_k, normed, keys, sizes.kv()),
            (&layer.v, d_v, normed, keys, sizes.kv()),
        ];
        self.linear_gradients(projections.map(|(linear, d, read, rows, out)| {
            (linear, matrix(d, rows, out), matrix(read, rows, width))
        }));
        let r = &mut self.recorder;
        r.free([normed].into_iter().chain(selected));
        let (sums, d_normed) = (r.f32(keys * width), r.bf16(keys * width));
        let q = weight(&layer.q, sizes.q(), width);
        let d_queries = matrix(d_q, rows, sizes.q());
        match pass.selected {
            None => r.input_gradient(d_queries, q, Sum::wide(sums.at)),
            Some(selected) => {
                let d_read = r.bf16(rows * width);
                r.input_gradient(d_queries, q, Sum::rounded(d_read.at));
                r.zero(sums.at, 4 * keys * width);
                let of = selected.occurrences;
                r.embedding_backward(d_read.at, of, sums.at, width, true);
                r.free([d_read]);
            }
        }
        let [k, v] = [&layer.k, &layer.v].map(|linear| weight(linear, sizes.kv(), width));
        let [d_keys, d_values] = [d_k, d_v].map(|d| matrix(d, keys, sizes.kv()));
        r.input_gradient(d_keys, k, Sum::onto(sums.at));
        let all = Sum { rounded: Some(d_normed.at), ..Sum::onto(sums.at) };
        r.input_gradient(d_values, v, all);
        r.free([sums, d_q, d_k, d_v]);
        let carried = pass.selected.is_none().then_some(d_h);
        let d_x = self.norm_backward(x, layer.input_norm, d_normed, carried, [keys, width]);
        if let Some(selected) = pass.selected {
            let of = selected.occurrences;
            self.recorder.embedding_backward(d_h.at, of, d_x.at, width, false);
        }
        self.recorder.free([d_normed, d_h, x]);
        d_x
    }
}
