//! Multiplies stored weight matrices with a few rows: y[m, n] = Σ_k x[m, k] · w[n, k].
//!
//! A few rows of x, fifteen to thirty-two by format, are multiplied with the weights where they lie: the formats
//! that people use are unpacked in registers, each weight once for up to eight rows, so the weights are
//! read from memory once and nothing is written but sums. With more rows of x (of f32 there is nothing to
//! unpack), or in the other formats, a panel of weight rows is unpacked to f32 in the cache first.
//!
//! **An output's bits depend on its row of x and its row of w, on nothing else** (on one machine).
//! Each output is a fixed number of running sums (lane l of n takes k ≡ l mod n, in order), folded in
//! a fixed order at the end; neither the rows beside it nor the threads change it.

use std::cell::RefCell;

use super::block::{self, Multiply, Panel, Sums};
use super::dtype::StorageDtype;
use crate::backend::Isa;
use crate::simd::{Detected, Halves, Kernel, Vector, run};
use crate::spin::{self, Columns, Fill};

/// Columns multiplied at a time with eight rows of x: 24 KiB of them, half of a first-level cache.
const COLS: usize = 768;
/// Rows of x that a weight is multiplied with while it is in a register.
pub(super) const GROUP: usize = 8;
/// Rows of x multiplied with one unpacked panel: they stay in the second-level cache.
const X_ROWS: usize = 128;
/// Floats in a cache line.
const LINE: usize = 16;
/// Columns are padded with zeros to a multiple of this: the step of the innermost loops.
pub(super) const PART: usize = 32;
/// The distance in rows from the weights in work to those prefetched: about as many as are multiplied at once.
const ROWS_AHEAD: usize = 4;
/// Weight rows of a panel: a multiple of what the register blocks take.
pub(super) const PANEL_ROWS: usize = 24;
/// Weights in one piece of work; small enough to share evenly, large enough to be worth taking.
const TASK_WEIGHTS: usize = 32 * 1024;
/// Multiplications below which the calling thread works alone: a few microseconds.
const SERIAL_WORK: usize = 32 * 1024;

/// One weight matrix: `bytes` holds `rows` rows of `cols` weights, checked by the caller.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) dtype: StorageDtype,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bytes: &'a [u8],
}

/// The products of x `[x_rows, cols]` with each matrix, each `[x_rows, rows]`, in one parallel
/// region. Every matrix has `cols` columns.
pub(super) fn products(stored: &[Stored<'_>], x: &[f32], cols: usize, isa: Isa) -> Vec<Vec<f32>> {
    assert!(stored.iter().all(|matrix| matrix.cols == cols), "one x, one number of columns");
    let x_rows = x.len() / cols;
    let x = packed(x, cols);
    let isa = Detected::from(isa);
    let task_rows = (TASK_WEIGHTS / cols).max(1).next_multiple_of(PANEL_ROWS);
    in_tasks(stored, x_rows, task_rows, |stored, first, out| {
        Product { isa, stored, x: &x, x_rows }.columns(first, out);
    })
}

/// Gives the results `[x_rows, rows]` of each matrix. Every task writes up to `task_rows` columns of one, from the
/// first one that it is told.
pub(super) fn in_tasks<'a>(
    stored: &[Stored<'a>],
    x_rows: usize,
    task_rows: usize,
    work: impl Fn(Stored<'a>, usize, &mut Columns<'_>) + Sync,
) -> Vec<Vec<f32>> {
    let rows: Vec<usize> = stored.iter().map(|matrix| matrix.rows).collect();
    let weights: usize = stored.iter().map(|matrix| matrix.rows * matrix.cols).sum();
    let alone = weights.saturating_mul(x_rows) < SERIAL_WORK;
    let fill = Fill { rows: x_rows, cols: &rows, width: task_rows, alone };
    fill.with(|matrix, first, columns| work(stored[matrix], first, columns))
}

/// Unpacks the rows whose numbers are `ids` (all in range) one after another.
pub(super) fn unpack_rows(
    stored: Stored<'_>,
    ids: impl Iterator<Item = usize>,
    out: &mut [f32],
    isa: Isa,
) {
    let isa = Detected::from(isa);
    let row_bytes = stored.bytes.len() / stored.rows;
    for (id, row) in ids.zip(out.chunks_exact_mut(stored.cols)) {
        block::unpack(isa, stored.dtype, &stored.bytes[id * row_bytes..][..row_bytes], row);
    }
}

/// The memory that a thread keeps from task to task: an unpacked panel and its running sums.
#[derive(Default)]
struct Scratch {
    panel: Vec<f32>,
    sums: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One matrix against all rows of x.
struct Product<'a> {
    isa: Detected,
    stored: Stored<'a>,
    /// As [`packed`] gives them.
    x: &'a [Vec<Line>],
    x_rows: usize,
}

impl Product<'_> {
    /// Writes the output columns that begin with row `first` of the weights.
    fn columns(&self, first: usize, out: &mut Columns<'_>) {
        let rows = first..first + out.width();
        let stored = self.stored;
        let of_stored = || block::of_stored(self.isa, stored.dtype, self.x_rows);
        let direct = stored.cols.is_multiple_of(PART).then(of_stored).flatten();
        let at_once = if direct.is_some() { columns_at_once(self.x_rows) } else { COLS };
        SCRATCH.with_borrow_mut(|Scratch { panel, sums }| {
            panel.resize(PANEL_ROWS * COLS + LINE - 1, 0.0);
            // Rows that begin with a cache line, so that no vector straddles two.
            let aligned = panel.as_ptr().align_offset(align_of::<Line>());
            let panel = &mut panel[aligned..];
            sums.resize(PANEL_ROWS * X_ROWS, Line([0.0; 16]));
            for x_first in (0..self.x_rows).step_by(X_ROWS) {
                for first in rows.clone().step_by(PANEL_ROWS) {
                    let count = PANEL_ROWS.min(rows.end - first);
                    for col in (0..stored.cols).step_by(at_once) {
                        let cols = at_once.min(stored.cols - col);
                        let tile = Tile { first, count, col, cols };
                        match direct {
                            Some(multiply) => {
                                let weights = tile.in_place(stored);
                                self.groups(&tile, multiply, weights, x_first, (sums, out));
                            }
                            None => {
                                let weights = tile.unpacked(self.isa, stored, panel);
                                let multiply = block::of_unpacked;
                                self.groups(&tile, multiply, weights, x_first, (sums, out));
                            }
                        }
                    }
                }
            }
        });
    }

    /// A tile's products with each group of the rows of x from `x_first` on, at most [`X_ROWS`]. The sums are carried
    /// on to the next columns, and in the end folded to results.
    fn groups<T>(
        &self,
        tile: &Tile,
        multiply: Multiply<T>,
        weights: Weights<'_, T>,
        x_first: usize,
        (sums, results): (&mut [Line], &mut Columns<'_>),
    ) {
        let lines = self.stored.cols.next_multiple_of(PART) / 16;
        let last = tile.col + tile.cols == self.stored.cols;
        let len = tile.cols.next_multiple_of(PART);
        let x_last = self.x_rows.min(x_first + X_ROWS);
        let x = &self.x[x_first / GROUP..x_last.div_ceil(GROUP)];
        for (group, x) in x.iter().enumerate() {
            let x_rows = x.len() / lines;
            let own = GROUP * group * tile.count..(GROUP * group + x_rows) * tile.count;
            multiply(
                self.isa,
                Panel {
                    halves: Halves::table(),
                    w: weights.from,
                    w_stride: weights.stride,
                    w_rows: tile.count,
                    ahead: weights.ahead,
                    x: &x[tile.col / 16 * x_rows..][..len / 16 * x_rows],
                    x_rows,
                    len,
                    sums: Sums {
                        carried: &mut sums[own],
                        first: tile.col == 0,
                        results: last.then(|| (&mut *results, x_first + GROUP * group)),
                    },
                },
            );
        }
    }
}

/// Gives the number of columns of stored weights that are multiplied at a time, a multiple of every block: as many as
/// keep that much of the rows of x in the first-level cache. With fewer rows of x, longer rows of weights are read in
/// one go.
fn columns_at_once(x_rows: usize) -> usize {
    let cols = COLS * GROUP / x_rows.min(GROUP);
    cols - cols % 256
}

/// The weights [first..first + count, col..col + cols] of a matrix; `col` begins a block.
struct Tile {
    first: usize,
    count: usize,
    col: usize,
    cols: usize,
}

/// A tile's weights, from the first one on.
struct Weights<'a, T> {
    from: &'a [T],
    /// Units from row to row.
    stride: usize,
    /// Bytes from a weight to the one that is prefetched.
    ahead: usize,
}

impl Tile {
    /// The weights as they are stored. Prefetched are the next columns of the same rows; behind the last columns the
    /// first ones of the next panel's rows; and if rows are read in one go, the rows a little further on.
    fn in_place<'a>(&self, stored: Stored<'a>) -> Weights<'a, u8> {
        let bytes_of = |cols: usize| cols / stored.dtype.block_len() * stored.dtype.block_bytes();
        let stride = bytes_of(stored.cols);
        let rows = &stored.bytes[self.first * stride..][..self.count * stride];
        let from = bytes_of(self.col);
        let ahead = match self.col + self.cols < stored.cols {
            true => bytes_of(self.cols),
            false if self.col == 0 => ROWS_AHEAD * stride,
            false => PANEL_ROWS * stride - from,
        };
        Weights { from: &rows[from..], stride, ahead }
    }

    /// The weights as f32, each row padded with zeros to whole parts.
    fn unpacked<'a>(
        &self,
        isa: Detected,
        stored: Stored<'_>,
        scratch: &'a mut [f32],
    ) -> Weights<'a, f32> {
        let bytes_of = |cols: usize| cols / stored.dtype.block_len() * stored.dtype.block_bytes();
        let (row_bytes, from, len) =
            (bytes_of(stored.cols), bytes_of(self.col), bytes_of(self.cols));
        let stride = self.cols.next_multiple_of(PART);
        let ahead = match self.col + self.cols < stored.cols {
            true => len,
            false => PANEL_ROWS * row_bytes - from,
        };
        for (row, out) in scratch.chunks_exact_mut(stride).take(self.count).enumerate() {
            let at = (self.first + row) * row_bytes + from;
            if let Some(next) = stored.bytes.get(at + ahead..at + ahead + len) {
                run(isa, Prefetch(next));
            }
            let (weights, padding) = out.split_at_mut(self.cols);
            block::unpack(isa, stored.dtype, &stored.bytes[at..][..len], weights);
            padding.fill(0.0);
        }
        Weights { from: scratch, stride, ahead: 0 }
    }
}

/// A loop that prefetches bytes for the next panel, which come while this one is multiplied.
struct Prefetch<'a>(&'a [u8]);

impl Kernel for Prefetch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        self.0.chunks(64).for_each(|line| V::prefetch_second(line.as_ptr()));
    }
}

/// A cache line of x. Rows begin with one, so that no load straddles two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; 16]);

/// Packs x in groups of [`GROUP`] rows, each group column by column in steps of sixteen floats: the rows of a group lie
/// a constant distance apart. Columns are padded with zeros to whole parts.
fn packed(x: &[f32], cols: usize) -> Vec<Vec<Line>> {
    let groups = x.chunks(GROUP * cols);
    if groups.len() < 4 {
        return groups.map(|group| pack_group(group, cols)).collect();
    }
    let mut packed = vec![Vec::new(); groups.len()];
    spin::each(groups.zip(&mut packed).collect(), |(group, packed)| {
        *packed = pack_group(group, cols)
    });
    packed
}

fn pack_group(group: &[f32], cols: usize) -> Vec<Line> {
    let lines = cols.next_multiple_of(PART) / 16;
    let mut packed = Vec::with_capacity(group.len() / cols * lines);
    for first in (0..16 * lines).step_by(16) {
        for row in group.chunks_exact(cols) {
            let values = row.get(first..).unwrap_or_default();
            packed.push(Line(values.first_chunk().copied().unwrap_or_else(|| {
                let mut padded = [0.; 16];
                padded[..values.len()].copy_from_slice(values);
                padded
            })));
        }
    }
    packed
}
