//! Multiplies some weight rows with some rows of x, in a register block of running sums.

use super::dtype::StorageDtype;
use super::formats::{self, Format};
use super::matmul::{GROUP, Line, PANEL_ROWS, PART};
use super::quant;
use crate::simd::{Detected, Halves, Kernel, Rows, Vector, run};
use crate::spin::Columns;

/// `w_rows` rows of `len` weights, at most [`PANEL_ROWS`], against `x_rows` rows of x, at most [`GROUP`].
pub(super) struct Panel<'a, 'out, T> {
    pub(super) halves: &'static Halves,
    /// Rows of weights, `w_stride` units apart; `len` is a multiple of [`PART`] and of the block.
    pub(super) w: &'a [T],
    pub(super) w_stride: usize,
    pub(super) w_rows: usize,
    /// Bytes from a weight to the place that is prefetched, which need not exist.
    pub(super) ahead: usize,
    /// `[len / 16][x_rows]` lines.
    pub(super) x: &'a [Line],
    pub(super) x_rows: usize,
    pub(super) len: usize,
    pub(super) sums: Sums<'a, 'out>,
}

/// Running sums `[w_rows, x_rows]` between one part of the columns and the next.
pub(super) struct Sums<'a, 'out> {
    /// The lanes of each, of which AVX2 and portable loops use the first eight.
    pub(super) carried: &'a mut [Line],
    /// True if these are the first columns, so that the sums begin at zero.
    pub(super) first: bool,
    /// After the last columns the sums are folded, and results go to their columns from this row of x on.
    pub(super) results: Option<(&'a mut Columns<'out>, usize)>,
}

/// Adds a panel's products over some columns to the running sums.
pub(super) type Multiply<T> = for<'a, 'out> fn(Detected, Panel<'a, 'out, T>);

/// The product of unpacked weights.
pub(super) fn of_unpacked(isa: Detected, panel: Panel<'_, '_, f32>) {
    multiply::<formats::Unpacked>(isa, panel);
}

/// Gives the product of weights as they are stored with so many rows of x, if that is the faster way and there is a
/// loop for the format with these instructions; each costs time to compile, so rare formats and portable loops have none.
pub(super) fn of_stored(isa: Detected, dtype: StorageDtype, x_rows: usize) -> Option<Multiply<u8>> {
    if x_rows > run(isa, MostRows(dtype)) {
        return None;
    }
    Some(match dtype {
        StorageDtype::F32 => multiply::<formats::F32>,
        StorageDtype::F16 => multiply::<formats::F16>,
        StorageDtype::BF16 => multiply::<formats::BF16>,
        StorageDtype::Q4_0 => multiply::<formats::Q4_0>,
        StorageDtype::Q4_1 => multiply::<formats::Q4_1>,
        StorageDtype::Q8_0 => multiply::<formats::Q8_0>,
        StorageDtype::Q4K => multiply::<formats::Q4K>,
        StorageDtype::Q6K => multiply::<formats::Q6K>,
        _ => return None,
    })
}

/// Gives the most rows of x that are multiplied with the weights where they lie. With more an unpacked copy in the
/// cache serves them better, the sooner the more unpacking costs. Measured with AVX-512, where the registers hold
/// unpacked weights beside the sums; elsewhere one number has to do.
struct MostRows(StorageDtype);

impl Kernel for MostRows {
    type Output = usize;

    #[inline(always)]
    fn run<V: Vector>(self) -> usize {
        match self.0 {
            _ if !V::READS_STORED => 0,
            StorageDtype::F32 => usize::MAX,
            _ if V::REGISTERS < 32 => 16,
            StorageDtype::F16 | StorageDtype::BF16 => 32,
            StorageDtype::Q4K | StorageDtype::Q6K => 15,
            _ => 24,
        }
    }
}

/// Unpacks whole blocks: `src` holds the bytes of `dst.len()` weights.
pub(super) fn unpack(isa: Detected, dtype: StorageDtype, src: &[u8], dst: &mut [f32]) {
    match dtype {
        StorageDtype::F64 => quant::dequantize(dtype, src, dst),
        StorageDtype::F32 => unpack_as::<formats::F32>(isa, dtype, src, dst),
        StorageDtype::F16 => unpack_as::<formats::F16>(isa, dtype, src, dst),
        StorageDtype::BF16 => unpack_as::<formats::BF16>(isa, dtype, src, dst),
        StorageDtype::Q4_0 => unpack_as::<formats::Q4_0>(isa, dtype, src, dst),
        StorageDtype::Q4_1 => unpack_as::<formats::Q4_1>(isa, dtype, src, dst),
        StorageDtype::Q5_0 => unpack_as::<formats::Q5_0>(isa, dtype, src, dst),
        StorageDtype::Q5_1 => unpack_as::<formats::Q5_1>(isa, dtype, src, dst),
        StorageDtype::Q8_0 => unpack_as::<formats::Q8_0>(isa, dtype, src, dst),
        StorageDtype::Q2K => unpack_as::<formats::Q2K>(isa, dtype, src, dst),
        StorageDtype::Q3K => unpack_as::<formats::Q3K>(isa, dtype, src, dst),
        StorageDtype::Q4K => unpack_as::<formats::Q4K>(isa, dtype, src, dst),
        StorageDtype::Q5K => unpack_as::<formats::Q5K>(isa, dtype, src, dst),
        StorageDtype::Q6K => unpack_as::<formats::Q6K>(isa, dtype, src, dst),
    }
}

fn unpack_as<F: Format<Unit = u8>>(
    isa: Detected,
    dtype: StorageDtype,
    src: &[u8],
    dst: &mut [f32],
) {
    let done = dst.len() / (PART * F::PARTS) * F::PARTS;
    let bytes = done / F::PARTS * size_of::<F::Block>();
    let (whole, rest) = dst.split_at_mut(done * PART);
    let (blocks, weights) = (F::blocks(&src[..bytes]), whole.as_chunks_mut().0);
    run(isa, Unpack::<F> { blocks, weights });
    quant::dequantize(dtype, &src[bytes..], rest);
}

struct Unpack<'a, F: Format> {
    blocks: &'a [F::Block],
    weights: &'a mut [[f32; PART]],
}

impl<F: Format> Kernel for Unpack<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let halves = Halves::table();
        for (block, weights) in self.blocks.iter().zip(self.weights.chunks_exact_mut(F::PARTS)) {
            let scales = F::scales::<V>(block, halves);
            for (part, weights) in weights.iter_mut().enumerate() {
                for step in 0..PART / V::LANES {
                    let at = step * V::LANES;
                    F::weights::<V>(block, &scales, part, at).store(&mut weights[at..]);
                }
            }
        }
    }
}

fn multiply<F: Format>(isa: Detected, panel: Panel<'_, '_, F::Unit>) {
    run(isa, Product::<F> { panel });
}

struct Product<'a, 'out, F: Format> {
    panel: Panel<'a, 'out, F::Unit>,
}

impl<F: Format> Kernel for Product<'_, '_, F> {
    type Output = ();

    /// As many weight rows at a time as the registers hold beside what unpacking needs.
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        if !V::READS_STORED && !F::UNPACKED {
            unreachable!("`of_stored` gives no product of stored weights");
        }
        let panel = &mut self.panel;
        let many = V::REGISTERS >= 32;
        match panel.x_rows {
            1 => rows::<V, F, 4, 1>(panel),
            2 if many => rows::<V, F, 4, 2>(panel),
            2 => rows::<V, F, 3, 2>(panel),
            3 if many => rows::<V, F, 4, 3>(panel),
            3 => rows::<V, F, 2, 3>(panel),
            4 if many => rows::<V, F, 4, 4>(panel),
            4 => rows::<V, F, 2, 4>(panel),
            5 if many => rows::<V, F, 3, 5>(panel),
            5 => rows::<V, F, 1, 5>(panel),
            6 if many => rows::<V, F, 3, 6>(panel),
            6 => rows::<V, F, 1, 6>(panel),
            7 if many && F::SCALED => rows::<V, F, 2, 7>(panel),
            7 if many => rows::<V, F, 3, 7>(panel),
            7 => rows::<V, F, 1, 7>(panel),
            GROUP if many && F::SCALED => rows::<V, F, 2, 8>(panel),
            GROUP if many => rows::<V, F, 3, 8>(panel),
            GROUP => rows::<V, F, 1, 8>(panel),
            rows => unreachable!("a group of {rows} rows"),
        }
    }
}

/// A panel's results for X rows of x.
///
/// They begin with a cache line, and with them the frame in which compilers keep the vectors that find no register: one
/// that straddles two lines, as chance would have it, makes a product half as long again.
#[repr(C, align(64))]
struct Results<const X: usize>([[f32; PANEL_ROWS]; X]);

/// All weight rows against the X rows of x, W weight rows at a time.
#[inline(always)]
fn rows<V: Vector, F: Format, const W: usize, const X: usize>(panel: &mut Panel<'_, '_, F::Unit>) {
    let mut results = Results([[0.; PANEL_ROWS]; X]);
    let mut row = 0;
    while row + W <= panel.w_rows {
        block::<V, F, W, X>(panel, row, &mut results);
        row += W;
    }
    while row < panel.w_rows {
        block::<V, F, 1, X>(panel, row, &mut results);
        row += 1;
    }
    if let Some((columns, first)) = &mut panel.sums.results {
        for (i, results) in results.0.iter().enumerate() {
            columns.push(*first + i, &results[..panel.w_rows]);
        }
    }
}

/// W × X running sums in registers; each weight is unpacked once for X rows of x. Behind the last columns the sums are
/// folded into the panel's results `[X, w_rows]`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "rows and what belongs to them share their number")]
fn block<V: Vector, F: Format, const W: usize, const X: usize>(
    panel: &mut Panel<'_, '_, F::Unit>,
    w_row: usize,
    folded: &mut Results<X>,
) {
    let blocks = panel.len / (PART * F::PARTS);
    let rows = Rows::<F::Block, W>::new(&panel.w[w_row * panel.w_stride..], panel.w_stride, blocks);
    let mut lanes = [[V::splat(0.); W]; X];
    let Sums { carried, first, results } = &mut panel.sums;
    let carried: &mut [[Line; X]; W] =
        carried[w_row * X..].as_chunks_mut().0.first_chunk_mut().expect("sums of each row");
    if !*first {
        for i in 0..X {
            for j in 0..W {
                lanes[i][j] = V::load(&carried[j][i].0);
            }
        }
    }
    let parts: &[[[Line; X]; 2]] = panel.x.as_chunks().0.as_chunks().0;
    for (column, x) in rows.beside(parts, F::PARTS) {
        // Not `from_fn`: what a closure calls might not be inlined.
        let mut scales = [F::scales::<V>(column.row(0), panel.halves); W];
        for j in 1..W {
            scales[j] = F::scales(column.row(j), panel.halves);
        }
        let mut part = 0;
        while part < F::PARTS {
            // Not a loop: what a format does at a constant place is less, and compilers would not unroll it.
            macro_rules! step {
                ($part:expr, $at:literal) => {{
                    let part = $part;
                    let mut weights = [V::splat(0.); W];
                    for j in 0..W {
                        weights[j] = F::weights(column.row(j), &scales[j], part, $at);
                    }
                    if $at % 16 == 0 && ($at == 0 || size_of::<F::Block>() == 4 * PART) {
                        let line = size_of::<F::Block>() * part / F::PARTS + 4 * $at;
                        for j in 0..W {
                            let block = (&raw const *column.row(j)).cast();
                            prefetch::<V, F, X>(block, panel.ahead + line);
                        }
                    }
                    for i in 0..X {
                        let x = V::load(&x[part][$at / 16][i].0[$at % 16..]);
                        for j in 0..W {
                            lanes[i][j] = weights[j].mul_add(x, lanes[i][j]);
                        }
                    }
                }};
                ($part:expr) => {{
                    step!($part, 0);
                    if V::LANES < 16 {
                        step!($part, 8);
                    }
                    step!($part, 16);
                    if V::LANES < 16 {
                        step!($part, 24);
                    }
                }};
            }
            step!(part);
            if F::TWO_IN_BYTES {
                step!(part + 1);
                part += 1;
            }
            part += 1;
        }
    }
    if results.is_some() {
        return fold(&lanes, w_row, folded);
    }
    for i in 0..X {
        for j in 0..W {
            lanes[i][j].store(&mut carried[j][i].0);
        }
    }
}

/// Asks for the place `ahead` of a block.
///
/// With AVX-512 into the second-level cache, where X is large, because so many products hide that cache's delay, or
/// the weights are floats, which wait for memory alone: few lines can be on their way into the first-level cache at
/// once, and on some processors (AMD's Zen 4) no more than demand loads ask for anyway.
#[inline(always)]
fn prefetch<V: Vector, F: Format, const X: usize>(block: *const u8, ahead: usize) {
    let next = block.wrapping_add(ahead);
    if V::LANES == 16 && (X > 4 || !F::SCALED) {
        V::prefetch_second(next)
    } else {
        V::prefetch(next)
    }
}

/// Folds running sums `[X, W]` to the results of weight row `w_row` and those after it.
#[inline(always)]
fn fold<V: Vector, const W: usize, const X: usize>(
    lanes: &[[V; W]; X],
    w_row: usize,
    Results(results): &mut Results<X>,
) {
    assert!(w_row <= PANEL_ROWS - W, "a row of the panel");
    for four in 0..(X * W).div_ceil(4) {
        let mut sums = [V::splat(0.); 4];
        for (at, sums) in (4 * four..X * W).zip(&mut sums) {
            *sums = lanes[at / W][at % W];
        }
        for (at, sum) in (4 * four..X * W).zip(V::sums(sums)) {
            results[at / W][w_row + at % W] = sum;
        }
    }
}
