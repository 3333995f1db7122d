//! Computes the gradients of attention on CPU tensors of f32.

use std::mem::MaybeUninit;

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::forward::{At, Lse, Part, Work, keys, out_rows, panel_rows};
use super::layout::{Rows, View, read_lanes, sight, write_lanes};
use super::panel::{self, Keys};
use crate::backend::Isa;
use crate::raw::Scratch;
use crate::simd::{dot_body, run};

/// The tensors that the backward pass reads beside q, k and v.
#[derive(Clone, Copy)]
pub(super) struct Outer<'a> {
    pub(super) out: View<'a>,
    pub(super) d_out: View<'a>,
    pub(super) lse: &'a Lse,
}

/// The memory that the gradients of q, k and v are written to. Rows of keys that belong to no part are not written.
pub(super) struct Gradients<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
}

pub(super) fn backward(
    isa: Isa,
    scale: f32,
    parts: &[Part<'_>],
    outer: Outer<'_>,
    to: &Gradients<'_>,
) -> Result<()> {
    match outer.lse.width {
        8 => backward_panels(&Work::<8>::new(isa, scale, parts), outer, to),
        16 => backward_panels(&Work::<16>::new(isa, scale, parts), outer, to),
        _ => backward_panels(&Work::<32>::new(isa, scale, parts), outer, to),
    }
}

fn backward_panels<const N: usize>(
    work: &Work<'_, N>,
    outer: Outer<'_>,
    to: &Gradients<'_>,
) -> Result<()> {
    let (kept, expected) = (outer.lse.values.len(), work.len() * N);
    if kept != expected {
        bail!("attention: {kept} log sums were kept, expected {expected}: of other segments?")
    }
    // Each task sums the keys' gradients over its share of a head's panels.
    let shares = work.shares();
    let partial = |(first, count): &(At, usize)| {
        let part = &work.parts[first.part];
        let (k, v) = part.head(work.isa, first.head, work.longest() >= 4);
        let mut panel = Panel::<N>::new(part);
        for number in first.panel..first.panel + count {
            let at = At { panel: number, ..*first };
            let lanes = panel.load(work, outer, at);
            panel.run(work, keys(&k, &v, part.sizes.d), at);
            // SAFETY: every panel belongs to one task.
            let mut rows = unsafe { out_rows::<N>(&to.q, part, at) };
            write_lanes::<N>(&panel.d_qt, &[work.scale; N], &mut rows[..lanes]);
        }
        panel.sums
    };
    let write = |first: &At, sums: &KeySums| {
        let rows = sums.k.chunks_exact(sums.width).zip(sums.v.chunks_exact(sums.width));
        for (row, (k, v)) in rows.enumerate() {
            let row = work.parts[first.part].first_key + row;
            // SAFETY: every head of every part is written once, and parts share no key.
            let (d_k, d_v) = unsafe { (to.k.row(first.head, row), to.v.row(first.head, row)) };
            d_k.iter_mut().zip(k).for_each(|(to, x)| *to = MaybeUninit::new(*x));
            d_v.iter_mut().zip(v).for_each(|(to, x)| *to = MaybeUninit::new(*x));
        }
    };
    let same_head = |a: &(At, usize), b: &(At, usize)| a.0.part == b.0.part && a.0.head == b.0.head;
    let heads: Vec<_> = shares.chunk_by(same_head).collect();
    if heads.len() == shares.len() {
        // One share covers each head, so its sums are written at once, while they are in the cache.
        shares.par_iter().for_each(|share| write(&share.0, &partial(share)));
        return Ok(());
    }
    let mut partials = shares.par_iter().map(partial).collect::<Vec<_>>();
    let mut rest = partials.as_mut_slice();
    let mut tasks = Vec::with_capacity(heads.len());
    for head in heads {
        let (own, others) = rest.split_at_mut(head.len());
        tasks.push((&head[0].0, own));
        rest = others;
    }
    tasks.into_par_iter().for_each(|(first, partials)| {
        let Some((sums, others)) = partials.split_first_mut() else { return };
        others.iter().for_each(|other| sums.add(other));
        write(first, sums);
    });
    Ok(())
}

/// The gradients of one head's keys and values, summed over its queries: `[kv_len][width]` each. `width` is d rounded
/// up to a multiple of 16.
struct KeySums {
    k: Scratch,
    v: Scratch,
    width: usize,
}

impl KeySums {
    fn add(&mut self, other: &Self) {
        self.k.iter_mut().zip(&*other.k).for_each(|(x, y)| *x += y);
        self.v.iter_mut().zip(&*other.v).for_each(|(x, y)| *x += y);
    }
}

/// One panel's operands in the layouts that the inner loop wants, and the sums of its task.
struct Panel<const N: usize> {
    qt: Vec<f32>,
    d_out_t: Vec<f32>,
    q: Vec<f32>,
    d_out: Vec<f32>,
    d_qt: Vec<f32>,
    log_sum: [f32; N],
    dot: [f32; N],
    sums: KeySums,
}

impl<const N: usize> Panel<N> {
    fn new(part: &Part<'_>) -> Self {
        let (d, kv_len) = (part.sizes.d, part.sizes.kv_len);
        let width = d.next_multiple_of(16);
        let panel = || vec![0.; d * N];
        let rows = || vec![0.; width * N];
        let sums = || Scratch::zeroed(kv_len * width);
        Self {
            qt: panel(),
            d_out_t: panel(),
            q: rows(),
            d_out: rows(),
            d_qt: panel(),
            log_sum: [f32::INFINITY; N],
            dot: [0.; N],
            sums: KeySums { k: sums(), v: sums(), width },
        }
    }

    /// Reads a panel's queries, outputs and their gradients; returns the number of lanes that hold a query.
    fn load(&mut self, work: &Work<'_, N>, outer: Outer<'_>, at: At) -> usize {
        let Part { sizes, q, first_query, .. } = work.parts[at.part];
        let (q, lanes) = panel_rows::<N>(q, &sizes, at);
        let (out, _) = panel_rows::<N>(outer.out.skip(first_query), &sizes, at);
        let (d_out, _) = panel_rows::<N>(outer.d_out.skip(first_query), &sizes, at);
        self.log_sum.copy_from_slice(&outer.lse.values[work.number(at) * N..][..N]);
        read_lanes::<N>(&q[..lanes], work.scale, &mut self.qt);
        read_lanes::<N>(&d_out[..lanes], 1., &mut self.d_out_t);
        if lanes < N {
            // Lanes without a query have probabilities exp(0 − ∞) = 0, and are multiplied with zeros, so they add
            // nothing anywhere.
            self.q.fill(0.);
            self.d_out.fill(0.);
            self.dot = [0.; N];
        }
        let width = self.sums.width;
        for lane in 0..lanes {
            let row = &mut self.q[lane * width..][..sizes.d];
            row.iter_mut().zip(q[lane]).for_each(|(x, q)| *x = q * work.scale);
            self.d_out[lane * width..][..sizes.d].copy_from_slice(d_out[lane]);
            self.dot[lane] = dot_body::<false>(out[lane], d_out[lane]);
        }
        self.d_qt.fill(0.);
        lanes
    }

    fn run(&mut self, work: &Work<'_, N>, keys: Keys<'_>, at: At) {
        let mut io = panel::Backward {
            qt: &self.qt,
            d_out_t: &self.d_out_t,
            q: &self.q,
            d_out: &self.d_out,
            log_sum: self.log_sum,
            dot: self.dot,
            d_qt: &mut self.d_qt,
            d_k: &mut self.sums.k,
            d_v: &mut self.sums.v,
            width: self.sums.width,
        };
        let part = &work.parts[at.part];
        let sight = sight(part.ranges, &part.sizes, at.panel);
        run(work.isa, panel::Gradients { keys, tiles: work.tiles(at), sight, io: &mut io });
    }
}
