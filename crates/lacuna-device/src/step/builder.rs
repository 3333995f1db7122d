//! Holds a step in the making: what the host knows of the batch, written down before the first launch.

use lacuna_checkpoint::{Layer, Linear};

use super::{Optimizer, StepOptions};
use crate::arena::Region;
use crate::batch::Lists;
use crate::layout::{Layout, Place};
use crate::recorder::{AdamW, Heads, Matrix, Occurrences, Recorder, Sum};

impl Optimizer {
    /// The optimizer on a model's state.
    pub(super) fn on(self, layout: &Layout) -> AdamW {
        AdamW {
            parameters: layout.table,
            chunks: layout.chunks,
            n_chunks: layout.n_chunks,
            squares: layout.squares,
            norm: layout.norm,
            step: layout.step,
            clip: self.clip_norm,
            betas: [self.beta1, self.beta2],
            eps: self.eps,
        }
    }
}

pub(super) struct Builder<'a> {
    pub(super) recorder: Recorder,
    pub(super) layout: &'a Layout,
    pub(super) options: &'a StepOptions,
    pub(super) sizes: Sizes,
    /// The rows of all layers but the last, and of the last.
    passes: [Pass; 2],
    pub(super) tables: Tables,
}

/// The widths of a model's rows.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) head_dim: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) vocab: usize,
    pub(super) eps: f64,
}

impl Sizes {
    /// The width of all query heads.
    pub(super) fn q(self) -> usize {
        self.heads * self.head_dim
    }

    /// The width of all key heads.
    pub(super) fn kv(self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The rows of a layer: those that have keys, and those that have queries.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    pub(super) heads: Heads,
    /// Positions of the keys, and of the queries.
    pub(super) positions: [u64; 2],
    /// The rows that queries are formed from and that go on behind the attention, if they are not all.
    pub(super) selected: Option<Selected>,
}

/// Some of a pass's rows, by their numbers, and where each of these occurs.
#[derive(Clone, Copy)]
pub(super) struct Selected {
    pub(super) rows: u64,
    pub(super) occurrences: Occurrences,
}

impl Pass {
    pub(super) fn keys(&self) -> usize {
        self.heads.keys
    }

    pub(super) fn queries(&self) -> usize {
        self.heads.queries
    }
}

/// Lists that the host makes of a batch.
#[derive(Clone, Copy)]
pub(super) struct Tables {
    pub(super) tokens: u64,
    pub(super) of_token: Occurrences,
    pub(super) targets: u64,
    pub(super) weights: u64,
}

impl<'a> Builder<'a> {
    /// Places the lists; everything that is written before the first step has memory of its own.
    pub(super) fn new(
        mut recorder: Recorder,
        layout: &'a Layout,
        lists: Lists,
        options: &'a StepOptions,
    ) -> Self {
        let (config, sizes, r) = (&layout.config, lists.sizes, &mut recorder);
        let (n, queries) = (sizes.rows, sizes.wanted);
        let places: Vec<u64> = lists.all.into_iter().map(|list| r.upload(list)).collect();
        let of_rows = |n, places: &[u64]| Occurrences {
            n,
            tokens: places[0],
            starts: places[1],
            places: places[2],
        };
        let tables = Tables {
            tokens: places[0],
            of_token: of_rows(sizes.tokens, &places[1..]),
            targets: places[4],
            weights: places[5],
        };
        let (positions, ranges) = (places[6], places[7]);
        let of_wanted = sizes.selected.map(|n| {
            let selected = Selected { rows: places[8], occurrences: of_rows(n, &places[9..]) };
            (selected, places[12], places[13])
        });
        let mut heads = |ranges, queries| Heads {
            queries,
            keys: n,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            ranges,
            sights: r.sights(ranges, queries, n),
        };
        let every =
            Pass { heads: heads(ranges, n), positions: [positions, positions], selected: None };
        let last = of_wanted.map_or(every, |(selected, at, ranges)| Pass {
            heads: heads(ranges, queries),
            positions: [positions, at],
            selected: Some(selected),
        });
        let sizes = Sizes {
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            head_dim: config.head_dim,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            vocab: config.vocab_size,
            eps: config.rms_norm_eps,
        };
        Self { recorder, layout, options, sizes, passes: [every, last], tables }
    }

    pub(super) fn n_layers(&self) -> usize {
        self.layout.parameters().layers.len()
    }

    /// A layer's parameters and rows.
    pub(super) fn layer(&self, i: usize) -> (&'a Layer<Place>, Pass) {
        let is_last = i + 1 == self.n_layers();
        (&self.layout.parameters().layers[i], self.passes[usize::from(is_last)])
    }

    /// Rows of the pass before the last attention.
    pub(super) fn n_rows(&self) -> usize {
        self.passes[0].keys()
    }

    /// Rows of the pass behind it.
    pub(super) fn n_wanted(&self) -> usize {
        self.passes[1].queries()
    }

    /// Norms rows into a new buffer.
    pub(super) fn norm(&mut self, x: Region, norm: Place, [rows, width]: [usize; 2]) -> Region {
        let normed = self.recorder.bf16(rows * width);
        let x = matrix(x, rows, width);
        self.recorder.rms_norm(x, None, norm.values, normed.at, self.sizes.eps);
        normed
    }

    /// Turns heads by the positions of their rows, into a new buffer; `direction` −1 turns back.
    pub(super) fn turn(
        &mut self,
        x: Region,
        positions: u64,
        [rows, heads]: [usize; 2],
        direction: f64,
    ) -> Region {
        let shape = [rows, heads, self.sizes.head_dim];
        let turned = self.recorder.bf16(shape.iter().product());
        let tables = [self.layout.cos, self.layout.sin, positions];
        self.recorder.rope((x.at, turned.at), tables, shape, direction);
        turned
    }

    /// The rows of x that a pass selects, in a new buffer; none if it is all of them.
    pub(super) fn gather(&mut self, x: Region, pass: Pass, width: usize) -> Option<Region> {
        let selected = pass.selected?;
        let rows = self.recorder.bf16(pass.queries() * width);
        let table = matrix(x, pass.keys(), width);
        self.recorder.embedding(table, selected.rows, rows.at, pass.queries());
        Some(rows)
    }

    /// The norm of all gradients, and the update of every parameter.
    pub(super) fn optimize(&mut self, of: Optimizer) {
        let of = of.on(self.layout);
        self.recorder.gradient_norm(of);
        self.recorder.adamw(of);
    }

    /// The place of a gradient as a sum: over what is there, or on top of it.
    pub(super) fn gradient(&self, of: Place) -> Sum {
        Sum { adds: self.options.adds, ..Sum::wide(of.gradient) }
    }

    /// The gradients of weights and biases of some projections; d_y: [rows, out], x: [rows, in].
    pub(super) fn linear_gradients<const N: usize>(
        &mut self,
        of: [(&Linear<Place>, Matrix, Matrix); N],
    ) {
        let weights = of.map(|(linear, d_y, x)| (d_y, x, self.gradient(linear.weight)));
        self.recorder.weight_gradients(weights);
        for (linear, d_y, _) in of {
            if let Some(bias) = linear.bias {
                self.recorder.bias_gradient(d_y, bias.gradient, self.options.adds);
            }
        }
    }
}

/// A buffer of rows as a product reads it.
pub(super) fn matrix(region: Region, rows: usize, columns: usize) -> Matrix {
    Matrix { at: region.at, rows, columns }
}

/// A projection's weight and bias, as its product reads them.
pub(super) fn biased(linear: &Linear<Place>, out: usize, columns: usize) -> (Matrix, Option<u64>) {
    (weight(linear, out, columns), linear.bias.map(|bias| bias.values))
}

/// A projection's weight, [out, in], as a product reads it.
pub(super) fn weight(linear: &Linear<Place>, out: usize, columns: usize) -> Matrix {
    Matrix { at: linear.weight.values, rows: out, columns }
}
