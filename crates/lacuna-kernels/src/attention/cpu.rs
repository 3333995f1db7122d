//! Attention on CPU tensors of f32: the work split into panels, forward and backward.

use candle_core::Result;
use rayon::prelude::*;

use super::layout::{Axes, Packed, Rows, Sizes, Strides, View};
use super::layout::{read_lane, sight, write_lane};
use super::panel::{self, Keys, State};
use super::plan::{Plan, Tile};
use crate::Spans;
use crate::cpu::{Disjoint, Scratch};

/// Tiles per piece when few queries face many keys.
const SPLIT: usize = 8;

/// Inputs of both passes.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) axes: Axes,
    pub(super) sizes: Sizes,
    pub(super) q: View<'a>,
    pub(super) k: View<'a>,
    pub(super) v: View<'a>,
    pub(super) spans: &'a Spans,
    pub(super) scale: f32,
}

/// The output, contiguous in the order of `axes`, and log Σ exp of every lane:
/// `[b, kv_heads, panels · width]`.
pub(super) struct Outcome {
    pub(super) out: Vec<f32>,
    pub(super) log_sum: Vec<f32>,
}

/// Vector lanes of a panel: 8 if the queries of a key head fit into them, else 16.
pub(super) fn panel_width(sizes: &Sizes) -> usize {
    if sizes.lanes() <= 8 { 8 } else { 16 }
}

pub(super) fn forward(inputs: &Inputs<'_>) -> Outcome {
    match panel_width(&inputs.sizes) {
        8 => forward_panels::<8>(inputs),
        _ => forward_panels::<16>(inputs),
    }
}

fn forward_panels<const N: usize>(inputs: &Inputs<'_>) -> Outcome {
    let Inputs { axes, sizes, q, spans, scale, .. } = *inputs;
    let Sizes { b, heads, kv_heads, q_len, d, .. } = sizes;
    let plan = spans.plan(sizes.group(), N);
    let panels = plan.panels();
    let (k, v) = (Packed::new(inputs.k, &sizes, panels), Packed::new(inputs.v, &sizes, panels));
    let (k, v) = (k.view(), v.view());
    let mut out = vec![0f32; b * heads * q_len * d];
    let mut log_sum = vec![0f32; b * kv_heads * panels * N];
    let rows =
        Rows { data: Disjoint::new(&mut out), strides: Strides::contiguous(axes, heads, q_len, d) };

    let add = |item: usize, tiles: &[Tile], state: &mut State<N>, qt: &mut [f32]| {
        let (bi, head, panel) = split(item, kv_heads, panels);
        qt.fill(0.);
        for (lane, (head, query)) in sizes.panel(head, panel, N).enumerate() {
            read_lane::<N>(q.row(bi, head, query, d), scale, lane, qt);
        }
        panel::attend(
            keys(k, v, &sizes, bi, head),
            tiles,
            &sight(spans, &sizes, bi, panel),
            qt,
            state,
        );
    };
    let finish = |item: usize, state: &State<N>, log_sum: &mut [f32]| {
        let (bi, head, panel) = split(item, kv_heads, panels);
        for (lane, (head, query)) in sizes.panel(head, panel, N).enumerate() {
            let sum = state.sum[lane];
            // A query that sees nothing: zeros here, and no gradient in the backward pass.
            let seen = sum != 0.;
            log_sum[lane] = if seen { state.max[lane] + sum.ln() } else { f32::INFINITY };
            // SAFETY: every (head, query) belongs to one lane of one panel.
            let row = unsafe { rows.row(bi, head, query, d) };
            write_lane::<N>(&state.out, lane, if seen { 1. / sum } else { 0. }, row);
        }
    };

    let items = b * kv_heads * panels;
    let longest = (0..items)
        .map(|item| plan.tiles(split(item, kv_heads, panels).0, item % panels).len())
        .max();
    if items <= 16 && longest > Some(SPLIT) {
        // Few queries, many keys: split the keys. By shape alone, never by number of threads.
        for (item, log_sum) in log_sum.chunks_exact_mut(N).enumerate() {
            let tiles = plan.tiles(split(item, kv_heads, panels).0, item % panels);
            let states = tiles
                .par_chunks(SPLIT)
                .map(|tiles| {
                    let (mut state, mut qt) = (State::new(d), vec![0.; d * N]);
                    add(item, tiles, &mut state, &mut qt);
                    state
                })
                .collect::<Vec<_>>();
            let mut whole = State::new(d);
            states.iter().for_each(|state| whole.merge(state));
            finish(item, &whole, log_sum);
        }
    } else {
        log_sum.par_chunks_exact_mut(N).enumerate().for_each_init(
            || (State::new(d), vec![0.; d * N]),
            |(state, qt), (item, log_sum)| {
                state.reset();
                let tiles = plan.tiles(split(item, kv_heads, panels).0, item % panels);
                add(item, tiles, state, qt);
                finish(item, state, log_sum);
            },
        );
    }
    Outcome { out, log_sum }
}

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
    log_sum: &[f32],
) -> Result<Gradients> {
    match panel_width(&inputs.sizes) {
        8 => backward_panels::<8>(inputs, out, d_out, log_sum),
        _ => backward_panels::<16>(inputs, out, d_out, log_sum),
    }
}

fn backward_panels<const N: usize>(
    inputs: &Inputs<'_>,
    out: View<'_>,
    d_out: View<'_>,
    log_sum: &[f32],
) -> Result<Gradients> {
    let Inputs { axes, sizes, spans, .. } = *inputs;
    let Sizes { b, heads, kv_heads, q_len, kv_len, d } = sizes;
    let plan = spans.plan(sizes.group(), N);
    let panels = plan.panels();
    let (k, v) = (Packed::new(inputs.k, &sizes, panels), Packed::new(inputs.v, &sizes, panels));
    let packed = Inputs { k: k.view(), v: v.view(), ..*inputs };
    let mut gradients = Gradients {
        q: vec![0.; b * heads * q_len * d],
        k: vec![0.; b * kv_heads * kv_len * d],
        v: vec![0.; b * kv_heads * kv_len * d],
    };
    let q_strides = Strides::contiguous(axes, heads, q_len, d);
    let kv_strides = Strides::contiguous(axes, kv_heads, kv_len, d);
    let d_q = Rows { data: Disjoint::new(&mut gradients.q), strides: q_strides };
    let d_k = Rows { data: Disjoint::new(&mut gradients.k), strides: kv_strides };
    let d_v = Rows { data: Disjoint::new(&mut gradients.v), strides: kv_strides };

    // Each task sums the keys' gradients over its share of the panels; few heads are split further
    // so that threads have work. By shape alone, never by number of threads.
    let tasks = b * kv_heads;
    let splits = 8usize.checked_div(tasks).map_or(1, |n| n.clamp(1, panels.div_ceil(8).max(1)));
    let share = panels.div_ceil(splits);
    let width = d.next_multiple_of(16);
    let partials = (0..tasks * splits)
        .into_par_iter()
        .map(|task| {
            let (bi, head) = (task / splits / kv_heads, task / splits % kv_heads);
            let first = (task % splits * share).min(panels);
            let mut sums = KeySums::new(kv_len, width);
            let mut work = Work::<N>::new(d, width);
            for panel in first..(first + share).min(panels) {
                let item = (bi * kv_heads + head) * panels + panel;
                let log_sum = &log_sum[item * N..][..N];
                work.load(&packed, out, d_out, log_sum, (bi, head, panel));
                work.run(&packed, &plan, (bi, head, panel), &mut sums);
                for (lane, (head, query)) in sizes.panel(head, panel, N).enumerate() {
                    // SAFETY: every (head, query) belongs to one lane of one panel.
                    let row = unsafe { d_q.row(bi, head, query, d) };
                    write_lane::<N>(&work.d_qt, lane, packed.scale, row);
                }
            }
            sums
        })
        .collect::<Vec<_>>();
    partials.par_chunks(splits).enumerate().for_each(|(task, partials)| {
        let (bi, head) = (task / kv_heads, task % kv_heads);
        for row in 0..kv_len {
            // SAFETY: every (head, row) belongs to one task.
            let (d_k, d_v) = unsafe { (d_k.row(bi, head, row, d), d_v.row(bi, head, row, d)) };
            for sums in partials {
                let at = row * width;
                d_k.iter_mut().zip(&sums.k[at..]).for_each(|(x, y)| *x += y);
                d_v.iter_mut().zip(&sums.v[at..]).for_each(|(x, y)| *x += y);
            }
        }
    });
    Ok(gradients)
}

/// Gradients of one head's keys and values: `[kv_len][width]`, width a multiple of 16.
struct KeySums {
    k: Scratch,
    v: Scratch,
}

impl KeySums {
    fn new(kv_len: usize, width: usize) -> Self {
        Self { k: Scratch::zeroed(kv_len * width), v: Scratch::zeroed(kv_len * width) }
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
    width: usize,
}

impl<const N: usize> Work<N> {
    fn new(d: usize, width: usize) -> Self {
        let panel = || vec![0.; d * N];
        let rows = || vec![0.; width * N];
        let (log_sum, dot) = ([f32::INFINITY; N], [0.; N]);
        Self {
            qt: panel(),
            d_out_t: panel(),
            q: rows(),
            d_out: rows(),
            d_qt: panel(),
            log_sum,
            dot,
            width,
        }
    }

    fn load(
        &mut self,
        inputs: &Inputs<'_>,
        out: View<'_>,
        d_out: View<'_>,
        log_sum: &[f32],
        (b, kv_head, panel): (usize, usize, usize),
    ) {
        let d = inputs.sizes.d;
        for buffer in [&mut self.qt, &mut self.d_out_t, &mut self.d_qt] {
            buffer.fill(0.);
        }
        // Lanes without a query: probabilities exp(0 − ∞) = 0, so they add nothing anywhere.
        (self.log_sum, self.dot) = ([f32::INFINITY; N], [0.; N]);
        for (lane, (head, query)) in inputs.sizes.panel(kv_head, panel, N).enumerate() {
            let q = inputs.q.row(b, head, query, d);
            let (out, d_out) = (out.row(b, head, query, d), d_out.row(b, head, query, d));
            read_lane::<N>(q, inputs.scale, lane, &mut self.qt);
            read_lane::<N>(d_out, 1., lane, &mut self.d_out_t);
            let row = &mut self.q[lane * self.width..][..d];
            row.iter_mut().zip(q).for_each(|(x, q)| *x = q * inputs.scale);
            self.d_out[lane * self.width..][..d].copy_from_slice(d_out);
            self.log_sum[lane] = log_sum[lane];
            self.dot[lane] = out.iter().zip(d_out).map(|(x, y)| x * y).sum();
        }
    }

    fn run(
        &mut self,
        inputs: &Inputs<'_>,
        plan: &Plan,
        (b, kv_head, panel): (usize, usize, usize),
        sums: &mut KeySums,
    ) {
        let keys = keys(inputs.k, inputs.v, &inputs.sizes, b, kv_head);
        let mut io = panel::Backward {
            qt: &self.qt,
            d_out_t: &self.d_out_t,
            q: &self.q,
            d_out: &self.d_out,
            log_sum: self.log_sum,
            dot: self.dot,
            d_qt: &mut self.d_qt,
            d_k: &mut sums.k,
            d_v: &mut sums.v,
            width: self.width,
        };
        let sight = sight(inputs.spans, &inputs.sizes, b, panel);
        panel::backward(keys, plan.tiles(b, panel), &sight, &mut io);
    }
}

/// (batch row, key head, panel) of a running number.
fn split(item: usize, kv_heads: usize, panels: usize) -> (usize, usize, usize) {
    (item / panels / kv_heads, item / panels % kv_heads, item % panels)
}

fn keys<'a>(k: View<'a>, v: View<'a>, sizes: &Sizes, b: usize, head: usize) -> Keys<'a> {
    Keys {
        k: &k.data[k.strides.at(b, head, 0)..],
        v: &v.data[v.strides.at(b, head, 0)..],
        k_row: k.strides.row,
        v_row: v.strides.row,
        d: sizes.d,
    }
}
