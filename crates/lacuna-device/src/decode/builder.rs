//! Writes a decoder's pass down: embedding, layers, logits, candidates.

use lacuna_checkpoint::Linear;

use super::{KeysAndValues, Shape, Tables, Weight, Weights};
use crate::arena::Region;
use crate::recorder::decode::{CANDIDATE_BYTES, Cached, Format, Stored, X};
use crate::recorder::{Matrix, Recorder};

/// A pass in the making.
pub(super) struct Builder<'a> {
    pub(super) recorder: Recorder,
    weights: &'a Weights,
    at: &'a KeysAndValues,
    shape: Shape,
    tables: Tables,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        recorder: Recorder,
        weights: &'a Weights,
        at: &'a KeysAndValues,
        (shape, tables): (Shape, Tables),
    ) -> Self {
        Self { recorder, weights, at, shape, tables }
    }

    /// The sequences of a layer.
    fn cached(&self, layer: usize) -> Cached {
        let (config, shape) = (&self.weights.config, self.shape);
        Cached {
            rows: shape.rows,
            most_rows: shape.most_rows,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            ranges: self.tables.ranges,
            sequences: self.tables.sequences + layer as u64 * self.tables.sequences_bytes,
            n_sequences: shape.sequences,
            pieces: self.tables.pieces,
            n_pieces: shape.pieces,
            parts: shape.parts,
        }
    }

    fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Projections of all rows, side by side, each into a new buffer.
    fn project<const N: usize>(
        &mut self,
        x: X,
        of: [(&Linear<Weight>, usize); N],
        columns: usize,
    ) -> [Region; N] {
        let rows = self.rows();
        self.recorder.together(|r| {
            of.map(|(linear, out)| {
                let y = r.f32(rows * out);
                let bias = linear.bias.map(|bias| bias.at);
                r.few_rows(x, rows, stored(linear.weight, out, columns), bias, y.at);
                y
            })
        })
    }

    /// The norm of rows, or of their sum with a term, which is dropped with them and returned too.
    fn norm(
        &mut self,
        x: Region,
        term: Option<Region>,
        weight: u64,
        [rows, width]: [usize; 2],
    ) -> (Region, Region) {
        let eps = self.weights.config.rms_norm_eps;
        let r = &mut self.recorder;
        let normed = r.f32(rows * width);
        let sum = term.map(|_| r.f32(rows * width));
        let added = term.zip(sum).map(|(term, sum)| (term.at, sum.at));
        r.rms_norm_f32(Matrix { at: x.at, rows, columns: width }, added, weight, normed.at, eps);
        let Some((term, sum)) = term.zip(sum) else { return (x, normed) };
        r.free([x, term]);
        (sum, normed)
    }

    /// Logits of the wanted rows, if there are any; keys and values of all rows in any case.
    pub(super) fn logits(&mut self) -> Option<Region> {
        let (config, parameters) = (&self.weights.config, &self.weights.parameters);
        let (rows, h) = (self.rows(), config.hidden_size);
        let mut x = self.recorder.f32(rows * h);
        let embed = stored(parameters.embed, config.vocab_size, h);
        self.recorder.stored_rows(embed, self.tables.tokens, x.at, rows);
        let mut term = None;
        let (wanted, layers) = (self.shape.wanted, parameters.layers.len());
        for i in 0..layers {
            let (sum, q) = self.keys(i, x, term);
            if i + 1 == layers && wanted == 0 {
                return None;
            }
            let attended = self.attend(i, q);
            (x, term) = self.feed(i, sum, attended);
        }
        let (x, normed) = self.norm(x, term, parameters.norm.at, [rows, h]);
        let r = &mut self.recorder;
        let hidden = r.f32(wanted * h);
        let table = Matrix { at: normed.at, rows, columns: h };
        r.embedding_f32(table, self.tables.wanted, hidden.at, wanted);
        r.free([x, normed]);
        let logits = r.f32(wanted * config.vocab_size);
        let head = parameters.head.map_or(embed, |head| stored(head, config.vocab_size, h));
        r.few_rows(X::F32(hidden.at), wanted, head, None, logits.at);
        r.free([hidden]);
        Some(logits)
    }

    /// Puts a layer's keys and values into their places. Returns the sum behind its input norm, and its queries.
    fn keys(&mut self, i: usize, x: Region, term: Option<Region>) -> (Region, Region) {
        let (config, layer) = (&self.weights.config, &self.weights.parameters.layers[i]);
        let (rows, h, d) = (self.rows(), config.hidden_size, config.head_dim);
        let widths = [config.num_heads * d, config.num_kv_heads * d];
        let (x, normed) = self.norm(x, term, layer.input_norm.at, [rows, h]);
        let of = [(&layer.q, widths[0]), (&layer.k, widths[1]), (&layer.v, widths[1])];
        let [q, k, v] = self.project(X::F32(normed.at), of, h);
        self.recorder.free([normed]);
        let turned = [(q, layer.q_norm, widths[0]), (k, layer.k_norm, widths[1])];
        let [q, k] = turned.map(|(x, norm, width)| {
            let Some(norm) = norm else { return (x, width) };
            let (unnormed, normed) = self.norm(x, None, norm.at, [rows * width / d, d]);
            self.recorder.free([unnormed]);
            (normed, width)
        });
        let tables = [self.weights.cos, self.weights.sin, self.tables.positions];
        let r = &mut self.recorder;
        let [q_turned, k_turned] = r.together(|r| {
            [q, k].map(|(x, width)| {
                let turned = r.f32(rows * width);
                r.rope_f32((x.at, turned.at), tables, [rows, width / d, d]);
                turned
            })
        });
        r.free([q.0, k.0]);
        let q16 = r.bf16(rows * widths[0]);
        let by = |x: Region, width| Matrix { at: x.at, rows, columns: width };
        let caches = self.at.layers[i];
        r.together(|r| {
            r.place_rows(by(q_turned, widths[0]), self.tables.in_order, q16.at);
            for (x, cache) in [k_turned, v].into_iter().zip(caches) {
                r.place_rows(by(x, widths[1]), self.tables.places, cache);
            }
        });
        r.free([q_turned, k_turned, v]);
        (x, q16)
    }

    /// The attention's term, of a layer's queries.
    fn attend(&mut self, i: usize, q: Region) -> Region {
        let (config, layer) = (&self.weights.config, &self.weights.parameters.layers[i]);
        let width = config.num_heads * config.head_dim;
        let out = self.recorder.bf16(self.rows() * width);
        self.recorder.attention_decode(self.cached(i), [q.at, out.at]);
        let of = [(&layer.o, config.hidden_size)];
        let [attended] = self.project(X::Bf16(out.at), of, width);
        self.recorder.free([q, out]);
        attended
    }

    /// The sum behind the attention, and the feed-forward part's term.
    fn feed(&mut self, i: usize, x: Region, attended: Region) -> (Region, Option<Region>) {
        let (config, layer) = (&self.weights.config, &self.weights.parameters.layers[i]);
        let (rows, h, inner) = (self.rows(), config.hidden_size, config.intermediate_size);
        let (x, normed) = self.norm(x, Some(attended), layer.mlp_norm.at, [rows, h]);
        let of = [(&layer.gate, inner), (&layer.up, inner)];
        let [gate, up] = self.project(X::F32(normed.at), of, h);
        let gated = self.recorder.f32(rows * inner);
        self.recorder.swiglu_f32([gate.at, up.at], gated.at, rows * inner);
        let [fed] = self.project(X::F32(gated.at), [(&layer.down, h)], inner);
        self.recorder.free([normed, gate, up, gated]);
        (x, Some(fed))
    }

    /// A candidate of each wanted row, if any are drawn.
    pub(super) fn candidates(&mut self, logits: Region) -> u64 {
        if !self.shape.draws {
            return logits.at;
        }
        let (n, vocab) = (self.shape.wanted, self.weights.config.vocab_size);
        let candidates = self.recorder.f32(n * CANDIDATE_BYTES / 4);
        let logits = Matrix { at: logits.at, rows: n, columns: vocab };
        self.recorder.sample(logits, self.tables.draws, n, candidates.at);
        candidates.at
    }
}

/// A matrix of a model as a product reads it.
fn stored(weight: Weight, rows: usize, columns: usize) -> Stored {
    let format = Format::of(weight.dtype).expect("`Weights::stored` has checked every format");
    Stored { matrix: Matrix { at: weight.at, rows, columns }, format }
}
