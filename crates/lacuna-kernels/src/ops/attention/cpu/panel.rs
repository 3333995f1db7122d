//! Holds the inner loops of attention: one panel of `N` query lanes against a list of key tiles.
//!
//! Everything is laid out with the queries in the vector lanes (scores as `[key][lane]`, outputs
//! as `[d][lane]`): maxima, sums and masks then need no work across lanes, keys and values are
//! read as they lie, and every product is the same small kernel.

#![allow(clippy::needless_range_loop, reason = "lanes run over several arrays in step")]

use super::block::{Single, Sums, Wide, product};
use super::plan::{TILE, Tile};
use super::unpack::Packed;
use crate::simd::{Kernel, Vector, exp_below_zero};

/// The score of a pair whose key the query does not see. It is finite, so that differences of two stay finite.
const HIDDEN: f32 = -1e30;

/// The largest score of a lane that has seen nothing. It lies so far above [`HIDDEN`] that a hidden pair's
/// probability comes out as 0 without being asked for.
const NOTHING: f32 = -1e29;

/// Keys and values of one key head.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) k: KeyRows<'a>,
    pub(super) v: KeyRows<'a>,
    pub(super) d: usize,
}

/// Keys or values of one key head: floats with the distance from row to row, or as a cache packs them.
#[derive(Clone, Copy)]
pub(super) enum KeyRows<'a> {
    Exact { values: &'a [f32], row: usize },
    Packed(Packed<'a>),
}

impl KeyRows<'_> {
    /// The rows of a tile, and the distance from row to row; packed ones are unpacked into `room`.
    #[inline(always)]
    fn tile<'b, V: Vector>(
        &'b self,
        tile: &Tile,
        d: usize,
        room: &'b mut [f32],
    ) -> (&'b [f32], usize) {
        match self {
            Self::Exact { values, row } => (&values[tile.keys.start * row..], *row),
            Self::Packed(packed) => {
                let room = &mut room[..tile.keys.len() * d];
                packed.unpack::<V>(tile.keys.clone(), d, room);
                (room, d)
            }
        }
    }
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

/// Adds tiles of keys to a softmax under way.
pub(super) struct Attend<'a, const N: usize> {
    pub(super) keys: Keys<'a>,
    pub(super) tiles: &'a [Tile],
    pub(super) sight: Sight<N>,
    /// The scaled queries, `[d][N]`.
    pub(super) qt: &'a [f32],
    pub(super) state: &'a mut State<N>,
    /// Room for [`TILE`] rows, if keys or values are packed.
    pub(super) room: &'a mut [f32],
}

impl<const N: usize> Kernel for Attend<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::FUSED { attend::<V, true, N>(self) } else { attend::<V, false, N>(self) }
    }
}

#[inline(always)]
fn attend<V: Vector, const FMA: bool, const N: usize>(task: Attend<'_, N>) {
    let Attend { keys, tiles, sight, qt, state, room } = task;
    let mut scores = [[0f32; N]; TILE];
    for tile in tiles {
        let n = tile.keys.len();
        let scores = &mut scores[..n];
        let k = keys.k.tile::<V>(tile, keys.d, room);
        score::<V, N>(k, keys.d, tile, &sight, qt, scores);
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
        let (values, column) = keys.v.tile::<V>(tile, keys.d, room);
        let v = Single { values, row: 1, column };
        let p = Wide { values: scores.as_flattened(), row: N };
        let mut out = Sums { values: &mut state.out, row: N, keep: Some(&shrink) };
        product::<V, N>((keys.d, n), v, p, &mut out);
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

/// Recomputes the tiles' probabilities and adds the panel's share of all three gradients.
pub(super) struct Gradients<'a, 'b, const N: usize> {
    pub(super) keys: Keys<'a>,
    pub(super) tiles: &'a [Tile],
    pub(super) sight: Sight<N>,
    pub(super) io: &'a mut Backward<'b, N>,
}

impl<const N: usize> Kernel for Gradients<'_, '_, N> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::FUSED { backward::<V, true, N>(self) } else { backward::<V, false, N>(self) }
    }
}

#[inline(always)]
fn backward<V: Vector, const FMA: bool, const N: usize>(task: Gradients<'_, '_, N>) {
    let Gradients { keys, tiles, sight, io } = task;
    let (mut p, mut ds) = ([[0f32; N]; TILE], [[0f32; N]; TILE]);
    // Copies, of which the compiler knows that no store below reaches them.
    let (log_sum, dot) = (io.log_sum, io.dot);
    let d = keys.d;
    for tile in tiles {
        let (n, first) = (tile.keys.len(), tile.keys.start);
        let (p, ds) = (&mut p[..n], &mut ds[..n]);
        // Gradients are formed of exact keys alone.
        let (k, k_row) = keys.k.tile::<V>(tile, d, &mut []);
        score::<V, N>((k, k_row), d, tile, &sight, io.qt, p);
        let (v, v_row) = keys.v.tile::<V>(tile, d, &mut []);
        let v = Single { values: v, row: v_row, column: 1 };
        let d_out = Wide { values: io.d_out_t, row: N };
        let mut d_p = Sums { values: ds.as_flattened_mut(), row: N, keep: None };
        product::<V, N>((n, d), v, d_out, &mut d_p);
        for (p, ds) in p.iter_mut().zip(ds.iter_mut()) {
            for lane in 0..N {
                let e = exp_below_zero::<FMA>(p[lane] - log_sum[lane]);
                // Not `>`: NaN must come through, but not to keys that are hidden.
                p[lane] = if p[lane] <= NOTHING { 0. } else { e };
                ds[lane] = p[lane] * (ds[lane] - dot[lane]);
            }
        }
        let (p, ds) = (p.as_flattened(), ds.as_flattened());
        let k = Single { values: k, row: 1, column: k_row };
        let mut d_q = Sums { values: io.d_qt, row: N, keep: Some(&[1.; N]) };
        product::<V, N>((d, n), k, Wide { values: ds, row: N }, &mut d_q);
        let mut column = 0;
        while column < io.width {
            if V::LANES == 16 && column + 32 <= io.width {
                add_to_keys::<V, N, 32>(n, first, column, p, ds, io);
                column += 32;
            } else {
                add_to_keys::<V, N, 16>(n, first, column, p, ds, io);
                column += 16;
            }
        }
    }
}

/// Adds `C` columns of pᵀ · d_out to d_values and of dsᵀ · q to d_keys, for `n` keys.
#[inline(always)]
fn add_to_keys<V: Vector, const N: usize, const C: usize>(
    n: usize,
    first: usize,
    column: usize,
    p: &[f32],
    ds: &[f32],
    io: &mut Backward<'_, N>,
) {
    let (width, at) = (io.width, first * io.width + column);
    let parts = [(p, io.d_out, &mut *io.d_v), (ds, io.q, &mut *io.d_k)];
    for (of_pairs, rows, sums) in parts {
        let of_pairs = Single { values: of_pairs, row: N, column: 1 };
        let rows = Wide { values: &rows[column..], row: width };
        let mut sums = Sums { values: &mut sums[at..], row: width, keep: Some(&[1.; C]) };
        product::<V, C>((n, N), of_pairs, rows, &mut sums);
    }
}

/// scores\[key\]\[lane\] = k · q, hidden pairs set to [`HIDDEN`].
#[inline(always)]
fn score<V: Vector, const N: usize>(
    (k, k_row): (&[f32], usize),
    d: usize,
    tile: &Tile,
    sight: &Sight<N>,
    qt: &[f32],
    scores: &mut [[f32; N]],
) {
    let k = Single { values: k, row: k_row, column: 1 };
    let m = scores.len();
    let mut out = Sums { values: scores.as_flattened_mut(), row: N, keep: None };
    product::<V, N>((m, d), k, Wide { values: qt, row: N }, &mut out);
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
