//! Where the rows of q, k, v and the output lie.

#![allow(clippy::needless_range_loop, reason = "lanes run over several arrays in step")]

use std::mem::MaybeUninit;

use candle_core::{Layout, Result, bail};

use super::panel::Sight;
use crate::Spans;
use crate::cpu::{Disjoint, Scratch};

/// Order of the two middle dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Axes {
    /// `[b, heads, l, d]`
    HeadsFirst,
    /// `[b, l, heads, d]`: as the projections leave it, no transposes needed.
    TokensFirst,
}

impl Axes {
    /// (b, heads, l, d) of a shape.
    pub(crate) fn split(self, dims: &[usize]) -> Result<(usize, usize, usize, usize)> {
        match (self, dims) {
            (Self::HeadsFirst, &[b, h, l, d]) | (Self::TokensFirst, &[b, l, h, d]) => {
                Ok((b, h, l, d))
            }
            _ => bail!("attention: a tensor is {dims:?}, expected four dimensions"),
        }
    }
}

/// Strides in elements; those within a row are 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub(super) b: usize,
    pub(super) head: usize,
    pub(super) row: usize,
}

impl Strides {
    pub(super) fn contiguous(axes: Axes, heads: usize, len: usize, d: usize) -> Self {
        match axes {
            Axes::HeadsFirst => Self { b: heads * len * d, head: len * d, row: d },
            Axes::TokensFirst => Self { b: heads * len * d, head: d, row: heads * d },
        }
    }

    pub(super) fn at(self, b: usize, head: usize, row: usize) -> usize {
        b * self.b + head * self.head + row * self.row
    }
}

/// A `[b, heads, l, d]` tensor, rows contiguous.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) strides: Strides,
}

impl<'a> View<'a> {
    pub(super) fn new(data: &'a [f32], layout: &Layout, axes: Axes) -> Result<Self> {
        let (stride, dims) = (layout.stride(), layout.dims());
        let (_, heads, len, d) = axes.split(dims)?;
        if d != 1 && stride[3] != 1 {
            bail!("attention: rows of stride {}, expected contiguous ones", stride[3])
        }
        let (mut head, mut row) = match axes {
            Axes::HeadsFirst => (stride[1], stride[2]),
            Axes::TokensFirst => (stride[2], stride[1]),
        };
        // The stride of a dimension of 1 means nothing; give it one that is never out of bounds.
        if len == 1 {
            row = d;
        }
        if heads == 1 {
            head = 0;
        }
        let strides = Strides { b: stride[0], head, row };
        Ok(Self { data: &data[layout.start_offset()..], strides })
    }

    pub(super) fn row(&self, b: usize, head: usize, row: usize, d: usize) -> &'a [f32] {
        &self.data[self.strides.at(b, head, row)..][..d]
    }
}

/// Sizes of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) b: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) q_len: usize,
    pub(super) kv_len: usize,
    pub(super) d: usize,
}

impl Sizes {
    pub(super) fn new(axes: Axes, q: &[usize], k: &[usize]) -> Result<Self> {
        let (b, heads, q_len, d) = axes.split(q)?;
        let (_, kv_heads, kv_len, _) = axes.split(k)?;
        Ok(Self { b, heads, kv_heads, q_len, kv_len, d })
    }

    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Query lanes of one key head.
    pub(super) fn lanes(&self) -> usize {
        self.q_len * self.group()
    }

    /// (head, query) of each real lane of a panel.
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

/// What the lanes of a panel see; lanes beyond the last query see nothing.
pub(super) fn sight<const N: usize>(
    spans: &Spans,
    sizes: &Sizes,
    b: usize,
    panel: usize,
) -> Sight<N> {
    let mut sight = Sight { prefix: spans.prefix(), from: [[0; N]; 2], to: [[0; N]; 2] };
    for (lane, (_, q)) in sizes.panel(0, panel, N).enumerate() {
        for (i, range) in spans.ranges(b, q).iter().enumerate() {
            (sight.from[i][lane], sight.to[i][lane]) = (range.start as i32, range.end as i32);
        }
    }
    sight
}

/// One head's keys or values, and how far apart their rows are.
pub(super) enum Head<'a> {
    Borrowed(&'a [f32], usize),
    Copied(Scratch, usize),
}

impl<'a> Head<'a> {
    /// `often`: read so often that it pays to copy rows that are apart, so that a tile is one
    /// piece of memory.
    pub(super) fn new(view: View<'a>, sizes: &Sizes, b: usize, head: usize, often: bool) -> Self {
        let (d, first) = (sizes.d, view.strides.at(b, head, 0));
        if !often || view.strides.row == d {
            return Self::Borrowed(&view.data[first..], view.strides.row);
        }
        let mut copy = Scratch::new(sizes.kv_len * d);
        for (j, row) in copy.chunks_exact_mut(d).enumerate() {
            row.copy_from_slice(view.row(b, head, j, d));
        }
        Self::Copied(copy, d)
    }

    /// The rows from the first on, and the distance between them.
    pub(super) fn rows(&self) -> (&[f32], usize) {
        match self {
            Self::Borrowed(rows, distance) => (rows, *distance),
            Self::Copied(rows, distance) => (rows, *distance),
        }
    }
}

/// Rows of a result that several tasks write, each row once.
pub(super) struct Rows<'a> {
    data: Disjoint<'a, MaybeUninit<f32>>,
    strides: Strides,
    d: usize,
}

impl<'a> Rows<'a> {
    /// Room for `[b, heads, len, d]` floats in `data`'s spare capacity.
    pub(super) fn reserve(
        data: &'a mut Vec<f32>,
        axes: Axes,
        (b, heads, len, d): (usize, usize, usize, usize),
    ) -> Self {
        let size = b * heads * len * d;
        data.reserve_exact(size);
        let strides = Strides::contiguous(axes, heads, len, d);
        Self { data: Disjoint::new(&mut data.spare_capacity_mut()[..size]), strides, d }
    }

    /// # Safety
    /// Each (b, head, row) is asked for once.
    #[allow(clippy::mut_from_ref, reason = "see Disjoint::part")]
    pub(super) unsafe fn row(&self, b: usize, head: usize, row: usize) -> &mut [MaybeUninit<f32>] {
        // SAFETY: rows of contiguous strides don't overlap; the caller asks for each once.
        unsafe { self.data.part(self.strides.at(b, head, row), self.d) }
    }
}

/// Reads rows into the first lanes of a `[d][N]` panel, each value times `scale`; the other lanes
/// become 0.
pub(super) fn read_lanes<const N: usize>(rows: &[&[f32]], scale: f32, panel: &mut [f32]) {
    if rows.len() < N {
        panel.fill(0.);
    }
    let (fours, rest) = rows.as_chunks::<4>();
    for (i, rows) in fours.iter().enumerate() {
        // Four by four: whole vectors are loaded and stored.
        let columns = rows.map(|row| row.as_chunks::<4>().0);
        for (j, panel) in panel.chunks_exact_mut(4 * N).enumerate() {
            let block = columns.map(|column| column[j]);
            for (t, lanes) in panel.as_chunks_mut::<N>().0.iter_mut().enumerate() {
                let lanes = &mut lanes[4 * i..4 * i + 4];
                for r in 0..4 {
                    lanes[r] = block[r][t] * scale;
                }
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
        let scale: [f32; 4] = std::array::from_fn(|r| scale[at + r]);
        for (j, panel) in panel.chunks_exact(4 * N).enumerate() {
            let mut block = [[0f32; 4]; 4];
            for (t, lanes) in panel.as_chunks::<N>().0.iter().enumerate() {
                for r in 0..4 {
                    block[r][t] = lanes[at + r] * scale[r];
                }
            }
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
