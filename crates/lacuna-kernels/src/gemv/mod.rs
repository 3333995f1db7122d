//! Products of stored weight matrices with a few rows: y[m, n] = Σ_k x[m, k] · w[n, k].
//!
//! One loop for every format and every number of rows. A panel of weight rows is unpacked to f32
//! in the cache, then multiplied with all rows of x while it is there, so the weights are read
//! from memory once and unpacked once. Plain f32 weights are multiplied where they lie.
//!
//! **An output's bits depend on its row of x and its row of w, on nothing else.** Each output is
//! eight running sums (lane l takes k ≡ l mod 8, in order) folded at the end as
//! ((0+1)+(2+3)) + ((4+5)+(6+7)); neither the rows beside it nor the threads change that order.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(target_arch = "x86_64")]
mod unpack_avx2;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::quant::WeightDtype;

/// Running sums of one output.
type Lanes = [f32; 8];
const LANES: usize = 8;

/// Columns multiplied at a time: with four rows of x, 16 KiB of the first-level cache.
const COLS: usize = 1024;
/// Rows of x multiplied with one unpacked panel: they stay in the second-level cache.
const X_ROWS: usize = 64;
/// Up to here plain f32 weights are multiplied where they lie; with more rows of x a copy that is
/// compact in the cache is twice as fast (rows of 16 KiB share cache sets).
const DIRECT_ROWS: usize = 16;
/// Weight rows of a panel when x has many rows.
const PANEL_ROWS_MAX: usize = 24;
/// Weights in one piece of work; small enough to share evenly, large enough to be worth taking.
const TASK_WEIGHTS: usize = 32 * 1024;
/// Multiplications below which the calling thread works alone: about the 10 µs that waking another
/// takes (an estimate; the sweep in `examples/weight_matrix.rs` shows what it costs).
const SERIAL_WORK: usize = 96 * 1024;

/// Which instructions to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[doc(hidden)]
pub enum Simd {
    /// Plain Rust: what the compiler makes of it.
    Portable,
    /// AVX2, FMA and F16C on x86-64; elsewhere and on older processors the same as portable.
    Best,
}

/// One weight matrix: `bytes` holds `rows` rows of `cols` weights, checked by the caller.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) dtype: WeightDtype,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: &'a [u8],
}

/// The products of x `[x_rows, cols]` with each matrix, each `[x_rows, rows]`, in one parallel
/// region. Every matrix has `cols` columns.
pub(crate) fn products(stored: &[Stored<'_>], x: &[f32], cols: usize, simd: Simd) -> Vec<Vec<f32>> {
    assert!(stored.iter().all(|matrix| matrix.cols == cols), "one x, one number of columns");
    let x_rows = x.len() / cols;
    let leaves = Leaves::choose(simd);
    let x = pad_rows(x, cols);
    let mut outputs: Vec<Vec<f32>> =
        stored.iter().map(|matrix| vec![0.0; x_rows * matrix.rows]).collect();
    let panel_rows = panel_rows(x_rows);
    let task_rows = (TASK_WEIGHTS / cols).max(1).next_multiple_of(panel_rows);
    let tasks: Vec<(usize, usize)> = stored
        .iter()
        .enumerate()
        .flat_map(|(index, matrix)| {
            (0..matrix.rows).step_by(task_rows).map(move |first| (index, first))
        })
        .collect();
    let columns: Vec<Columns> = outputs
        .iter_mut()
        .zip(stored)
        .map(|(out, matrix)| Columns { start: out.as_mut_ptr(), rows: matrix.rows })
        .collect();
    let run = |&(index, first): &(usize, usize)| {
        let last = (first + task_rows).min(stored[index].rows);
        // SAFETY: each task owns the output columns first..last of its matrix, every task is taken
        // once, and the outputs outlive the parallel region and are not touched during it.
        unsafe { multiply_rows(&leaves, stored[index], first..last, &x, x_rows, columns[index]) };
    };
    let weights: usize = stored.iter().map(|matrix| matrix.rows * matrix.cols).sum();
    if weights.saturating_mul(x_rows) < SERIAL_WORK {
        tasks.iter().for_each(run);
    } else {
        take_in_turn(&tasks, run);
    }
    outputs
}

/// Unpacks the rows starting at each of `ids` (in range) one after another.
pub(crate) fn unpack_rows(
    stored: Stored<'_>,
    ids: impl Iterator<Item = usize>,
    out: &mut [f32],
    simd: Simd,
) {
    let leaves = Leaves::choose(simd);
    let row_bytes = stored.bytes.len() / stored.rows;
    for (id, row) in ids.zip(out.chunks_exact_mut(stored.cols)) {
        (leaves.unpack)(stored.dtype, &stored.bytes[id * row_bytes..][..row_bytes], row);
    }
}

/// The innermost loops, chosen once per product.
struct Leaves {
    /// (dtype, bytes of whole blocks, their weights)
    unpack: fn(WeightDtype, &[u8], &mut [f32]),
    /// Adds a panel's products over some columns to the running sums.
    ///
    /// Safety: see [`Panel`].
    multiply: unsafe fn(&Panel, &mut [Lanes]),
    /// Folds running sums to outputs.
    fold: fn(&[Lanes], &mut [f32]),
    /// Asks for bytes that the next panel will need.
    prefetch: fn(&[u8]),
    /// Whether `multiply` may read f32 weights where they lie, aligned or not.
    reads_bytes: bool,
}

impl Leaves {
    fn choose(simd: Simd) -> Self {
        #[cfg(target_arch = "x86_64")]
        if simd == Simd::Best
            && let Some(leaves) = avx2::leaves()
        {
            return leaves;
        }
        let _ = simd;
        portable::LEAVES
    }
}

/// `w_rows` rows of `len` weights against `x_rows` rows of x; `len` is a multiple of eight.
///
/// The running sums are `[x_rows, w_rows]`. `w` and `x` point to rows `w_stride` and `x_stride`
/// floats apart, each readable for `len` floats; `w` may be unaligned if the leaf says so. What
/// lies `ahead` floats after a weight will be wanted next (it need not exist).
struct Panel {
    w: *const f32,
    ahead: usize,
    w_stride: usize,
    w_rows: usize,
    x: *const f32,
    x_stride: usize,
    x_rows: usize,
    len: usize,
}

/// Weight rows unpacked and multiplied together: a multiple of the register block's for this
/// number of x rows.
fn panel_rows(x_rows: usize) -> usize {
    match x_rows {
        2 => 4,
        0..=16 => 6,
        _ => PANEL_ROWS_MAX,
    }
}

/// Where the columns of an output `[x_rows, rows]` begin.
#[derive(Clone, Copy)]
struct Columns {
    start: *mut f32,
    rows: usize,
}

// SAFETY: a plain pointer and a length; `products` hands disjoint columns to the threads.
unsafe impl Send for Columns {}
// SAFETY: as above; nothing is read or written through a shared reference.
unsafe impl Sync for Columns {}

/// Per thread and kept: an unpacked panel and its running sums.
#[derive(Default)]
struct Scratch {
    panel: Vec<f32>,
    sums: Vec<Lanes>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Writes the output columns `rows` for all rows of x.
///
/// # Safety
/// `out` is `[x_rows, stored.rows]`, and no one else reads or writes its columns `rows` meanwhile.
unsafe fn multiply_rows(
    leaves: &Leaves,
    stored: Stored<'_>,
    rows: std::ops::Range<usize>,
    x: &[f32],
    x_rows: usize,
    out: Columns,
) {
    let panel_rows = panel_rows(x_rows);
    let x_stride = stored.cols.next_multiple_of(LANES);
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.panel.resize(PANEL_ROWS_MAX * COLS, 0.0);
        scratch.sums.resize(PANEL_ROWS_MAX * X_ROWS, [0.0; LANES]);
        let mut outputs = [0.0; PANEL_ROWS_MAX];
        for x_first in (0..x_rows).step_by(X_ROWS) {
            let x_count = X_ROWS.min(x_rows - x_first);
            let direct = stored.dtype == WeightDtype::F32
                && leaves.reads_bytes
                && x_rows <= DIRECT_ROWS
                && stored.cols.is_multiple_of(LANES);
            let x = &x[x_first * x_stride..][..x_count * x_stride];
            for first in rows.clone().step_by(panel_rows) {
                let count = panel_rows.min(rows.end - first);
                let sums = &mut scratch.sums[..count * x_count];
                sums.fill([0.0; LANES]);
                for col in (0..stored.cols).step_by(COLS) {
                    let cols = COLS.min(stored.cols - col);
                    let weights = Tile { first, count, col, cols };
                    // SAFETY: the panel's rows and x's rows are within their slices: the tile
                    // checked the first, and x has x_count rows of x_stride floats.
                    unsafe {
                        let (w, w_stride) = if direct {
                            (weights.bytes_as_f32(stored), stored.cols)
                        } else {
                            weights.unpacked(leaves, stored, &mut scratch.panel)
                        };
                        let panel = Panel {
                            w,
                            ahead: if direct { weights.ahead(stored) } else { 0 },
                            w_stride,
                            w_rows: count,
                            x: x.as_ptr().add(col),
                            x_stride,
                            x_rows: x_count,
                            len: cols.next_multiple_of(LANES),
                        };
                        (leaves.multiply)(&panel, sums);
                    }
                }
                for (row, sums) in sums.chunks_exact(count).enumerate() {
                    (leaves.fold)(sums, &mut outputs[..count]);
                    // SAFETY: row x_first + row < x_rows and columns first..first + count are
                    // this call's own part of the output.
                    unsafe {
                        let to = out.start.add((x_first + row) * out.rows + first);
                        to.copy_from_nonoverlapping(outputs.as_ptr(), count);
                    }
                }
            }
        }
    });
}

/// The weights [first..first + count, col..col + cols] of a matrix; `col` begins a block.
struct Tile {
    first: usize,
    count: usize,
    col: usize,
    cols: usize,
}

impl Tile {
    /// How many weights further on the next tile's begin: the same rows, or else the next rows.
    fn ahead(&self, stored: Stored<'_>) -> usize {
        if self.col + self.cols < stored.cols { self.cols } else { self.count * stored.cols }
    }

    /// Where an f32 tile's weights lie, aligned or not.
    fn bytes_as_f32(&self, stored: Stored<'_>) -> *const f32 {
        let row_bytes = 4 * stored.cols;
        let rows = &stored.bytes[self.first * row_bytes..][..self.count * row_bytes];
        rows[4 * self.col..].as_ptr().cast()
    }

    /// The tile's weights as f32, each row padded with zeros to whole lanes, and their stride.
    fn unpacked(
        &self,
        leaves: &Leaves,
        stored: Stored<'_>,
        scratch: &mut [f32],
    ) -> (*const f32, usize) {
        let bytes_of = |cols: usize| cols / stored.dtype.block_len() * stored.dtype.block_bytes();
        let (row_bytes, from, len) =
            (bytes_of(stored.cols), bytes_of(self.col), bytes_of(self.cols));
        let stride = self.cols.next_multiple_of(LANES);
        let ahead = bytes_of(self.ahead(stored));
        for (row, out) in scratch.chunks_exact_mut(stride).take(self.count).enumerate() {
            let at = (self.first + row) * row_bytes + from;
            if let Some(next) = stored.bytes.get(at + ahead..at + ahead + len) {
                (leaves.prefetch)(next);
            }
            let (weights, padding) = out.split_at_mut(self.cols);
            (leaves.unpack)(stored.dtype, &stored.bytes[at..][..len], weights);
            padding.fill(0.0);
        }
        (scratch.as_ptr(), stride)
    }
}

/// x with each row padded with zeros to whole lanes.
fn pad_rows(x: &[f32], cols: usize) -> Cow<'_, [f32]> {
    if cols.is_multiple_of(LANES) {
        return Cow::Borrowed(x);
    }
    let mut padded = Vec::with_capacity(x.len() / cols * cols.next_multiple_of(LANES));
    for row in x.chunks_exact(cols) {
        padded.extend_from_slice(row);
        padded.resize(padded.len().next_multiple_of(LANES), 0.0);
    }
    Cow::Owned(padded)
}

/// Runs every task once. The calling thread works too, so a small product is under way before
/// the pool has woken up.
fn take_in_turn<T: Sync>(tasks: &[T], run: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            run(task);
        }
    };
    let helpers = (rayon::current_num_threads() - 1).min(tasks.len().saturating_sub(1));
    rayon::in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| work());
        }
        work();
    });
}
