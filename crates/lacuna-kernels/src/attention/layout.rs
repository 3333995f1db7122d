//! Where the rows of q, k, v and the output lie.

use candle_core::{Layout, Result, bail};
use rayon::prelude::*;

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

/// Keys or values with adjacent rows, so that a tile is one piece of memory: copied if they are
/// apart and the copy is read often enough to pay.
pub(super) enum Packed<'a> {
    Borrowed(View<'a>),
    Copied(Scratch, Strides),
}

impl<'a> Packed<'a> {
    pub(super) fn new(view: View<'a>, sizes: &Sizes, panels: usize) -> Self {
        let d = sizes.d;
        if view.strides.row == d || panels < 4 {
            return Self::Borrowed(view);
        }
        let strides = Strides::contiguous(Axes::HeadsFirst, sizes.kv_heads, sizes.kv_len, d);
        let mut copy = Scratch::new(sizes.b * strides.b);
        copy.par_chunks_mut(strides.head.max(1)).enumerate().for_each(|(i, rows)| {
            let (b, head) = (i / sizes.kv_heads, i % sizes.kv_heads);
            for (j, row) in rows.chunks_exact_mut(d).enumerate() {
                row.copy_from_slice(view.row(b, head, j, d));
            }
        });
        Self::Copied(copy, strides)
    }

    pub(super) fn view(&self) -> View<'_> {
        match self {
            Self::Borrowed(view) => *view,
            Self::Copied(data, strides) => View { data, strides: *strides },
        }
    }
}

/// Writes lane `lane` of a `[d][N]` panel as a row, each value times `scale`.
pub(super) fn write_lane<const N: usize>(panel: &[f32], lane: usize, scale: f32, row: &mut [f32]) {
    for (x, lanes) in row.iter_mut().zip(panel.chunks_exact(N)) {
        *x = lanes[lane] * scale;
    }
}

/// Reads a row into lane `lane` of a `[d][N]` panel, each value times `scale`.
pub(super) fn read_lane<const N: usize>(row: &[f32], scale: f32, lane: usize, panel: &mut [f32]) {
    for (x, lanes) in row.iter().zip(panel.chunks_exact_mut(N)) {
        lanes[lane] = x * scale;
    }
}

/// Rows of a result that several tasks write.
pub(super) struct Rows<'a> {
    pub(super) data: Disjoint<'a>,
    pub(super) strides: Strides,
}

impl Rows<'_> {
    /// # Safety
    /// Each (b, head, row) is asked for by one task only and let go before asking again.
    #[allow(clippy::mut_from_ref, reason = "see Disjoint::part")]
    pub(super) unsafe fn row(&self, b: usize, head: usize, row: usize, d: usize) -> &mut [f32] {
        // SAFETY: rows of contiguous strides don't overlap; the caller asks for each once.
        unsafe { self.data.part(self.strides.at(b, head, row), d) }
    }
}
