//! Holds the inner loops of attention: one panel of `N` query lanes against a list of key tiles.
//!
//! Everything is laid out with the queries in the vector lanes (scores as `[key][lane]`, outputs
//! as `[d][lane]`): maxima, sums and masks then need no work across lanes, keys and values are
//! read as they lie, and every product is the same small kernel.

#![allow(clippy::needless_range_loop, reason = "lanes run over several arrays in step")]

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::plan::{TILE, Tile};
use crate::simd::{Registers, exp_below_zero, madd, simd};

/// The score of a pair whose key the query does not see. It is finite, so that differences of two stay finite.
const HIDDEN: f32 = -1e30;

/// The largest score of a lane that has seen nothing. It lies so far above [`HIDDEN`] that a hidden pair's
/// probability comes out as 0 without being asked for.
const NOTHING: f32 = -1e29;

/// Keys and values of one key head; rows are `k_row` and `v_row` apart.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) k_row: usize,
    pub(super) v_row: usize,
    pub(super) d: usize,
}

/// The keys that each lane sees: all below `prefix`, and two ranges `from..to`.
pub(super) struct Sight<const N: usize> {
    pub(super) prefix: usize,
    pub(super) from: [[i32; N]; 2],
    pub(super) to: [[i32; N]; 2],
}

/// A softmax under way: the maximum and the sum of each lane, and outputs `[d][N]` that are not divided by the sums
/// yet.
pub(super) struct State<const N: usize> {
    pub(super) max: [f32; N],
    pub(super) sum: [f32; N],
    pub(super) out: Vec<f32>,
}

impl<const N: usize> State<N> {
    pub(super) fn new(d: usize) -> Self {
        Self { max: [NOTHING; N], sum: [0.; N], out: vec![0.; d * N] }
    }

    pub(super) fn reset(&mut self) {
        (self.max, self.sum) = ([NOTHING; N], [0.; N]);
        self.out.fill(0.);
    }

    /// Joins this softmax with that of the same queries over other keys.
    pub(super) fn merge(&mut self, other: &Self) {
        let (mut own, mut others) = ([0f32; N], [0f32; N]);
        for lane in 0..N {
            let max = self.max[lane].max(other.max[lane]);
            own[lane] = (self.max[lane] - max).exp();
            others[lane] = (other.max[lane] - max).exp();
            self.max[lane] = max;
            self.sum[lane] = self.sum[lane] * own[lane] + other.sum[lane] * others[lane];
        }
        let rows = self.out.as_chunks_mut::<N>().0.iter_mut().zip(other.out.as_chunks::<N>().0);
        for (x, y) in rows {
            for lane in 0..N {
                x[lane] = x[lane] * own[lane] + y[lane] * others[lane];
            }
        }
    }
}

simd!(
    /// Adds the tiles' keys to `state`. `qt` holds the scaled queries, `[d][N]`.
    pub(super) fn attend<const N: usize>(
        keys: Keys<'_>,
        tiles: &[Tile],
        sight: &Sight<N>,
        qt: &[f32],
        state: &mut State<N>,
    ) = attend_body, Registers
);

#[inline(always)]
fn attend_body<const FMA: bool, const REGISTERS: usize, const N: usize>(
    keys: Keys<'_>,
    tiles: &[Tile],
    sight: &Sight<N>,
    qt: &[f32],
    state: &mut State<N>,
) {
    let mut scores = [[0f32; N]; TILE];
    for tile in tiles {
        let n = tile.keys.len();
        let scores = &mut scores[..n];
        score::<FMA, REGISTERS, N>(keys, tile, sight, qt, scores);
        let mut max = state.max;
        for row in scores.iter() {
            for lane in 0..N {
                max[lane] = if row[lane] > max[lane] { row[lane] } else { max[lane] };
            }
        }
        let (mut shrink, mut sum) = ([0f32; N], [0f32; N]);
        for lane in 0..N {
            shrink[lane] = exp_below_zero::<FMA>(state.max[lane] - max[lane]);
            sum[lane] = state.sum[lane] * shrink[lane];
        }
        for row in scores.iter_mut() {
            for lane in 0..N {
                row[lane] = exp_below_zero::<FMA>(row[lane] - max[lane]);
                sum[lane] += row[lane];
            }
        }
        (state.max, state.sum) = (max, sum);
        let v = &keys.v[tile.keys.start * keys.v_row..];
        let p = scores.as_flattened();
        let (d, a) = (keys.d, (1, keys.v_row));
        product::<FMA, REGISTERS, N>(d, n, v, a, p, N, &mut state.out, N, Some(&shrink));
    }
}

/// The memory that a panel's backward pass reads and writes besides the keys and values.
pub(super) struct Backward<'a, const N: usize> {
    /// Scaled queries and output gradients, `[d][N]`.
    pub(super) qt: &'a [f32],
    pub(super) d_out_t: &'a [f32],
    /// The same as rows `[N][width]`, zero beyond d.
    pub(super) q: &'a [f32],
    pub(super) d_out: &'a [f32],
    /// log Σ exp of each lane, and Σ out · d_out.
    pub(super) log_sum: [f32; N],
    pub(super) dot: [f32; N],
    /// Accumulators: d_queries before scaling `[d][N]`, d_keys and d_values `[kv_len][width]`.
    pub(super) d_qt: &'a mut [f32],
    pub(super) d_k: &'a mut [f32],
    pub(super) d_v: &'a mut [f32],
    pub(super) width: usize,
}

simd!(
    /// Recomputes the tiles' probabilities and adds the panel's share of all three gradients.
    pub(super) fn backward<const N: usize>(
        keys: Keys<'_>,
        tiles: &[Tile],
        sight: &Sight<N>,
        io: &mut Backward<'_, N>,
    ) = backward_body, Registers
);

#[inline(always)]
fn backward_body<const FMA: bool, const REGISTERS: usize, const N: usize>(
    keys: Keys<'_>,
    tiles: &[Tile],
    sight: &Sight<N>,
    io: &mut Backward<'_, N>,
) {
    let (mut p, mut ds) = ([[0f32; N]; TILE], [[0f32; N]; TILE]);
    let d = keys.d;
    for tile in tiles {
        let (n, first) = (tile.keys.len(), tile.keys.start);
        let (p, ds) = (&mut p[..n], &mut ds[..n]);
        score::<FMA, REGISTERS, N>(keys, tile, sight, io.qt, p);
        let v = &keys.v[first * keys.v_row..];
        let d_out_t = io.d_out_t;
        let ds_out = ds.as_flattened_mut();
        product::<FMA, REGISTERS, N>(n, d, v, (keys.v_row, 1), d_out_t, N, ds_out, N, None);
        for (p, ds) in p.iter_mut().zip(ds.iter_mut()) {
            for lane in 0..N {
                let e = exp_below_zero::<FMA>(p[lane] - io.log_sum[lane]);
                // Not `>`: NaN must come through, but not to keys that are hidden.
                p[lane] = if p[lane] <= NOTHING { 0. } else { e };
                ds[lane] = p[lane] * (ds[lane] - io.dot[lane]);
            }
        }
        let (p, ds) = (p.as_flattened(), ds.as_flattened());
        let k = &keys.k[first * keys.k_row..];
        product::<FMA, REGISTERS, N>(d, n, k, (1, keys.k_row), ds, N, io.d_qt, N, Some(&[1.; N]));
        let mut column = 0;
        while column < io.width {
            if REGISTERS == Registers::AVX512 && column + 32 <= io.width {
                add_to_keys::<FMA, REGISTERS, N, 32>(n, first, column, p, ds, io);
                column += 32;
            } else {
                add_to_keys::<FMA, REGISTERS, N, 16>(n, first, column, p, ds, io);
                column += 16;
            }
        }
    }
}

/// Adds `C` columns of pᵀ · d_out to d_values and of dsᵀ · q to d_keys, for `n` keys.
#[inline(always)]
fn add_to_keys<const FMA: bool, const REGISTERS: usize, const N: usize, const C: usize>(
    n: usize,
    first: usize,
    column: usize,
    p: &[f32],
    ds: &[f32],
    io: &mut Backward<'_, N>,
) {
    let (width, at) = (io.width, first * io.width + column);
    let (q, d_out) = (&io.q[column..], &io.d_out[column..]);
    let d_v = &mut io.d_v[at..];
    product::<FMA, REGISTERS, C>(n, N, p, (N, 1), d_out, width, d_v, width, Some(&[1.; C]));
    let d_k = &mut io.d_k[at..];
    product::<FMA, REGISTERS, C>(n, N, ds, (N, 1), q, width, d_k, width, Some(&[1.; C]));
}

/// scores\[key\]\[lane\] = k · q, hidden pairs set to [`HIDDEN`].
#[inline(always)]
fn score<const FMA: bool, const REGISTERS: usize, const N: usize>(
    keys: Keys<'_>,
    tile: &Tile,
    sight: &Sight<N>,
    qt: &[f32],
    scores: &mut [[f32; N]],
) {
    let k = &keys.k[tile.keys.start * keys.k_row..];
    let (n, out) = (scores.len(), scores.as_flattened_mut());
    product::<FMA, REGISTERS, N>(n, keys.d, k, (keys.k_row, 1), qt, N, out, N, None);
    if tile.full {
        return;
    }
    for (row, key) in scores.iter_mut().zip(tile.keys.clone()) {
        if key < sight.prefix {
            continue;
        }
        let key = key as i32;
        for lane in 0..N {
            let first = (key >= sight.from[0][lane]) & (key < sight.to[0][lane]);
            let second = (key >= sight.from[1][lane]) & (key < sight.to[1][lane]);
            row[lane] = if first | second { row[lane] } else { HIDDEN };
        }
    }
}

/// Computes C = A · B, plus the old C times `keep` (a factor for each lane) if there is one. A is m × k with strides
/// (`row`, `step`), B is k × N and C is m × N, with rows `b_row` and `c_row` apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
fn product<const FMA: bool, const REGISTERS: usize, const N: usize>(
    m: usize,
    k: usize,
    a: &[f32],
    (row, step): (usize, usize),
    b: &[f32],
    b_row: usize,
    c: &mut [f32],
    c_row: usize,
    keep: Option<&[f32; N]>,
) {
    assert!(m > 0 && k > 0 && a.len() > (m - 1) * row + (k - 1) * step);
    assert!(b.len() >= (k - 1) * b_row + N && c.len() >= (m - 1) * c_row + N);
    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    let mut done = 0;
    macro_rules! rows {
        ($rows:literal) => {{
            // SAFETY: rows done..done + $rows lie below m, which the assertions above cover.
            unsafe {
                let (a, c) = (a.add(done * row), c.add(done * c_row));
                // `REGISTERS` has this value only where AVX-512 was found.
                #[cfg(target_arch = "x86_64")]
                if REGISTERS == Registers::AVX512 {
                    avx512::micro::<$rows, N>(k, a, row, step, b, b_row, c, c_row, keep);
                } else {
                    micro::<FMA, $rows, N>(k, a, row, step, b, b_row, c, c_row, keep);
                }
                #[cfg(not(target_arch = "x86_64"))]
                micro::<FMA, $rows, N>(k, a, row, step, b, b_row, c, c_row, keep);
            }
            done += $rows;
        }};
    }
    // Blocks have as many accumulators as the registers hold beside a row of B, then ever fewer.
    macro_rules! blocks {
        ($($rows:literal)*) => {{ $(while m - done >= $rows { rows!($rows); })* }};
    }
    match (REGISTERS, N) {
        (Registers::AVX512, 32) => blocks!(12 8 4 2 1),
        (Registers::AVX512, _) => blocks!(14 8 4 2 1),
        // Sixteen registers have 8 lanes each with AVX2, and 4 without.
        _ if !FMA && cfg!(target_arch = "x86_64") => blocks!(2 1),
        (_, 8) => blocks!(8 4 3 2 1),
        _ => blocks!(6 4 3 2 1),
    }
    debug_assert_eq!(done, m);
}

/// # Safety
/// As the assertions of [`product`] with m = `M`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
unsafe fn micro<const FMA: bool, const M: usize, const N: usize>(
    k: usize,
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    keep: Option<&[f32; N]>,
) {
    let mut sums = [[0f32; N]; M];
    for p in 0..k {
        // SAFETY: row p < k of B holds N elements; [f32; N] needs no more alignment than f32.
        let b = unsafe { *b.add(p * b_row).cast::<[f32; N]>() };
        for i in 0..M {
            // SAFETY: element (i, p) of A, i < M and p < k.
            let x = unsafe { *a.add(i * row + p * step) };
            for lane in 0..N {
                sums[i][lane] = madd::<FMA>(x, b[lane], sums[i][lane]);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: row i < M of C holds N elements, and C is borrowed mutably by the caller.
        let c = unsafe { &mut *c.add(i * c_row).cast::<[f32; N]>() };
        match keep {
            Some(keep) => {
                for lane in 0..N {
                    c[lane] = madd::<FMA>(c[lane], keep[lane], sums[lane]);
                }
            }
            None => *c = *sums,
        }
    }
}
