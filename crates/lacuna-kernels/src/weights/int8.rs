//! Multiplies packed weights with activations of eight bits: faster for many rows, and not exact.
//!
//! y[m, n] = Σ_b s[m, b] · (scale[n, b] · Σ_k c[n, k] · q[m, k] + offset[n, b] · Σ_k q[m, k]), over blocks
//! b of 32 columns: activations are s · q with q in −127..=127 ([`Rounded`]), weights are
//! scale · c + offset with small whole numbers c ([`codes`]), and the inner sum is one of integers. So a
//! result is the product of the weights with rounded activations, up to roundings of f32.
//!
//! Sixteen weight rows (eight without AVX-512) lie side by side, four columns of one row to a lane, so a
//! lane is an output and nothing is folded. **An output's bits depend on its row of x and its row of w**,
//! as in [`super::matmul`]: its blocks are added one after another.

mod codes;
mod rounded;

pub(super) use codes::has_codes;
pub(super) use rounded::rounded_values;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use codes::Codes;
use rounded::{Block, Rounded};

use super::dtype::StorageDtype;
use super::matmul::{Stored, in_tasks};
use crate::backend::Isa;
use crate::simd::{ByteKernel, Detected, Dot, Halves, run_bytes};
use crate::spin::Columns;

/// Rows of x that lie together: a part of their columns stays in the first-level cache.
const GROUP: usize = 16;
/// Rows of x in a register block where registers are few; groups are padded to a multiple of it.
const FEW: usize = 4;
/// Blocks of columns multiplied at a time: their codes and scales stay in the first-level cache.
const BLOCKS: usize = 32;
/// Rows of x multiplied with one panel: a part of their columns stays in the second-level cache.
const X_ROWS: usize = 512;
/// Weight rows in one piece of work.
const TASK_ROWS: usize = 64;
/// Lanes of the widest vectors.
const LANES: usize = 16;

/// The products of x `[x_rows, cols]`, rounded, with each matrix, each `[x_rows, rows]`, in one parallel region.
/// Every matrix has `cols` columns and a format that [`has_codes`].
pub(super) fn products(stored: &[Stored<'_>], x: &[f32], cols: usize, isa: Isa) -> Vec<Vec<f32>> {
    let isa = Detected::from(isa);
    let x = &Rounded::new(x, cols, isa);
    in_tasks(stored, x.rows, TASK_ROWS, |stored, first, out| {
        SCRATCH.with_borrow_mut(|scratch| {
            let task = Task { stored, first, x, out, scratch };
            match stored.dtype {
                StorageDtype::Q4_0 => run_bytes(isa, Of::<codes::Q4_0>::new(task)),
                StorageDtype::Q4_1 => run_bytes(isa, Of::<codes::Q4_1>::new(task)),
                StorageDtype::Q8_0 => run_bytes(isa, Of::<codes::Q8_0>::new(task)),
                StorageDtype::Q4K => run_bytes(isa, Of::<codes::Q4K>::new(task)),
                StorageDtype::Q6K => run_bytes(isa, Of::<codes::Q6K>::new(task)),
                dtype => unreachable!("{dtype} has no codes"),
            }
        });
    })
}

/// The memory that a thread keeps from task to task: a panel, and the sums of a task.
#[derive(Default)]
struct Scratch {
    panel: Panel,
    /// The sums so far, `[panel][x row][lane]`: a lane is a row of weights.
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// [`BLOCKS`] blocks of columns, of as many weight rows as there are lanes.
#[derive(Default)]
struct Panel {
    /// The codes, four columns to a word, `[block][four columns][lane]`.
    codes: Vec<u32>,
    /// The scales, and beside them the offsets, `[block][half][lane]`.
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

/// One task: to write the output columns that begin with row `first` of the weights.
struct Task<'a, 'o> {
    stored: Stored<'a>,
    first: usize,
    x: &'a Rounded,
    out: &'a mut Columns<'o>,
    scratch: &'a mut Scratch,
}

/// A task for one format, so that a loop is compiled for it.
struct Of<'a, 'o, C> {
    task: Task<'a, 'o>,
    codes: PhantomData<C>,
}

impl<'a, 'o, C> Of<'a, 'o, C> {
    fn new(task: Task<'a, 'o>) -> Self {
        Self { task, codes: PhantomData }
    }
}

impl<C: Codes> ByteKernel for Of<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Dot>(self) {
        let Task { stored, first, x, out, scratch: Scratch { panel, sums } } = self.task;
        let panels = out.width().div_ceil(V::LANES);
        sums.resize(sums.len().max(panels * X_ROWS * V::LANES), 0.);
        panel.make_room();
        for x_first in (0..x.rows).step_by(X_ROWS) {
            let x_rows = X_ROWS.min(x.rows - x_first);
            // The rows that fill up the last group have sums too, which nobody reads.
            let padded = x_rows.next_multiple_of(FEW);
            let sums = &mut sums[..panels * padded * V::LANES];
            sums.fill(0.);
            for block in (0..x.blocks).step_by(BLOCKS) {
                let blocks = BLOCKS.min(x.blocks - block);
                for (p, sums) in sums.chunks_exact_mut(padded * V::LANES).enumerate() {
                    panel.unpack::<C>(
                        stored,
                        first + p * V::LANES,
                        block..block + blocks,
                        V::LANES,
                    );
                    for (g, sums) in sums.chunks_mut(GROUP * V::LANES).enumerate() {
                        let rows = sums.len() / V::LANES;
                        let group = x.group(x_first + g * GROUP);
                        let group = &group[block * rows..][..blocks * rows];
                        add::<V, C>(panel, group, sums);
                    }
                }
            }
            let mut row = [0.; TASK_ROWS];
            for x_row in 0..x_rows {
                for p in 0..panels {
                    let lanes = &sums[(p * padded + x_row) * V::LANES..][..V::LANES];
                    row[p * V::LANES..][..V::LANES].copy_from_slice(lanes);
                }
                out.push(x_first + x_row, &row[..out.width()]);
            }
        }
    }
}

impl Panel {
    fn make_room(&mut self) {
        self.codes.resize(BLOCKS * 8 * LANES, 0);
        self.scales.resize(BLOCKS * 2 * LANES, 0.);
        self.offsets.resize(BLOCKS * 2 * LANES, 0.);
    }

    /// The blocks of columns `columns` of `lanes` weight rows from `first` on; lanes beyond the last row
    /// hold that row again.
    #[inline(always)]
    fn unpack<C: Codes>(
        &mut self,
        stored: Stored<'_>,
        first: usize,
        columns: Range<usize>,
        lanes: usize,
    ) {
        let halves = Halves::table();
        let row_bytes = stored.bytes.len() / stored.rows;
        for lane in 0..lanes {
            let row = (first + lane).min(stored.rows - 1);
            let blocks = C::blocks(&stored.bytes[row * row_bytes..][..row_bytes]);
            let blocks = &blocks[columns.start / C::PARTS..columns.end / C::PARTS];
            for (at, block) in blocks.iter().enumerate() {
                let (scales, offsets) = C::scales(block, halves);
                for part in 0..C::PARTS {
                    let column = at * C::PARTS + part;
                    let to = &mut self.codes[column * 8 * lanes + lane..];
                    for (four, to) in
                        C::codes(block, part).into_iter().zip(to.iter_mut().step_by(lanes))
                    {
                        *to = four;
                    }
                    for half in 0..C::HALVES {
                        let to = (column * C::HALVES + half) * lanes + lane;
                        self.scales[to] = scales[part * C::HALVES + half];
                        self.offsets[to] = offsets[part * C::HALVES + half];
                    }
                }
            }
        }
    }
}

/// Adds a panel's products with a group of rows to their sums `[row][lane]`.
#[inline(always)]
fn add<V: Dot, C: Codes>(panel: &Panel, group: &[Block], sums: &mut [f32]) {
    let rows = sums.len() / V::LANES;
    let mut first = 0;
    while V::REGISTERS >= 32 && first + 8 <= rows {
        add_rows::<V, C, 8>(panel, group, first, sums);
        first += 8;
    }
    while first < rows {
        add_rows::<V, C, FEW>(panel, group, first, sums);
        first += FEW;
    }
}

/// [`add`] for the X rows from `first` on.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "rows and what belongs to them share their number")]
fn add_rows<V: Dot, C: Codes, const X: usize>(
    panel: &Panel,
    group: &[Block],
    first: usize,
    sums: &mut [f32],
) {
    let rows = sums.len() / V::LANES;
    let mut totals = [V::splat(0.); X];
    for i in 0..X {
        totals[i] = V::load(&sums[(first + i) * V::LANES..]);
    }
    let codes = panel.codes.chunks_exact(8 * V::LANES);
    let scales = panel.scales.chunks_exact(C::HALVES * V::LANES);
    let offsets = panel.offsets.chunks_exact(C::HALVES * V::LANES);
    let columns = group.chunks_exact(rows).zip(codes).zip(scales).zip(offsets);
    for (((x, codes), scales), offsets) in columns {
        let x: &[Block; X] = x[first..].first_chunk().expect("a register block's rows");
        for half in 0..C::HALVES {
            let scale = V::load(&scales[half * V::LANES..]);
            let offset = V::load(&offsets[half * V::LANES..]);
            for i in 0..X {
                let mut dot = V::none();
                for four in half * 8 / C::HALVES..(half + 1) * 8 / C::HALVES {
                    let codes = V::load_bytes(&codes[four * V::LANES..]);
                    let q = x[i].q[four];
                    dot = if C::WIDE { V::dot_wide(dot, codes, q) } else { V::dot(dot, codes, q) };
                }
                let sum = if C::HALVES == 1 { x[i].sum } else { x[i].half_sums[half] };
                let scaled = V::to_f32(dot).mul(V::splat(x[i].scale));
                totals[i] = scaled.mul_add(scale, totals[i]);
                totals[i] = offset.mul_add(V::splat(sum), totals[i]);
            }
        }
    }
    for i in 0..X {
        totals[i].store(&mut sums[(first + i) * V::LANES..]);
    }
}
