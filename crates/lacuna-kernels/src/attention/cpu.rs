//! What both passes on CPU tensors of f32 share, and the forward pass: the work split into panels
//! of query lanes.

use std::array;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::layout::{Axes, Head, Rows, Sizes, View, read_lanes, sight, write_lanes};
use super::panel::{self, Keys, State};
use super::plan::{Plan, Tile};
use crate::backend::Isa;
use crate::cpu::Disjoint;
use crate::{Spans, team};

/// Panels of a head below which its keys are split instead: few queries, many keys.
const FEW: usize = 4;
/// Pieces that few queries' keys are split into, and the fewest tiles of one.
const PIECES: usize = 32;
const PIECE: usize = 2;
/// Multiplications below which the calling thread works alone: a few microseconds.
const SERIAL_WORK: usize = 128 * 1024;
/// Tasks worth having when there are many panels.
const TASKS: usize = 16;

/// Inputs of both passes.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) isa: Isa,
    pub(super) axes: Axes,
    pub(super) sizes: Sizes,
    pub(super) q: View<'a>,
    pub(super) k: View<'a>,
    pub(super) v: View<'a>,
    pub(super) spans: &'a Spans,
    pub(super) scale: f32,
}

/// Log Σ exp of every lane, `[b, kv_heads, panels · width]`, and the panels' width.
#[derive(Debug)]
pub(super) struct LogSums {
    pub(super) width: usize,
    pub(super) values: Vec<f32>,
}

/// Vector lanes of a panel: as few as the queries of a key head fit into, and no more than the
/// registers serve well: 2 of 8 lanes or 2 of 16.
fn panel_width(isa: Isa, sizes: &Sizes) -> usize {
    match sizes.lanes() {
        0..=8 => 8,
        17.. if isa == Isa::Avx512 => 32,
        _ => 16,
    }
}

/// Panels per task, so that there are enough tasks when there are few heads. By shape alone, never
/// by number of threads.
pub(super) fn share(sizes: &Sizes, panels: usize) -> usize {
    let splits = (TASKS / (sizes.b * sizes.kv_heads)).clamp(1, panels.div_ceil(8).max(1));
    panels.div_ceil(splits)
}

/// The output, contiguous in the order of the axes.
pub(super) fn forward(inputs: &Inputs<'_>) -> (Vec<f32>, LogSums) {
    match panel_width(inputs.isa, &inputs.sizes) {
        8 => forward_panels::<8>(inputs),
        16 => forward_panels::<16>(inputs),
        _ => forward_panels::<32>(inputs),
    }
}

fn forward_panels<const N: usize>(inputs: &Inputs<'_>) -> (Vec<f32>, LogSums) {
    let Inputs { axes, sizes, spans, .. } = *inputs;
    let Sizes { b, heads, kv_heads, q_len, d, .. } = sizes;
    let plan = spans.plan(sizes.group(), N);
    let panels = plan.panels();
    let (mut out, mut values) = (vec![], vec![0f32; b * kv_heads * panels * N]);
    let forward = Forward::<N> {
        inputs,
        plan: &plan,
        out: Rows::reserve(&mut out, axes, (b, heads, q_len, d)),
        log_sums: Disjoint::new(&mut values),
    };
    if panels < FEW {
        forward.split_keys()
    } else {
        forward.split_panels()
    }
    // SAFETY: every (head, query) is a lane of one panel, and every panel has been written.
    unsafe { out.set_len(b * heads * q_len * d) };
    (out, LogSums { width: N, values })
}

/// A forward pass under way.
struct Forward<'a, const N: usize> {
    inputs: &'a Inputs<'a>,
    plan: &'a Plan,
    out: Rows<'a>,
    log_sums: Disjoint<'a>,
}

impl<const N: usize> Forward<'_, N> {
    /// Each task does some panels of a head from beginning to end.
    fn split_panels(&self) {
        let Sizes { b, kv_heads, d, .. } = self.inputs.sizes;
        let panels = self.plan.panels();
        let share = share(&self.inputs.sizes, panels);
        let shares = panels.div_ceil(share);
        (0..b * kv_heads * shares).into_par_iter().for_each_init(
            || (State::new(d), vec![0.; d * N]),
            |(state, qt), task| {
                let (b, head) = (task / shares / kv_heads, task / shares % kv_heads);
                let (k, v) = heads(self.inputs, b, head, true);
                let first = task % shares * share;
                for panel in first..(first + share).min(panels) {
                    state.reset();
                    let tiles = self.plan.tiles(b, panel);
                    self.attend(keys(&k, &v, d), tiles, (b, head, panel), qt, state);
                    self.finish((b, head, panel), state);
                }
            },
        );
    }

    /// Each task does a piece of a panel's keys; the pieces are joined afterwards. Decoding comes
    /// here, so nobody is woken up for it.
    fn split_keys(&self) {
        let Sizes { b, kv_heads, d, .. } = self.inputs.sizes;
        let panels = self.plan.panels();
        let items = || (0..b * kv_heads * panels).map(|item| split(item, kv_heads, panels));
        let tiles = |(b, _, panel)| self.plan.tiles(b, panel);
        let all: usize = items().map(|item| tiles(item).len()).sum();
        let size = all.div_ceil(PIECES).max(PIECE);
        let pieces: Vec<_> =
            items().flat_map(|item| tiles(item).chunks(size).map(move |t| (item, t))).collect();
        let states: Vec<OnceLock<State<N>>> = pieces.iter().map(|_| OnceLock::new()).collect();
        let run = |piece: usize| {
            let ((b, head, panel), tiles) = pieces[piece];
            let (mut state, mut qt) = (State::new(d), vec![0.; d * N]);
            let (k, v) = heads(self.inputs, b, head, false);
            self.attend(keys(&k, &v, d), tiles, (b, head, panel), &mut qt, &mut state);
            let _ = states[piece].set(state);
        };
        let work = pieces.iter().flat_map(|piece| piece.1).map(|t| 2 * t.keys.len() * d * N);
        if work.sum::<usize>() < SERIAL_WORK {
            (0..pieces.len()).for_each(run);
        } else {
            team::run(pieces.len(), run);
        }
        let mut states = states.into_iter().filter_map(OnceLock::into_inner);
        for item in items() {
            let mut own = states.by_ref().take(tiles(item).len().div_ceil(size));
            let mut whole = own.next().unwrap_or_else(|| State::new(d));
            own.for_each(|state| whole.merge(&state));
            self.finish(item, &whole);
        }
    }

    fn attend(
        &self,
        keys: Keys<'_>,
        tiles: &[Tile],
        (b, head, panel): (usize, usize, usize),
        qt: &mut [f32],
        state: &mut State<N>,
    ) {
        let Inputs { isa, sizes, q, spans, scale, .. } = *self.inputs;
        let (rows, lanes) = panel_rows::<N>(q, &sizes, (b, head, panel));
        read_lanes::<N>(&rows[..lanes], scale, qt);
        panel::attend(isa, keys, tiles, &sight(spans, &sizes, b, panel), qt, state);
    }

    fn finish(&self, (b, head, panel): (usize, usize, usize), state: &State<N>) {
        let sizes = self.inputs.sizes;
        // A query that sees nothing: zeros here, and no gradient in the backward pass.
        let seen: [bool; N] = array::from_fn(|lane| state.sum[lane] != 0.);
        let scale = array::from_fn(|lane| if seen[lane] { 1. / state.sum[lane] } else { 0. });
        // SAFETY: every panel is finished once.
        let (log_sums, mut rows) = unsafe {
            let item = (b * sizes.kv_heads + head) * self.plan.panels() + panel;
            (self.log_sums.part(item * N, N), out_rows::<N>(&self.out, &sizes, (b, head, panel)))
        };
        for (lane, log_sum) in log_sums.iter_mut().enumerate() {
            let sum = state.max[lane] + state.sum[lane].ln();
            *log_sum = if seen[lane] { sum } else { f32::INFINITY };
        }
        let lanes = lanes::<N>(&sizes, panel).len();
        write_lanes::<N>(&state.out, &scale, &mut rows[..lanes]);
    }
}

/// (batch row, key head, panel) of a running number.
fn split(item: usize, kv_heads: usize, panels: usize) -> (usize, usize, usize) {
    (item / panels / kv_heads, item / panels % kv_heads, item % panels)
}

/// The lanes of a panel that hold a query, counted over all panels.
pub(super) fn lanes<const N: usize>(sizes: &Sizes, panel: usize) -> Range<usize> {
    panel * N..((panel + 1) * N).min(sizes.lanes())
}

/// The rows of a panel's lanes, and how many there are.
pub(super) fn panel_rows<'a, const N: usize>(
    view: View<'a>,
    sizes: &Sizes,
    (b, head, panel): (usize, usize, usize),
) -> ([&'a [f32]; N], usize) {
    let mut rows: [&[f32]; N] = [&[]; N];
    let lanes = sizes.panel(head, panel, N).zip(&mut rows);
    let count = lanes.map(|((head, query), row)| *row = view.row(b, head, query, sizes.d)).count();
    (rows, count)
}

/// The rows that a panel's lanes are written to.
///
/// # Safety
/// Each panel is asked for once.
#[allow(clippy::mut_from_ref, reason = "see Disjoint::part")]
pub(super) unsafe fn out_rows<'a, const N: usize>(
    out: &'a Rows<'_>,
    sizes: &Sizes,
    (b, head, panel): (usize, usize, usize),
) -> [&'a mut [MaybeUninit<f32>]; N] {
    let mut rows: [&mut [_]; N] = array::from_fn(|_| Default::default());
    for ((head, query), row) in sizes.panel(head, panel, N).zip(&mut rows) {
        // SAFETY: every (head, query) belongs to one lane of one panel.
        *row = unsafe { out.row(b, head, query) };
    }
    rows
}

/// Keys and values of a head, see [`Head::new`].
pub(super) fn heads<'a>(
    inputs: &Inputs<'a>,
    b: usize,
    head: usize,
    often: bool,
) -> (Head<'a>, Head<'a>) {
    let Inputs { sizes, k, v, .. } = inputs;
    (Head::new(*k, sizes, b, head, often), Head::new(*v, sizes, b, head, often))
}

pub(super) fn keys<'a>(k: &'a Head<'_>, v: &'a Head<'_>, d: usize) -> Keys<'a> {
    let ((k, k_row), (v, v_row)) = (k.rows(), v.rows());
    Keys { k, v, k_row, v_row, d }
}
