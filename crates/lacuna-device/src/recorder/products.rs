//! Writes down the products of layers, there and back, and what is added to their rows.

use super::{Matrix, Recorder, THREADS, matrix};
use crate::card::Products;
use crate::launch::Bytes;

/// Rows that a slice of rows has at least.
const LEAST_SLICE: usize = 128;
/// Rows that a product sums at a time: a slice has a multiple of them.
const DEPTH: usize = 64;

/// The way in which a product's rows are cut: each slice gives a matrix of its own.
#[derive(Clone, Copy)]
struct Cut {
    /// Rows of a slice; 0: all.
    rows: usize,
    slices: usize,
}

impl Cut {
    const NONE: Self = Self { rows: 0, slices: 1 };
}

/// The place where a product goes: to f32, alone or on top of what is there, to bf16, or both.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) out: Option<u64>,
    pub(crate) adds: bool,
    pub(crate) rounded: Option<u64>,
    /// Added to each row.
    pub(crate) bias: Option<u64>,
}

impl Sum {
    pub(crate) fn rounded(at: u64) -> Self {
        Self { rounded: Some(at), ..Self::default() }
    }

    pub(crate) fn wide(at: u64) -> Self {
        Self { out: Some(at), ..Self::default() }
    }

    pub(crate) fn onto(at: u64) -> Self {
        Self { adds: true, ..Self::wide(at) }
    }
}

impl Recorder {
    /// y = x · wᵀ, with a bias added to each row if there is one; x: [rows, in], w: [out, in].
    pub(crate) fn linear(&mut self, x: Matrix, (w, bias): (Matrix, Option<u64>), y: u64) {
        let (kernel, shape) = (self.products.forward, [x.rows, w.rows]);
        self.product(kernel, [x, w], shape, Sum { bias, ..Sum::rounded(y) }, Cut::NONE);
    }

    /// A bias's gradient: the sum of the rows of d_y.
    pub(crate) fn bias_gradient(&mut self, d_y: Matrix, d_bias: u64, adds: bool) {
        let (rows, columns) = (d_y.rows, d_y.columns);
        let slab = rows.div_ceil(256).next_multiple_of(16);
        let slabs = rows.div_ceil(slab);
        let partial = self.f32(slabs * columns);
        let args = Bytes::default().pointer(d_y.at).pointer(partial.at);
        let args = args.int(rows).int(columns).int(slab).end();
        let grid = [columns.div_ceil(64), slabs, 1];
        self.launch("linear_bias_gradient", grid, (THREADS, 16 * 64 * 4), args);
        // The kernel that sums slabs is that of a norm's weight, and looks at nothing else of a norm.
        let none = [None; 5].into_iter().fold(Bytes::default(), Bytes::pointer_or_null);
        let args = none.pointer(d_bias).pointer(partial.at).int(rows).int(columns);
        let args = args.int(0).int(slab).float(0.).flag(adds).end();
        self.sum_slabs(columns, args);
        self.free([partial]);
    }

    /// Sums the shares of slabs of rows in each column.
    pub(super) fn sum_slabs(&mut self, columns: usize, args: Bytes) {
        let grid = [columns.div_ceil(8), 1, 1];
        self.launch("rms_norm_backward_weight_f32", grid, (THREADS, THREADS * 4), args);
    }

    /// Gradients of rows: d_y · w; d_y: [rows, out], w: [out, in].
    pub(crate) fn input_gradient(&mut self, d_y: Matrix, w: Matrix, to: Sum) {
        let (kernel, shape) = (self.products.input_gradient, [d_y.rows, w.columns]);
        self.product(kernel, [d_y, w], shape, to, Cut::NONE);
    }

    /// Gradients of weights, d_yᵀ · x, to f32; d_y: [rows, out], x: [rows, in]. A small matrix is so few tiles that most of
    /// a card would be idle: its rows are cut into slices, and the slices' products are summed in their order.
    pub(crate) fn weight_gradients<const N: usize>(&mut self, of: [(Matrix, Matrix, Sum); N]) {
        let kernel = self.products.weight_gradient;
        let shape = |(d_y, x, _): (Matrix, Matrix, Sum)| [d_y.columns, x.columns];
        let cuts = of.map(|product| {
            let cut = self.cut(product.0.rows, shape(product));
            let [out, columns] = shape(product);
            (cut, (cut.slices > 1).then(|| self.f32(cut.slices * out * columns)))
        });
        self.together(|r| {
            for (product, (cut, partial)) in of.into_iter().zip(cuts) {
                let (d_y, x, to) = product;
                let (to, cut) = match partial {
                    Some(partial) => (Sum::wide(partial.at), cut),
                    None => (to, Cut::NONE),
                };
                r.product(kernel, [d_y, x], shape(product), to, cut);
            }
        });
        self.together(|r| {
            for (product, (cut, partial)) in of.into_iter().zip(cuts) {
                let Some(partial) = partial else { continue };
                let to = product.2;
                let out = to.out.expect("a weight's gradient goes to f32");
                assert!(
                    to.rounded.is_none() && to.bias.is_none(),
                    "a weight's gradient is a sum alone"
                );
                let n: usize = shape(product).iter().product();
                let args = Bytes::default().pointer(partial.at).pointer(out).long(n);
                let args = args.int(cut.slices).flag(to.adds);
                let blocks = n.div_ceil(4 * THREADS as usize);
                r.launch("linear_sum_slices", [blocks, 1, 1], (THREADS, 0), args);
            }
        });
        self.free(cuts.into_iter().filter_map(|(_, partial)| partial));
    }

    /// The cut of a weight's gradient: as many slices of rows as a card runs at a time.
    fn cut(&self, rows: usize, [out, columns]: [usize; 2]) -> Cut {
        let tiles = out.div_ceil(Products::TILE) * columns.div_ceil(Products::TILE);
        let most = (self.products.at_once / tiles).min(rows.div_ceil(LEAST_SLICE)).max(1);
        let of_a_slice = rows.div_ceil(most).next_multiple_of(DEPTH);
        Cut { rows: of_a_slice, slices: rows.div_ceil(of_a_slice) }
    }

    /// The gradient of a weight whose outputs are the first `out` columns of d_y, in one product.
    pub(crate) fn weight_gradient_of(&mut self, d_y: Matrix, x: Matrix, out: usize, to: Sum) {
        self.product(self.products.weight_gradient, [d_y, x], [out, x.columns], to, Cut::NONE);
    }

    fn product(
        &mut self,
        kernel: &'static str,
        [left, right]: [Matrix; 2],
        [rows, columns]: [usize; 2],
        to: Sum,
        cut: Cut,
    ) {
        let args = matrix(matrix(Bytes::default(), left), right).pointer_or_null(to.out);
        let args = args.int(rows).flag(to.adds).pointer_or_null(to.rounded);
        let args = args.pointer_or_null(to.bias).int(cut.rows);
        let tiles = |n: usize| n.div_ceil(Products::TILE);
        let grid = [tiles(rows), tiles(columns), cut.slices];
        self.launch(kernel, grid, (self.products.threads, Products::SHARED), args);
    }
}
