//! Products of stored weight matrices with a few rows: y[m, n] = Σ_k x[m, k] · w[n, k].
//!
//! Up to sixteen rows of x are multiplied with the weights where they lie: the formats that people
//! use are unpacked in registers, each weight once for up to eight rows, so the weights are read
//! from memory once and nothing is written but sums. With more rows of x (of f32 there is nothing to
//! unpack), or in the other formats, a panel of weight rows is unpacked to f32 in the cache first.
//!
//! **An output's bits depend on its row of x and its row of w, on nothing else** (on one machine).
//! Each output is a fixed number of running sums (lane l of n takes k ≡ l mod n, in order), folded in
//! a fixed order at the end; neither the rows beside it nor the threads change it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod format;
mod portable;
#[cfg(target_arch = "x86_64")]
mod unpack_avx2;

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use crate::Isa;
use crate::cpu::Disjoint;
use crate::dtype::StorageDtype;
use crate::quant;
use crate::team;

/// Running sums of one output, of which AVX2 and portable loops use the first eight.
type Lanes = [f32; 16];

/// Columns multiplied at a time: with eight rows of x, 24 KiB of the first-level cache.
const COLS: usize = 768;
/// Rows of x that a weight is multiplied with while it is in a register.
const GROUP: usize = 8;
/// Rows of x multiplied with one unpacked panel: they stay in the second-level cache.
const X_ROWS: usize = 128;
/// Columns are padded with zeros to a multiple of this: the step of the innermost loops.
const PART: usize = 32;
/// Up to here packed weights are multiplied where they lie; with more rows of x an unpacked copy in
/// the cache serves them better.
const DIRECT_ROWS: usize = 16;
/// Rows between the weights in work and those asked for: about as many as are multiplied at once.
const ROWS_AHEAD: usize = 4;
/// Weight rows of a panel: a multiple of what the register blocks take.
const PANEL_ROWS: usize = 24;
/// Weights in one piece of work; small enough to share evenly, large enough to be worth taking.
const TASK_WEIGHTS: usize = 32 * 1024;
/// Multiplications below which the calling thread works alone: a few microseconds.
const SERIAL_WORK: usize = 32 * 1024;

/// One weight matrix: `bytes` holds `rows` rows of `cols` weights, checked by the caller.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) dtype: StorageDtype,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: &'a [u8],
}

/// The products of x `[x_rows, cols]` with each matrix, each `[x_rows, rows]`, in one parallel
/// region. Every matrix has `cols` columns.
pub(crate) fn products(stored: &[Stored<'_>], x: &[f32], cols: usize, isa: Isa) -> Vec<Vec<f32>> {
    assert!(stored.iter().all(|matrix| matrix.cols == cols), "one x, one number of columns");
    let x_rows = x.len() / cols;
    let leaves = Leaves::choose(isa);
    let x = packed(x, cols);
    let mut outputs: Vec<Vec<f32>> =
        stored.iter().map(|matrix| Vec::with_capacity(x_rows * matrix.rows)).collect();
    let task_rows = (TASK_WEIGHTS / cols).max(1).next_multiple_of(PANEL_ROWS);
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
    let run = |task: usize| {
        let (index, first) = tasks[task];
        let last = (first + task_rows).min(stored[index].rows);
        // SAFETY: each task owns the output columns first..last of its matrix, every task is taken
        // once, and the outputs outlive the parallel region and are not touched during it.
        unsafe { multiply_rows(&leaves, stored[index], first..last, &x, x_rows, columns[index]) };
    };
    let weights: usize = stored.iter().map(|matrix| matrix.rows * matrix.cols).sum();
    if weights.saturating_mul(x_rows) < SERIAL_WORK {
        (0..tasks.len()).for_each(run);
    } else {
        team::run(tasks.len(), run);
    }
    for (out, matrix) in outputs.iter_mut().zip(stored) {
        // SAFETY: the tasks together wrote every column for every row of x.
        unsafe { out.set_len(x_rows * matrix.rows) };
    }
    outputs
}

/// Unpacks the rows starting at each of `ids` (in range) one after another.
pub(crate) fn unpack_rows(
    stored: Stored<'_>,
    ids: impl Iterator<Item = usize>,
    out: &mut [f32],
    isa: Isa,
) {
    let leaves = Leaves::choose(isa);
    let row_bytes = stored.bytes.len() / stored.rows;
    for (id, row) in ids.zip(out.chunks_exact_mut(stored.cols)) {
        (leaves.unpack)(stored.dtype, &stored.bytes[id * row_bytes..][..row_bytes], row);
    }
}

/// The innermost loops, chosen once per product.
struct Leaves {
    /// (dtype, bytes of whole blocks, their weights)
    unpack: fn(StorageDtype, &[u8], &mut [f32]),
    /// Multiplies a panel of f32 weights.
    multiply: Multiply,
    /// Multiplies a panel of weights as they are stored, if there is a loop for the format.
    direct: fn(StorageDtype) -> Option<Multiply>,
    /// Asks for bytes that the next panel will need.
    prefetch: fn(&[u8]),
}

/// Adds a panel's products over some columns to the running sums.
///
/// Safety: see [`Panel`].
type Multiply = unsafe fn(&Panel);

impl Leaves {
    fn choose(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = (isa >= Isa::Avx512).then(avx512::leaves).flatten();
            let leaves = wide.or_else(|| (isa >= Isa::Avx2).then(avx2::leaves).flatten());
            if let Some(leaves) = leaves {
                return leaves;
            }
        }
        let _ = isa;
        portable::LEAVES
    }
}

/// `w_rows` rows of `len` weights against up to [`GROUP`] rows of x; `len` is a multiple of [`PART`]
/// and of the format's block.
///
/// `w` points to the bytes of rows `w_stride` bytes apart,
/// at any alignment; what lies `ahead` bytes after a weight will be wanted next (it need not exist).
/// `x` points to `[len / 16][x_rows][16]` floats that begin at a cache line.
struct Panel {
    halves: &'static Halves,
    w: *const u8,
    ahead: usize,
    w_stride: usize,
    w_rows: usize,
    x: *const f32,
    x_rows: usize,
    len: usize,
    sums: Sums,
}

/// Running sums `[x_rows, w_rows]` between one part of the columns and the next.
#[derive(Clone, Copy)]
struct Sums {
    carried: *mut Lanes,
    /// Whether these are the first columns: the sums begin at zero.
    first: bool,
    /// After the last columns the sums are folded to the outputs here, `stride` from row to row.
    out: Option<*mut f32>,
    stride: usize,
}

/// Every half as f32, looked up by its bits: blocks are small, so their scales must come cheaply.
struct Halves([f32; 1 << 16]);

static HALVES: LazyLock<Box<Halves>> = LazyLock::new(|| {
    let mut halves = Box::new(Halves([0.0; 1 << 16]));
    halves.0.iter_mut().zip(0..=u16::MAX).for_each(|(half, bits)| *half = quant::f16_to_f32(bits));
    halves
});

impl Halves {
    /// The half stored in two bytes.
    ///
    /// # Safety
    /// They can be read at `from`.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn at(&self, from: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        let bytes = unsafe { from.cast::<[u8; 2]>().read() };
        self.0[usize::from(u16::from_le_bytes(bytes))]
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
    x: &[Line],
    x_rows: usize,
    out: Columns,
) {
    let lines = stored.cols.next_multiple_of(PART) / 16;
    let ready = x_rows <= DIRECT_ROWS || stored.dtype == StorageDtype::F32;
    let in_place = ready && stored.cols.is_multiple_of(PART);
    let direct = in_place.then(|| (leaves.direct)(stored.dtype)).flatten();
    let halves = &*HALVES;
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.panel.resize(PANEL_ROWS * COLS, 0.0);
        scratch.sums.resize(PANEL_ROWS * X_ROWS, [0.0; 16]);
        for x_first in (0..x_rows).step_by(X_ROWS) {
            let x_count = X_ROWS.min(x_rows - x_first);
            let x = &x[x_first * lines..][..x_count * lines];
            for first in rows.clone().step_by(PANEL_ROWS) {
                let count = PANEL_ROWS.min(rows.end - first);
                for col in (0..stored.cols).step_by(COLS) {
                    let cols = COLS.min(stored.cols - col);
                    let last = col + cols == stored.cols;
                    let weights = Tile { first, count, col, cols };
                    let (w, w_stride, ahead) = match direct {
                        Some(_) => weights.in_place(stored),
                        None => weights.unpacked(leaves, stored, &mut scratch.panel),
                    };
                    let len = cols.next_multiple_of(PART);
                    for (group, x) in x.chunks(GROUP * lines).enumerate() {
                        let x_rows = x.len() / lines;
                        let x = x[col / 16 * x_rows..][..len / 16 * x_rows].as_ptr().cast();
                        let carried = &mut scratch.sums[GROUP * group * count..][..x_rows * count];
                        let to = (x_first + GROUP * group) * out.rows + first;
                        let sums = Sums {
                            carried: carried.as_mut_ptr(),
                            first: col == 0,
                            out: last.then(|| out.start.wrapping_add(to)),
                            stride: out.rows,
                        };
                        let w_rows = count;
                        let panel =
                            Panel { halves, w, ahead, w_stride, w_rows, x, x_rows, len, sums };
                        // SAFETY: the tile and the lines above checked that the panel's weights, x
                        // and carried sums lie within their slices; rows from x_first + 8 · group
                        // and columns from `first` are this call's own part of the output.
                        unsafe { direct.unwrap_or(leaves.multiply)(&panel) };
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
    /// Where the stored weights begin, and how many bytes lie from row to row and from here to what
    /// is wanted soon: the next columns of the same rows, or else the first ones of the next panel's,
    /// or, of rows that are read in one go, those a little further on.
    fn in_place(&self, stored: Stored<'_>) -> (*const u8, usize, usize) {
        let bytes_of = |cols: usize| cols / stored.dtype.block_len() * stored.dtype.block_bytes();
        let row_bytes = bytes_of(stored.cols);
        let rows = &stored.bytes[self.first * row_bytes..][..self.count * row_bytes];
        let from = bytes_of(self.col);
        let ahead = match self.col + self.cols < stored.cols {
            true => bytes_of(self.cols),
            false if self.col == 0 => ROWS_AHEAD * row_bytes,
            false => PANEL_ROWS * row_bytes - from,
        };
        (rows[from..].as_ptr(), row_bytes, ahead)
    }

    /// The tile's weights as f32, each row padded with zeros to whole parts; otherwise as
    /// [`Self::in_place`].
    fn unpacked(
        &self,
        leaves: &Leaves,
        stored: Stored<'_>,
        scratch: &mut [f32],
    ) -> (*const u8, usize, usize) {
        let bytes_of = |cols: usize| cols / stored.dtype.block_len() * stored.dtype.block_bytes();
        let (row_bytes, from, len) =
            (bytes_of(stored.cols), bytes_of(self.col), bytes_of(self.cols));
        let stride = self.cols.next_multiple_of(PART);
        let (_, _, ahead) = self.in_place(stored);
        for (row, out) in scratch.chunks_exact_mut(stride).take(self.count).enumerate() {
            let at = (self.first + row) * row_bytes + from;
            if let Some(next) = stored.bytes.get(at + ahead..at + ahead + len) {
                (leaves.prefetch)(next);
            }
            let (weights, padding) = out.split_at_mut(self.cols);
            (leaves.unpack)(stored.dtype, &stored.bytes[at..][..len], weights);
            padding.fill(0.0);
        }
        (scratch.as_ptr().cast(), 4 * stride, 0)
    }
}

/// A cache line of x: rows begin at one, so that no load straddles two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// x in groups of `GROUP` rows, each group column by column in steps of sixteen floats: the rows of
/// a group lie a constant distance apart. Columns are padded with zeros to whole parts.
fn packed(x: &[f32], cols: usize) -> Vec<Line> {
    let lines = cols.next_multiple_of(PART) / 16;
    let len = x.len() / cols * lines;
    let mut packed = Vec::with_capacity(len);
    let parts = Disjoint::new(&mut packed.spare_capacity_mut()[..len]);
    let groups: Vec<&[f32]> = x.chunks(GROUP * cols).collect();
    let pack = |i: usize| {
        // SAFETY: the lines of each group are its own.
        let out = unsafe { parts.part(i * GROUP * lines, groups[i].len() / cols * lines) };
        pack_group(groups[i], cols, out);
    };
    match groups.len() {
        0..4 => (0..groups.len()).for_each(pack),
        many => team::run(many, pack),
    }
    // SAFETY: every group wrote all of its lines.
    unsafe { packed.set_len(len) };
    packed
}

/// Writes every line of `out`.
fn pack_group(group: &[f32], cols: usize, out: &mut [MaybeUninit<Line>]) {
    let rows = group.len() / cols;
    for (i, row) in group.chunks_exact(cols).enumerate() {
        let (whole, rest) = row.as_chunks();
        let mut steps = out[i..].iter_mut().step_by(rows);
        for (values, step) in whole.iter().zip(steps.by_ref()) {
            step.write(Line(*values));
        }
        let mut last = [0.0; 16];
        last[..rest.len()].copy_from_slice(rest);
        for step in steps {
            step.write(Line(std::mem::take(&mut last)));
        }
    }
}
