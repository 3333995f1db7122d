//! Finds the rows of q, k, v and the output in memory, and moves them into vector lanes and back.

#![allow(clippy::needless_range_loop, reason = "lanes run over several arrays in step")]

use std::array;
use std::mem::MaybeUninit;
#[cfg(target_arch = "x86_64")]
use std::mem::transmute;
use std::ops::Range;

use candle_core::{Layout, Result, bail};

use super::panel::{KeyRows, Sight};
use super::unpack::{Packed, UnpackAll};
use super::{CachePrecision, KeyRanges, Segment};
use crate::backend::Isa;
use crate::raw::{Disjoint, Scratch};
use crate::simd::run;

/// A `[len, heads, d]` tensor whose rows of d are contiguous; strides in elements.
pub(super) struct View<'a, T = f32> {
    data: &'a [T],
    head: usize,
    row: usize,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T> View<'a, T> {
    pub(super) fn new(data: &'a [T], layout: &Layout) -> Result<Self> {
        let (stride, &[len, heads, d]) = (layout.stride(), layout.dims()) else {
            bail!("attention: a tensor is {:?}, expected [rows, heads, d]", layout.dims())
        };
        if d != 1 && stride[2] != 1 {
            bail!("attention: rows of stride {}, expected contiguous ones", stride[2])
        }
        // The stride of a dimension of 1 means nothing; give it one that is never out of bounds.
        let row = if len == 1 { d } else { stride[0] };
        let head = if heads == 1 { 0 } else { stride[1] };
        Ok(Self { data: &data[layout.start_offset()..], head, row })
    }

    /// The same tensor without its first `row` rows.
    pub(super) fn skip(self, row: usize) -> Self {
        Self { data: self.data.get(row * self.row..).unwrap_or_default(), ..self }
    }

    pub(super) fn row(&self, head: usize, row: usize, d: usize) -> &'a [T] {
        &self.data[head * self.head + row * self.row..][..d]
    }

    /// The rows of one head. A segment without keys may end where the tensor does, before its later heads would begin.
    fn head(&self, head: usize) -> &'a [T] {
        self.data.get(head * self.head..).unwrap_or_default()
    }
}

/// Keys or values of all heads, as they are or as a cache packs them.
#[derive(Clone, Copy)]
pub(super) enum Stored<'a> {
    Exact(View<'a>),
    Packed(View<'a, u8>, CachePrecision),
}

impl Stored<'_> {
    /// The same without the first `row` rows.
    pub(super) fn skip(self, row: usize) -> Self {
        match self {
            Self::Exact(view) => Self::Exact(view.skip(row)),
            Self::Packed(view, precision) => Self::Packed(view.skip(row), precision),
        }
    }
}

/// The sizes of one segment: heads of the queries and of the keys, numbers of queries and keys, and the size d of a
/// head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) q_len: usize,
    pub(super) kv_len: usize,
    pub(super) d: usize,
}

impl Sizes {
    /// The sizes of a segment in a tensor of queries whose shape `q` is `[rows, heads, d]`.
    pub(super) fn new(q: &[usize], kv_heads: usize, segment: &Segment) -> Self {
        let (q_len, kv_len) = (segment.queries.len(), segment.keys.len());
        Self { heads: q[1], kv_heads, q_len, kv_len, d: q[2] }
    }

    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The query lanes of one key head: one for each query of each query head that reads it.
    pub(super) fn lanes(&self) -> usize {
        self.q_len * self.group()
    }

    /// The (query head, query) of each lane of a panel that holds a query.
    pub(super) fn panel(
        &self,
        kv_head: usize,
        panel: usize,
        width: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let group = self.group();
        let first = panel * width;
        let last = (first + width).min(self.lanes());
        (first..last).map(move |lane| (kv_head * group + lane % group, lane / group))
    }
}

/// The keys that the lanes of a panel see. Lanes beyond the last query see the prefix alone, and nobody reads their
/// results.
pub(super) fn sight<const N: usize>(ranges: &KeyRanges, sizes: &Sizes, panel: usize) -> Sight<N> {
    let mut sight = Sight { prefix: ranges.prefix(), from: [[0; N]; 2], to: [[0; N]; 2] };
    for (lane, (_, q)) in sizes.panel(0, panel, N).enumerate() {
        for (i, range) in ranges.ranges(q).iter().enumerate() {
            (sight.from[i][lane], sight.to[i][lane]) = (range.start as i32, range.end as i32);
        }
    }
    sight
}

/// One head's keys or values, as they lie or copied together, and the distance from row to row.
pub(super) enum Head<'a> {
    Borrowed(KeyRows<'a>),
    Copied(Scratch, usize),
}

impl<'a> Head<'a> {
    /// The keys or values of `head`. If they are read `often`, it pays to copy rows that lie apart, so that a tile is
    /// one piece of memory, and to unpack packed ones once for all.
    pub(super) fn new(
        isa: Isa,
        stored: Stored<'a>,
        sizes: &Sizes,
        head: usize,
        often: bool,
    ) -> Self {
        let d = sizes.d;
        let copy = || Scratch::new(sizes.kv_len * d);
        match stored {
            Stored::Exact(view) if !often || view.row == d => {
                Self::Borrowed(KeyRows::Exact { values: view.head(head), row: view.row })
            }
            Stored::Exact(view) => {
                let mut copy = copy();
                for (j, row) in copy.chunks_exact_mut(d).enumerate() {
                    row.copy_from_slice(view.row(head, j, d));
                }
                Self::Copied(copy, d)
            }
            Stored::Packed(view, precision) => {
                let rows = Packed { bytes: view.head(head), row: view.row, precision };
                if !often {
                    return Self::Borrowed(KeyRows::Packed(rows));
                }
                let mut copy = copy();
                run(isa, UnpackAll { rows, d, to: &mut copy });
                Self::Copied(copy, d)
            }
        }
    }

    /// The rows from the first on.
    pub(super) fn rows(&self) -> KeyRows<'_> {
        match self {
            Self::Borrowed(rows) => *rows,
            Self::Copied(values, row) => KeyRows::Exact { values, row: *row },
        }
    }
}

/// Rows of a result `[len, heads, d]` that several tasks write, each row once.
pub(super) struct Rows<'a> {
    data: Disjoint<'a, MaybeUninit<f32>>,
    heads: usize,
    d: usize,
}

impl<'a> Rows<'a> {
    /// Room for `[len, heads, d]` floats in `data`'s spare capacity.
    pub(super) fn reserve(data: &'a mut Vec<f32>, [len, heads, d]: [usize; 3]) -> Self {
        let size = len * heads * d;
        data.reserve_exact(size);
        Self { data: Disjoint::new(&mut data.spare_capacity_mut()[..size]), heads, d }
    }

    /// # Safety
    /// Each (head, row) is asked for once.
    #[allow(clippy::mut_from_ref, reason = "see Disjoint::part")]
    pub(super) unsafe fn row(&self, head: usize, row: usize) -> &mut [MaybeUninit<f32>] {
        // SAFETY: rows of heads don't overlap; the caller asks for each once.
        unsafe { self.data.part((row * self.heads + head) * self.d, self.d) }
    }

    /// Makes whole rows zero.
    ///
    /// # Safety
    /// None of them is asked for.
    pub(super) unsafe fn zero(&self, rows: Range<usize>) {
        let width = self.heads * self.d;
        // SAFETY: the caller's promise.
        let rows = unsafe { self.data.part(rows.start * width, rows.len() * width) };
        rows.fill(MaybeUninit::new(0.));
    }
}

/// Turns columns into rows. It is written out for x86-64, where the compiler would go through memory.
#[inline(always)]
fn transpose(block: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: four floats and a vector of four are the same bits.
        let [a, b, c, d] = unsafe { transmute::<[[f32; 4]; 4], [__m128; 4]>(block) };
        // SAFETY: SSE is part of x86-64.
        let rows = unsafe {
            let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
            let low = [_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)];
            [low[0], low[1], _mm_movelh_ps(ab_high, cd_high), _mm_movehl_ps(cd_high, ab_high)]
        };
        // SAFETY: as above.
        unsafe { transmute::<[__m128; 4], [[f32; 4]; 4]>(rows) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    array::from_fn(|i| block.map(|row| row[i]))
}

/// Reads rows into the first lanes of a `[d][N]` panel, each value times `scale`; the other lanes
/// become 0.
pub(super) fn read_lanes<const N: usize>(rows: &[&[f32]], scale: f32, panel: &mut [f32]) {
    if rows.len() < N {
        panel.fill(0.);
    }
    let (fours, rest) = rows.as_chunks::<4>();
    for (i, rows) in fours.iter().enumerate() {
        // Rows are taken four by four, so that whole vectors are loaded and stored.
        let columns = rows.map(|row| row.as_chunks::<4>().0);
        for (j, panel) in panel.chunks_exact_mut(4 * N).enumerate() {
            let block = transpose(columns.map(|column| column[j].map(|x| x * scale)));
            for (lanes, block) in panel.as_chunks_mut::<N>().0.iter_mut().zip(block) {
                lanes[4 * i..4 * i + 4].copy_from_slice(&block);
            }
        }
        let done = rows[0].len() / 4 * 4;
        for (j, lanes) in panel.chunks_exact_mut(N).enumerate().skip(done) {
            (0..4).for_each(|r| lanes[4 * i + r] = rows[r][j] * scale);
        }
    }
    for (i, row) in rest.iter().enumerate() {
        for (x, lanes) in row.iter().zip(panel.chunks_exact_mut(N)) {
            lanes[4 * fours.len() + i] = x * scale;
        }
    }
}

/// Writes the first lanes of a `[d][N]` panel as rows, each value times its lane's `scale`.
pub(super) fn write_lanes<const N: usize>(
    panel: &[f32],
    scale: &[f32; N],
    rows: &mut [&mut [MaybeUninit<f32>]],
) {
    let (fours, rest) = rows.as_chunks_mut::<4>();
    for (i, rows) in fours.iter_mut().enumerate() {
        let at = 4 * i;
        let scale: [f32; 4] = array::from_fn(|r| scale[at + r]);
        for (j, panel) in panel.chunks_exact(4 * N).enumerate() {
            let lanes = panel.as_chunks::<N>().0;
            let lane = |t: usize, r: usize| lanes[t][at + r] * scale[r];
            let block = transpose(array::from_fn(|t| array::from_fn(|r| lane(t, r))));
            for (row, block) in rows.iter_mut().zip(block) {
                row.as_chunks_mut::<4>().0[j] = block.map(MaybeUninit::new);
            }
        }
        let done = rows[0].len() / 4 * 4;
        for (j, lanes) in panel.chunks_exact(N).enumerate().skip(done) {
            (0..4).for_each(|r| rows[r][j] = MaybeUninit::new(lanes[at + r] * scale[r]));
        }
    }
    for (i, row) in rest.iter_mut().enumerate() {
        let lane = 4 * fours.len() + i;
        for (x, lanes) in row.iter_mut().zip(panel.chunks_exact(N)) {
            *x = MaybeUninit::new(lanes[lane] * scale[lane]);
        }
    }
}
