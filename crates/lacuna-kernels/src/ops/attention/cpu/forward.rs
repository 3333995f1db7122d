//! Splits attention on CPU tensors of f32 into panels of query lanes, for both passes, and runs the forward pass.

use std::array;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::layout::{Head, Rows, Sizes, Stored, View, read_lanes, sight, write_lanes};
use super::panel::{Attend, Keys, State};
use super::plan::{Plan, TILE, Tile};
use super::{KeyRanges, Segment};
use crate::backend::Isa;
use crate::raw::Disjoint;
use crate::{simd, spin};

/// With fewer panels than this in every head the keys are split among tasks instead: there are few queries, and many
/// keys.
const FEW: usize = 4;
/// The number of pieces that the keys are split into when queries are few.
const PIECES: usize = 32;
/// The fewest tiles of keys in a piece.
const PIECE: usize = 2;
/// Multiplications below which the calling thread works alone: a few microseconds.
const SERIAL_WORK: usize = 128 * 1024;
/// The number of tasks aimed at when there are many panels.
const TASKS: usize = 16;

/// One segment as both passes see it: its sizes, its rows of q, k and v, and the keys that its queries see.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) sizes: Sizes,
    /// The rows of q from the segment's first one on; k and v likewise.
    pub(super) q: View<'a>,
    pub(super) k: Stored<'a>,
    pub(super) v: Stored<'a>,
    pub(super) ranges: &'a KeyRanges,
    /// The segment's first row in q and in the output.
    pub(super) first_query: usize,
    /// The segment's first row in k and v and in their gradients.
    pub(super) first_key: usize,
}

impl<'a> Part<'a> {
    /// Takes the segment's rows of q, k and v, each of which is given whole.
    pub(super) fn new(
        sizes: Sizes,
        q: View<'a>,
        (k, v): (Stored<'a>, Stored<'a>),
        segment: &'a Segment,
    ) -> Self {
        let (first_query, first_key) = (segment.queries.start, segment.keys.start);
        Self {
            sizes,
            q: q.skip(first_query),
            k: k.skip(first_key),
            v: v.skip(first_key),
            ranges: &segment.ranges,
            first_query,
            first_key,
        }
    }

    fn is_packed(&self) -> bool {
        [self.k, self.v].iter().any(|rows| matches!(rows, Stored::Packed(..)))
    }

    /// The keys and values of a key head; `often` as in [`Head::new`].
    pub(super) fn head(&self, isa: Isa, head: usize, often: bool) -> (Head<'a>, Head<'a>) {
        let Self { sizes, k, v, .. } = self;
        (Head::new(isa, *k, sizes, head, often), Head::new(isa, *v, sizes, head, often))
    }
}

/// One panel's place in a pass.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) part: usize,
    pub(super) head: usize,
    pub(super) panel: usize,
}

/// A pass over all segments, cut into panels of N lanes; N is the same for every segment.
pub(super) struct Work<'a, const N: usize> {
    pub(super) isa: Isa,
    pub(super) scale: f32,
    pub(super) parts: &'a [Part<'a>],
    pub(super) plans: Vec<Arc<Plan>>,
    /// For each part, the number of panels in all heads of the parts before it; at the end, that in all parts.
    firsts: Vec<usize>,
}

impl<'a, const N: usize> Work<'a, N> {
    pub(super) fn new(isa: Isa, scale: f32, parts: &'a [Part<'a>]) -> Self {
        let plan = |part: &Part<'_>| part.ranges.plan(part.sizes.group(), N);
        let plans: Vec<_> = parts.iter().map(plan).collect();
        let mut firsts = vec![0];
        for (part, plan) in parts.iter().zip(&plans) {
            firsts.push(firsts[firsts.len() - 1] + part.sizes.kv_heads * plan.panels());
        }
        Self { isa, scale, parts, plans, firsts }
    }

    /// The number of panels in all heads of all parts.
    pub(super) fn len(&self) -> usize {
        self.firsts[self.parts.len()]
    }

    pub(super) fn number(&self, at: At) -> usize {
        self.firsts[at.part] + at.head * self.plans[at.part].panels() + at.panel
    }

    pub(super) fn tiles(&self, at: At) -> &[Tile] {
        self.plans[at.part].tiles(at.panel)
    }

    /// The number of panels in a head of the longest segment.
    pub(super) fn longest(&self) -> usize {
        self.plans.iter().map(|plan| plan.panels()).max().unwrap_or(0)
    }

    /// Divides the panels into shares, so that there are enough tasks when there are few heads. A share is a run of
    /// panels of one head, given by its first panel and their number. The longest segment's shape alone decides where
    /// the shares are cut, never the number of threads.
    pub(super) fn shares(&self) -> Vec<(At, usize)> {
        let heads: usize = self.parts.iter().map(|part| part.sizes.kv_heads).sum();
        let longest = self.longest();
        let splits = (TASKS / heads.max(1)).clamp(1, longest.div_ceil(8).max(1));
        let share = longest.div_ceil(splits).max(1);
        let mut shares = Vec::new();
        for (part, plan) in self.plans.iter().enumerate() {
            for head in 0..self.parts[part].sizes.kv_heads {
                for panel in (0..plan.panels()).step_by(share) {
                    let count = share.min(plan.panels() - panel);
                    shares.push((At { part, head, panel }, count));
                }
            }
        }
        shares
    }
}

/// log Σ exp of every lane, panel after panel, and the panels' width.
#[derive(Debug)]
pub(in super::super) struct Lse {
    pub(super) width: usize,
    pub(super) values: Vec<f32>,
}

/// The number of lanes in a panel: as few as the queries of a key head fit into, and no more than the registers serve
/// well, which is two vectors of 8 lanes, or of 16 with AVX-512.
fn panel_width(isa: Isa, lanes: usize) -> usize {
    match lanes {
        0..=8 => 8,
        17.. if isa == Isa::Avx512 => 32,
        _ => 16,
    }
}

fn lanes(part: &Part<'_>) -> usize {
    part.sizes.lanes()
}

/// Writes the output rows of all parts. The shapes of all parts together decide where sums are cut.
pub(super) fn forward(isa: Isa, scale: f32, parts: &[Part<'_>], out: &Rows<'_>) -> Lse {
    let width = panel_width(isa, parts.iter().map(lanes).max().unwrap_or(0));
    let run = match width {
        8 => forward_panels::<8>,
        16 => forward_panels::<16>,
        _ => forward_panels::<32>,
    };
    Lse { width, values: run(isa, scale, parts, Cut::Together, out) }
}

/// Writes the output rows of all parts as [`forward`] does, but a part's own shape decides where its sums are cut:
/// its result has the same bits whatever stands beside it.
pub(super) fn forward_apart(isa: Isa, scale: f32, parts: &[Part<'_>], out: &Rows<'_>) {
    let few = |part: &Part<'_>| lanes(part).div_ceil(panel_width(isa, lanes(part))) < FEW;
    for (width, run) in
        [(8, forward_panels::<8> as Run), (16, forward_panels::<16>), (32, forward_panels::<32>)]
    {
        for is_few in [true, false] {
            let alike =
                |part: &&Part<'_>| panel_width(isa, lanes(part)) == width && few(part) == is_few;
            let parts: Vec<_> = parts.iter().filter(alike).copied().collect();
            if !parts.is_empty() {
                run(isa, scale, &parts, Cut::Apart, out);
            }
        }
    }
}

type Run = fn(Isa, f32, &[Part<'_>], Cut, &Rows<'_>) -> Vec<f32>;

/// The work by which the size of pieces is chosen when the keys of few queries are split.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The work of all segments.
    Together,
    /// The work of each by itself.
    Apart,
}

fn forward_panels<const N: usize>(
    isa: Isa,
    scale: f32,
    parts: &[Part<'_>],
    cut: Cut,
    out: &Rows<'_>,
) -> Vec<f32> {
    let work = Work::<N>::new(isa, scale, parts);
    let mut values = vec![0f32; work.len() * N];
    let few = work.longest() < FEW;
    let forward = Forward::<N> { work, out, lse: Disjoint::new(&mut values) };
    match few {
        true => forward.split_keys(cut),
        false => forward.split_panels(),
    }
    values
}

/// A forward pass under way.
struct Forward<'a, const N: usize> {
    work: Work<'a, N>,
    out: &'a Rows<'a>,
    lse: Disjoint<'a>,
}

impl<const N: usize> Forward<'_, N> {
    /// Each task does some panels of a head from beginning to end.
    fn split_panels(&self) {
        let shares = self.work.shares();
        let d = self.work.parts[0].sizes.d;
        shares.par_iter().for_each_init(
            || (State::new(d), vec![0.; d * N]),
            |(state, qt), (first, count)| {
                let (k, v) = self.work.parts[first.part].head(self.work.isa, first.head, true);
                for panel in first.panel..first.panel + count {
                    let at = At { panel, ..*first };
                    state.reset();
                    self.attend(keys(&k, &v, d), self.work.tiles(at), at, (qt, &mut []), state);
                    self.finish(at, state);
                }
            },
        );
    }

    /// Each task does a piece of a panel's keys; the pieces are joined afterwards. Decoding takes this way, so its
    /// tasks run on the spin pool, whose threads are not asleep between one short pass and the next.
    fn split_keys(&self, cut: Cut) {
        let work = &self.work;
        let d = work.parts[0].sizes.d;
        let tiles = |part: usize| work.parts[part].sizes.kv_heads * work.plans[part].all_tiles();
        let all: usize = (0..work.parts.len()).map(tiles).sum();
        let size = |part: usize| {
            let tiles = if cut == Cut::Together { all } else { tiles(part) };
            tiles.div_ceil(PIECES).max(PIECE)
        };
        let panels: Vec<At> = work
            .shares()
            .into_iter()
            .flat_map(|(first, count)| {
                (first.panel..first.panel + count).map(move |panel| At { panel, ..first })
            })
            .collect();
        let cuts = |at: &At| work.tiles(*at).chunks(size(at.part));
        let pieces: Vec<(At, &[Tile])> =
            panels.iter().flat_map(|at| cuts(at).map(move |tiles| (*at, tiles))).collect();
        let states: Vec<OnceLock<State<N>>> = pieces.iter().map(|_| OnceLock::new()).collect();
        let run = |piece: usize| {
            let (at, tiles) = pieces[piece];
            let (mut state, mut qt) = (State::new(d), vec![0.; d * N]);
            let mut room = vec![0.; if work.parts[at.part].is_packed() { TILE * d } else { 0 }];
            let (k, v) = work.parts[at.part].head(work.isa, at.head, false);
            self.attend(keys(&k, &v, d), tiles, at, (&mut qt, &mut room), &mut state);
            let _ = states[piece].set(state);
        };
        let products = pieces.iter().flat_map(|piece| piece.1).map(|t| 2 * t.keys.len() * d * N);
        if products.sum::<usize>() < SERIAL_WORK {
            (0..pieces.len()).for_each(run);
        } else {
            spin::run(pieces.len(), run);
        }
        let mut states = states.into_iter().filter_map(OnceLock::into_inner);
        for at in &panels {
            let mut own = states.by_ref().take(cuts(at).len());
            let mut whole = own.next().unwrap_or_else(|| State::new(d));
            own.for_each(|state| whole.merge(&state));
            self.finish(*at, &whole);
        }
    }

    fn attend(
        &self,
        keys: Keys<'_>,
        tiles: &[Tile],
        at: At,
        (qt, room): (&mut [f32], &mut [f32]),
        state: &mut State<N>,
    ) {
        let Part { sizes, q, ranges, .. } = self.work.parts[at.part];
        let (rows, lanes) = panel_rows::<N>(q, &sizes, at);
        read_lanes::<N>(&rows[..lanes], self.work.scale, qt);
        let sight = sight(ranges, &sizes, at.panel);
        simd::run(self.work.isa, Attend { keys, tiles, sight, qt, state, room });
    }

    fn finish(&self, at: At, state: &State<N>) {
        let part = &self.work.parts[at.part];
        // A query that sees nothing gets zeros here, and no gradient in the backward pass.
        let seen: [bool; N] = array::from_fn(|lane| state.sum[lane] != 0.);
        let scale = array::from_fn(|lane| if seen[lane] { 1. / state.sum[lane] } else { 0. });
        // SAFETY: every panel is finished once.
        let (lse, mut rows) = unsafe {
            let lse = self.lse.part(self.work.number(at) * N, N);
            (lse, out_rows::<N>(self.out, part, at))
        };
        for (lane, lse) in lse.iter_mut().enumerate() {
            let sum = state.max[lane] + state.sum[lane].ln();
            *lse = if seen[lane] { sum } else { f32::INFINITY };
        }
        let lanes = lanes_of::<N>(&part.sizes, at.panel).len();
        write_lanes::<N>(&state.out, &scale, &mut rows[..lanes]);
    }
}

/// The lanes of a panel that hold a query, counted over all panels.
fn lanes_of<const N: usize>(sizes: &Sizes, panel: usize) -> Range<usize> {
    panel * N..((panel + 1) * N).min(sizes.lanes())
}

/// The rows of a panel's lanes, and the number of lanes that hold a query.
pub(super) fn panel_rows<'a, const N: usize>(
    view: View<'a>,
    sizes: &Sizes,
    at: At,
) -> ([&'a [f32]; N], usize) {
    let mut rows: [&[f32]; N] = [&[]; N];
    let lanes = sizes.panel(at.head, at.panel, N).zip(&mut rows);
    let count = lanes.map(|((head, query), row)| *row = view.row(head, query, sizes.d)).count();
    (rows, count)
}

/// The rows that a panel's lanes are written to.
///
/// # Safety
/// Each panel is asked for once.
#[allow(clippy::mut_from_ref, reason = "see Disjoint::part")]
pub(super) unsafe fn out_rows<'a, const N: usize>(
    out: &'a Rows<'_>,
    part: &Part<'_>,
    at: At,
) -> [&'a mut [MaybeUninit<f32>]; N] {
    let mut rows: [&mut [_]; N] = array::from_fn(|_| Default::default());
    for ((head, query), row) in part.sizes.panel(at.head, at.panel, N).zip(&mut rows) {
        // SAFETY: every (head, query) belongs to one lane of one panel.
        *row = unsafe { out.row(head, part.first_query + query) };
    }
    rows
}

pub(super) fn keys<'a>(k: &'a Head<'_>, v: &'a Head<'_>, d: usize) -> Keys<'a> {
    Keys { k: k.rows(), v: v.rows(), d }
}
