//! Writes a decoder's pass down: embedding, layers, logits, candidates.

use lacuna_checkpoint::Linear;

use super::check::Checked;
use super::{Caches, Draw, Weight, Weights};
use crate::arena::Region;
use crate::batch::words;
use crate::launch::Bytes;
use crate::recorder::decode::{CANDIDATE_BYTES, Cached, Format, Stored, X};
use crate::recorder::{Matrix, Recorder};

/// A pass in the making.
pub(super) struct Builder<'a> {
    pub(super) recorder: Recorder,
    weights: &'a Weights,
    caches: &'a Caches,
    check: &'a Checked<'a>,
    tokens: u64,
    positions: u64,
    places: u64,
    /// Each row in its place.
    in_order: u64,
    wanted: u64,
    draws: Option<u64>,
    /// For each layer its sequences, with the places of their caches.
    cached: Vec<Cached>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        mut recorder: Recorder,
        weights: &'a Weights,
        caches: &'a Caches,
        check: &'a Checked<'a>,
    ) -> Self {
        let (r, config, batch) = (&mut recorder, &weights.config, check.batch);
        let rows = batch.tokens.len();
        let in_order: Vec<u32> = (0..rows as u32).collect();
        let [tokens, positions, places, in_order, wanted, pieces] =
            [batch.tokens, batch.positions, &check.places, &in_order, batch.wanted, &check.pieces]
                .map(|list| r.upload(words(list)));
        let ends = |range: &std::ops::Range<usize>| [range.start as u32, range.end as u32];
        let ranges: Vec<u32> = check.ranges.iter().flatten().flat_map(ends).collect();
        let ranges = r.upload(words(&ranges));
        let draws = (!batch.draws.is_empty()).then(|| {
            let lists: Vec<u64> =
                batch.draws.iter().map(|draw| r.upload(words(&draw.forbidden))).collect();
            let table = batch.draws.iter().zip(&lists).enumerate();
            r.upload(table.fold(Bytes::default(), |table, (row, (draw, list))| {
                draw_args(table, row, draw, *list)
            }))
        });
        let cached = caches.layers.iter().map(|layer| Cached {
            rows,
            most_rows: check.most_rows,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            ranges,
            sequences: r.upload(sequence_table(weights, caches, check, *layer)),
            n_sequences: batch.sequences.len(),
            pieces,
            n_pieces: check.pieces.len() / 2,
            parts: check.parts,
        });
        let cached = cached.collect();
        Self {
            recorder,
            weights,
            caches,
            check,
            tokens,
            positions,
            places,
            in_order,
            wanted,
            draws,
            cached,
        }
    }

    fn rows(&self) -> usize {
        self.check.batch.tokens.len()
    }

    /// A projection of all rows, in a new buffer.
    fn project(&mut self, x: X, of: &Linear<Weight>, [out, columns]: [usize; 2]) -> Region {
        let rows = self.rows();
        let y = self.recorder.f32(rows * out);
        let bias = of.bias.map(|bias| bias.at);
        self.recorder.few_rows(x, rows, stored(of.weight, out, columns), bias, y.at);
        y
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

    /// Logits of the wanted rows.
    pub(super) fn logits(&mut self) -> Region {
        let (config, parameters) = (&self.weights.config, &self.weights.parameters);
        let (rows, h) = (self.rows(), config.hidden_size);
        let mut x = self.recorder.f32(rows * h);
        let embed = stored(parameters.embed, config.vocab_size, h);
        self.recorder.stored_rows(embed, self.tokens, x.at, rows);
        let mut term = None;
        for i in 0..parameters.layers.len() {
            let attended;
            (x, attended) = self.attend(i, x, term);
            (x, term) = self.feed(i, x, attended);
        }
        let (x, normed) = self.norm(x, term, parameters.norm.at, [rows, h]);
        let wanted = self.check.batch.wanted.len();
        let r = &mut self.recorder;
        let hidden = r.f32(wanted * h);
        let table = Matrix { at: normed.at, rows, columns: h };
        r.embedding_f32(table, self.wanted, hidden.at, wanted);
        r.free([x, normed]);
        let logits = r.f32(wanted * config.vocab_size);
        let head = parameters.head.map_or(embed, |head| stored(head, config.vocab_size, h));
        r.few_rows(X::F32(hidden.at), wanted, head, None, logits.at);
        r.free([hidden]);
        logits
    }

    /// The sum behind the layer's input norm, and the attention's term.
    fn attend(&mut self, i: usize, x: Region, term: Option<Region>) -> (Region, Region) {
        let (config, layer) = (&self.weights.config, &self.weights.parameters.layers[i]);
        let (rows, h, d) = (self.rows(), config.hidden_size, config.head_dim);
        let widths = [config.num_heads * d, config.num_kv_heads * d];
        let (x, normed) = self.norm(x, term, layer.input_norm.at, [rows, h]);
        let [q, k, v] = [(&layer.q, widths[0]), (&layer.k, widths[1]), (&layer.v, widths[1])]
            .map(|(linear, width)| self.project(X::F32(normed.at), linear, [width, h]));
        self.recorder.free([normed]);
        let turned = [(q, layer.q_norm, widths[0]), (k, layer.k_norm, widths[1])];
        let [q, k] = turned.map(|(x, norm, width)| {
            let heads = width / d;
            let x = match norm {
                None => x,
                Some(norm) => {
                    let (unnormed, normed) = self.norm(x, None, norm.at, [rows * heads, d]);
                    self.recorder.free([unnormed]);
                    normed
                }
            };
            let turned = self.recorder.f32(rows * width);
            let tables = [self.weights.cos, self.weights.sin, self.positions];
            self.recorder.rope_f32((x.at, turned.at), tables, [rows, heads, d]);
            self.recorder.free([x]);
            turned
        });
        let r = &mut self.recorder;
        let [q16, out] = [(); 2].map(|()| r.bf16(rows * widths[0]));
        let by = |x: Region, width| Matrix { at: x.at, rows, columns: width };
        r.place_rows(by(q, widths[0]), self.in_order, q16.at);
        for (x, cache) in [k, v].into_iter().zip(self.caches.layers[i]) {
            r.place_rows(by(x, widths[1]), self.places, cache);
        }
        r.free([q, k, v]);
        r.attention_decode(self.cached[i], [q16.at, out.at]);
        let attended = self.project(X::Bf16(out.at), &layer.o, [h, widths[0]]);
        self.recorder.free([q16, out]);
        (x, attended)
    }

    /// The sum behind the attention, and the feed-forward part's term.
    fn feed(&mut self, i: usize, x: Region, attended: Region) -> (Region, Option<Region>) {
        let (config, layer) = (&self.weights.config, &self.weights.parameters.layers[i]);
        let (rows, h, inner) = (self.rows(), config.hidden_size, config.intermediate_size);
        let (x, normed) = self.norm(x, Some(attended), layer.mlp_norm.at, [rows, h]);
        let [gate, up] = [&layer.gate, &layer.up]
            .map(|linear| self.project(X::F32(normed.at), linear, [inner, h]));
        let gated = self.recorder.f32(rows * inner);
        self.recorder.swiglu_f32([gate.at, up.at], gated.at, rows * inner);
        let fed = self.project(X::F32(gated.at), &layer.down, [h, inner]);
        self.recorder.free([normed, gate, up, gated]);
        (x, Some(fed))
    }

    /// A candidate of each wanted row, if any are drawn.
    pub(super) fn candidates(&mut self, logits: Region) -> u64 {
        let Some(draws) = self.draws else { return logits.at };
        let (n, vocab) = (self.check.batch.draws.len(), self.weights.config.vocab_size);
        let candidates = self.recorder.f32(n * CANDIDATE_BYTES / 4);
        let logits = Matrix { at: logits.at, rows: n, columns: vocab };
        self.recorder.sample(logits, draws, n, candidates.at);
        candidates.at
    }
}

/// A matrix of a model as a product reads it.
fn stored(weight: Weight, rows: usize, columns: usize) -> Stored {
    let format = Format::of(weight.dtype).expect("`Weights::stored` has checked every format");
    Stored { matrix: Matrix { at: weight.at, rows, columns }, format }
}

/// A draw as the kernels read it.
fn draw_args(table: Bytes, row: usize, draw: &Draw, forbidden: u64) -> Bytes {
    let table = [row as u64, draw.seed, draw.position, draw.refinement]
        .into_iter()
        .fold(table, |table, word| table.long(word as usize));
    let numbers = [draw.temperature, draw.top_p.unwrap_or(0.), draw.min_p.unwrap_or(0.), 1.];
    let table = numbers.into_iter().fold(table, Bytes::double);
    let top_k = draw.top_k.map_or(0, |k| k.min(i32::MAX as u32) as usize);
    let table = table.pointer_or_null(None).pointer(forbidden);
    table.int(draw.forbidden.len()).int(top_k)
}

/// The sequences of one layer as attention reads them.
fn sequence_table(
    weights: &Weights,
    caches: &Caches,
    check: &Checked<'_>,
    layer: [u64; 2],
) -> Bytes {
    let config = &weights.config;
    let row = config.num_kv_heads * config.head_dim;
    let mut table = Bytes::default();
    for (of, sequence) in check.batch.sequences.iter().zip(&check.sequences) {
        let first = (caches.first[of.cache] * row * 2) as u64;
        for at in layer {
            table = table.pointer(at + first).long(0).long(config.head_dim).int(row).end();
        }
        let [counts @ .., part] = *sequence;
        table = counts.into_iter().fold(table, Bytes::int).long(part);
    }
    table
}
