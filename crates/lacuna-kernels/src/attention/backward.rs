//! The backward pass on CPU tensors of f32.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::cpu::{Inputs, LogSums, heads, keys, out_rows, panel_rows, share};
use super::layout::{Rows, Sizes, View, read_lanes, sight, write_lanes};
use super::panel::{self, Keys};
use super::plan::Plan;
use crate::cpu::Scratch;
use crate::simd::dot_body;

/// Gradients of q, k and v, contiguous in the order of the axes.
pub(super) struct Gradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

pub(super) fn backward(
    inputs: &Inputs<'_>,
    out: View<'_>,
    d_out: View<'_>,
    log_sums: &LogSums,
) -> Gradients {
    let run = match log_sums.width {
        8 => backward_panels::<8>,
        16 => backward_panels::<16>,
        _ => backward_panels::<32>,
    };
    run(inputs, out, d_out, &log_sums.values)
}

fn backward_panels<const N: usize>(
    inputs: &Inputs<'_>,
    out: View<'_>,
    d_out: View<'_>,
    log_sums: &[f32],
) -> Gradients {
    let Inputs { axes, sizes, spans, scale, .. } = *inputs;
    let Sizes { b, heads: q_heads, kv_heads, q_len, kv_len, d } = sizes;
    let plan = spans.plan(sizes.group(), N);
    let panels = plan.panels();
    let mut gradients = Gradients { q: vec![], k: vec![], v: vec![] };
    let d_q = Rows::reserve(&mut gradients.q, axes, (b, q_heads, q_len, d));
    let d_k = Rows::reserve(&mut gradients.k, axes, (b, kv_heads, kv_len, d));
    let d_v = Rows::reserve(&mut gradients.v, axes, (b, kv_heads, kv_len, d));

    // Each task sums the keys' gradients over its share of a head's panels.
    let share = share(&sizes, panels);
    let shares = panels.div_ceil(share);
    let partial = |task: usize| {
        let (b, head) = (task / shares / kv_heads, task / shares % kv_heads);
        let (k, v) = heads(inputs, b, head, panels >= 4);
        let mut work = Work::<N>::new(d, kv_len);
        let first = task % shares * share;
        for panel in first..(first + share).min(panels) {
            let at = (b, head, panel);
            let item = (b * kv_heads + head) * panels + panel;
            let lanes = work.load(inputs, out, d_out, at);
            work.log_sum.copy_from_slice(&log_sums[item * N..][..N]);
            work.run(inputs, keys(&k, &v, d), &plan, (b, panel));
            // SAFETY: every panel belongs to one task.
            let mut rows = unsafe { out_rows::<N>(&d_q, &sizes, at) };
            write_lanes::<N>(&work.d_qt, &[scale; N], &mut rows[..lanes]);
        }
        work.sums
    };
    let write = |head: usize, sums: &KeySums| {
        let (b, head) = (head / kv_heads, head % kv_heads);
        let rows = sums.k.chunks_exact(sums.width).zip(sums.v.chunks_exact(sums.width));
        for (row, (k, v)) in rows.enumerate() {
            // SAFETY: every head is written once.
            let (d_k, d_v) = unsafe { (d_k.row(b, head, row), d_v.row(b, head, row)) };
            d_k.iter_mut().zip(k).for_each(|(to, x)| *to = MaybeUninit::new(*x));
            d_v.iter_mut().zip(v).for_each(|(to, x)| *to = MaybeUninit::new(*x));
        }
    };
    if shares == 1 {
        // At once, while the sums are in the cache.
        (0..b * kv_heads).into_par_iter().for_each(|head| write(head, &partial(head)));
    } else {
        let tasks = (0..b * kv_heads * shares).into_par_iter();
        let mut partials = tasks.map(partial).collect::<Vec<_>>();
        partials.par_chunks_mut(shares).enumerate().for_each(|(head, partials)| {
            let Some((sums, others)) = partials.split_first_mut() else { return };
            others.iter().for_each(|other| sums.add(other));
            write(head, sums);
        });
    }
    // SAFETY: every panel's lanes and every head's rows have been written.
    unsafe {
        gradients.q.set_len(b * q_heads * q_len * d);
        gradients.k.set_len(b * kv_heads * kv_len * d);
        gradients.v.set_len(b * kv_heads * kv_len * d);
    }
    gradients
}

/// Gradients of one head's keys and values: `[kv_len][width]`, width a multiple of 16.
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

/// One panel's operands in the layouts that the inner loop wants.
struct Work<const N: usize> {
    qt: Vec<f32>,
    d_out_t: Vec<f32>,
    q: Vec<f32>,
    d_out: Vec<f32>,
    d_qt: Vec<f32>,
    log_sum: [f32; N],
    dot: [f32; N],
    sums: KeySums,
}

impl<const N: usize> Work<N> {
    fn new(d: usize, kv_len: usize) -> Self {
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

    /// Reads a panel's queries, outputs and their gradients; says how many lanes it has.
    fn load(
        &mut self,
        inputs: &Inputs<'_>,
        out: View<'_>,
        d_out: View<'_>,
        at: (usize, usize, usize),
    ) -> usize {
        let Inputs { sizes, scale, .. } = *inputs;
        let (q, lanes) = panel_rows::<N>(inputs.q, &sizes, at);
        let (out, _) = panel_rows::<N>(out, &sizes, at);
        let (d_out, _) = panel_rows::<N>(d_out, &sizes, at);
        read_lanes::<N>(&q[..lanes], scale, &mut self.qt);
        read_lanes::<N>(&d_out[..lanes], 1., &mut self.d_out_t);
        if lanes < N {
            // Lanes without a query: probabilities exp(0 − ∞) = 0, and nothing to multiply them
            // with, so they add nothing anywhere.
            self.q.fill(0.);
            self.d_out.fill(0.);
            self.dot = [0.; N];
        }
        let width = self.sums.width;
        for lane in 0..lanes {
            let row = &mut self.q[lane * width..][..sizes.d];
            row.iter_mut().zip(q[lane]).for_each(|(x, q)| *x = q * scale);
            self.d_out[lane * width..][..sizes.d].copy_from_slice(d_out[lane]);
            self.dot[lane] = dot_body::<false>(out[lane], d_out[lane]);
        }
        self.d_qt.fill(0.);
        lanes
    }

    fn run(
        &mut self,
        inputs: &Inputs<'_>,
        keys: Keys<'_>,
        plan: &Plan,
        (b, panel): (usize, usize),
    ) {
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
        let sight = sight(inputs.spans, &inputs.sizes, b, panel);
        panel::backward(inputs.isa, keys, plan.tiles(b, panel), &sight, &mut io);
    }
}
