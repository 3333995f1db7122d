//! Writes launches down: one method a kernel, which lays its arguments out as the kernel's struct has them, and says how
//! many blocks it takes.

use crate::arena::{Arena, Region};
use crate::card::{Attention, Card, Products};
use crate::launch::{Bytes, Launch, Plan, Step, Upload};

pub(crate) mod decode;
mod products;

pub(crate) use products::Sum;

/// Threads of a block of the kernels that memory bounds.
const THREADS: u32 = 128;
/// Shared memory of a sum over such a block: two floats a warp.
const SCRATCH: u32 = THREADS / 32 * 2 * 4;
/// Numbers of bf16 in a vector of sixteen bytes.
const VECTOR: usize = 8;
/// Numbers of a parameter that a block of the optimizer takes.
pub(crate) const ADAMW_CHUNK: usize = 16384;
/// Queries that share a sight of the mask, and bytes of one.
const SIGHT: usize = 32;
const SIGHT_BYTES: usize = 32;
/// Rows of statistics are laid out for whole tiles of this many queries.
const PADDING: usize = 128;

/// A plan in the making.
pub(crate) struct Recorder {
    arena: Arena,
    plan: Plan,
    attention: Attention,
    products: Products,
    /// True once the group of launches that is being written down has one; none outside of a group.
    group: Option<bool>,
}

/// A matrix with contiguous rows of bf16.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) at: u64,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// The heads of an attention, and what its queries see of its keys.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// The ranges of keys of each query.
    pub(crate) ranges: u64,
    /// Their summary, made by [`Recorder::sights`].
    pub(crate) sights: u64,
}

/// The supervised rows and what the loss leaves of each.
#[derive(Clone, Copy)]
pub(crate) struct Loss {
    pub(crate) rows: usize,
    pub(crate) targets: u64,
    pub(crate) weights: u64,
    pub(crate) parts: u64,
    pub(crate) target_logits: u64,
    pub(crate) log_sums: u64,
    pub(crate) nll: u64,
    pub(crate) loss: u64,
    pub(crate) n_parts: usize,
    pub(crate) part_tiles: usize,
    pub(crate) hidden: Matrix,
    pub(crate) head: Matrix,
}

/// A chunk of the vocabulary whose gradient is formed at once.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) d_logits: u64,
    pub(crate) first: usize,
    pub(crate) columns: usize,
}

/// A row of places for each token that occurs.
#[derive(Clone, Copy)]
pub(crate) struct Occurrences {
    pub(crate) n: usize,
    pub(crate) tokens: u64,
    pub(crate) starts: u64,
    pub(crate) places: u64,
}

/// The optimizer's tables, and what does not change from step to step.
#[derive(Clone, Copy)]
pub(crate) struct AdamW {
    pub(crate) parameters: u64,
    pub(crate) chunks: u64,
    pub(crate) n_chunks: usize,
    pub(crate) squares: u64,
    pub(crate) norm: u64,
    pub(crate) step: u64,
    pub(crate) clip: Option<f64>,
    pub(crate) betas: [f64; 2],
    pub(crate) eps: f64,
}

/// Lanes that share a row of n numbers, `vector` to sixteen bytes, as `lanes_for` has it.
fn lanes(n: usize, vector: usize) -> usize {
    match n.div_ceil(vector) {
        257.. => THREADS as usize,
        vectors => vectors.next_power_of_two().min(32),
    }
}

fn teams(n: usize) -> usize {
    THREADS as usize / lanes(n, VECTOR)
}

/// Rows of a block of a norm's gradient: a whole number for each team, and at most 512 blocks.
fn norm_slab(rows: usize, h: usize) -> usize {
    rows.div_ceil(teams(h)).div_ceil(512) * teams(h)
}

fn padded(queries: usize) -> usize {
    queries.next_multiple_of(PADDING)
}

impl Recorder {
    /// A plan whose arena begins with `bytes` of somebody else's.
    pub(crate) fn new(card: Card, attention: Attention, bytes: u64) -> Self {
        let (arena, plan) = (Arena::behind(bytes), Plan::default());
        Self { arena, plan, attention, products: Products::of(card), group: None }
    }

    pub(crate) fn finish(self) -> Plan {
        Plan { arena_bytes: self.arena.bytes(), ..self.plan }
    }

    /// A buffer of `bytes` that holds nothing yet.
    fn fresh(&mut self, bytes: usize) -> Region {
        let region = self.arena.take(bytes as u64);
        self.plan.steps.push(Step::Fresh { at: region.at, bytes: region.bytes });
        region
    }

    pub(crate) fn bf16(&mut self, n: usize) -> Region {
        self.fresh(2 * n)
    }

    pub(crate) fn f32(&mut self, n: usize) -> Region {
        self.fresh(4 * n)
    }

    /// Gives back buffers that no later step reads.
    pub(crate) fn free(&mut self, regions: impl IntoIterator<Item = Region>) {
        assert!(self.group.is_none(), "a launch beside others may still read what is given back");
        regions.into_iter().for_each(|region| self.arena.give_back(region));
    }

    /// A buffer that is written before the first step, so nothing may have been given back yet that a step writes.
    pub(crate) fn upload(&mut self, data: Bytes) -> u64 {
        debug_assert!(self.arena.is_whole(), "a table in memory that an earlier step writes");
        let at = self.arena.take(data.bytes.len() as u64).at;
        self.plan.uploads.push(Upload { at, data });
        at
    }

    /// A buffer that somebody else writes before the first step.
    pub(crate) fn table(&mut self, bytes: u64) -> u64 {
        debug_assert!(self.arena.is_whole(), "a table in memory that an earlier step writes");
        self.arena.take(bytes).at
    }

    pub(crate) fn zero(&mut self, at: u64, bytes: usize) {
        assert!(self.group.is_none(), "zeros would part a group of launches");
        self.plan.steps.push(Step::Zero { at, bytes: bytes as u64 });
    }

    /// Writes down launches that may run side by side: none of them reads or writes what another writes.
    pub(crate) fn together<R>(&mut self, launches: impl FnOnce(&mut Self) -> R) -> R {
        assert!(self.group.is_none(), "a group in a group");
        self.group = Some(false);
        let result = launches(self);
        self.group = None;
        result
    }

    fn launch(
        &mut self,
        kernel: &'static str,
        grid: [usize; 3],
        (threads, shared): (u32, u32),
        args: Bytes,
    ) {
        let grid = grid.map(|blocks| u32::try_from(blocks).expect("sizes are bounded"));
        let beside = self.group.as_mut().is_some_and(|begun| std::mem::replace(begun, true));
        let launch = Launch { kernel, grid, threads, shared, args: args.end(), beside };
        self.plan.steps.push(Step::Launch(launch));
    }

    /// Rows of a table by their ids.
    pub(crate) fn embedding(&mut self, table: Matrix, ids: u64, out: u64, rows: usize) {
        let args = Bytes::default().pointer(table.at).pointer(ids).pointer(out);
        let args = args.int(rows).int(table.rows).int(table.columns);
        self.launch("embedding_bf16", [rows, 1, 1], (THREADS, 0), args);
    }

    /// Adds rows of bf16 to a table's rows, in bf16 or in f32.
    pub(crate) fn embedding_backward(
        &mut self,
        d_out: u64,
        of: Occurrences,
        d_table: u64,
        h: usize,
        wide: bool,
    ) {
        let args = [d_out, of.tokens, of.starts, of.places, d_table].into_iter();
        let args = args.fold(Bytes::default(), Bytes::pointer).int(h);
        let (kernel, vector) = match wide {
            true => ("embedding_backward_bf16_f32", VECTOR / 2),
            false => ("embedding_backward_bf16", VECTOR),
        };
        let slices = h.div_ceil(THREADS as usize * vector);
        self.launch(kernel, [of.n, slices, 1], (THREADS, 0), args);
    }

    /// Normed rows; with `added` those of the sum, which is kept too.
    pub(crate) fn rms_norm(
        &mut self,
        x: Matrix,
        added: Option<(u64, u64)>,
        weight: u64,
        normed: u64,
        eps: f64,
    ) {
        let (added, sum) = added.unzip();
        let args = Bytes::default().pointer(x.at).pointer(weight).pointer(normed);
        let args = args.pointer_or_null(added).pointer_or_null(sum);
        let args = args.int(x.rows).int(x.columns).int(lanes(x.columns, VECTOR)).float(eps);
        let kernel = if added.is_some() { "add_rms_norm_bf16" } else { "rms_norm_bf16" };
        let blocks = x.rows.div_ceil(teams(x.columns));
        self.launch(kernel, [blocks, 1, 1], (THREADS, SCRATCH), args);
    }

    /// Gradients of rows before their norm, `carried` added, and of the norm's weight in f32, which may be added to.
    pub(crate) fn rms_norm_backward(
        &mut self,
        x: Matrix,
        (weight, eps): (u64, f64),
        d_normed: u64,
        carried: Option<u64>,
        (dx, d_weight, adds): (u64, u64, bool),
    ) {
        let (h, slab) = (x.columns, norm_slab(x.rows, x.columns));
        let blocks = x.rows.div_ceil(slab);
        let partial = self.f32(blocks * h);
        let args = Bytes::default().pointer(x.at).pointer(weight).pointer(d_normed);
        let args = args.pointer_or_null(carried).pointer(dx).pointer(d_weight);
        let args =
            args.pointer(partial.at).int(x.rows).int(h).int(lanes(h, VECTOR)).int(slab).float(eps);
        let args = args.flag(adds);
        let shared = SCRATCH + (teams(h) * h.next_multiple_of(VECTOR) * 4) as u32;
        self.launch("rms_norm_backward_bf16", [blocks, 1, 1], (THREADS, shared), args.clone());
        // The shares are f32 whatever the rows are, and this kernel writes the weight's gradient so.
        self.sum_slabs(h, args);
        self.free([partial]);
    }

    /// Heads turned by their rows' positions, or back.
    pub(crate) fn rope(
        &mut self,
        (x, out): (u64, u64),
        [cos, sin, positions]: [u64; 3],
        [rows, heads, head_dim]: [usize; 3],
        direction: f64,
    ) {
        let args = [x, cos, sin, positions, out].into_iter();
        let args = args.fold(Bytes::default(), Bytes::pointer);
        let args = args.int(rows).int(heads).int(head_dim).float(direction);
        let vectors = rows * heads * (head_dim / 2).div_ceil(VECTOR);
        let blocks = vectors.div_ceil(THREADS as usize);
        self.launch("rope_bf16", [blocks, 1, 1], (THREADS, 0), args);
    }

    /// The gated activation of n numbers.
    pub(crate) fn swiglu(&mut self, [gate, up]: [u64; 2], out: u64, n: usize) {
        let args = Bytes::default().pointer(gate).pointer(up).pointer_or_null(None).pointer(out);
        let args = args.pointer_or_null(None).pointer_or_null(None).long(n);
        self.elementwise("swiglu_bf16", n, args);
    }

    /// Its gradients, and its result once more.
    pub(crate) fn swiglu_backward(
        &mut self,
        [gate, up, d_out]: [u64; 3],
        [out, d_gate, d_up]: [u64; 3],
        n: usize,
    ) {
        let args = [gate, up, d_out, out, d_gate, d_up].into_iter();
        let args = args.fold(Bytes::default(), Bytes::pointer).long(n);
        self.elementwise("swiglu_backward_bf16", n, args);
    }

    fn elementwise(&mut self, kernel: &'static str, n: usize, args: Bytes) {
        let blocks = n.div_ceil(THREADS as usize * VECTOR);
        self.launch(kernel, [blocks, 1, 1], (THREADS, 0), args);
    }

    /// A summary of the ranges of `queries`, once for all layers that share them.
    pub(crate) fn sights(&mut self, ranges: u64, queries: usize, keys: usize) -> u64 {
        let sights = self.fresh(queries.div_ceil(SIGHT) * SIGHT_BYTES);
        let args = mask(Bytes::default(), ranges, sights.at, queries, keys).pointer(sights.at);
        let blocks = queries.div_ceil(4 * SIGHT);
        self.launch("attention_sights", [blocks, 1, 1], (128, 0), args);
        sights.at
    }

    /// Attention; `log_sums` is [heads, queries].
    pub(crate) fn attention(&mut self, of: Heads, [q, k, v, out]: [u64; 4], log_sums: u64) {
        let args = [of.q(q), of.k(k), of.k(v), of.q(out)].into_iter();
        let args = args.fold(Bytes::default(), rows).pointer(log_sums);
        let args = of.end(of.mask(args));
        let (queries, threads, shared) = self.attention.forward_blocks();
        let grid = [of.queries.div_ceil(queries as usize), of.heads, 1];
        self.launch(self.attention.forward, grid, (threads, shared), args);
    }

    /// Its gradients.
    pub(crate) fn attention_backward(
        &mut self,
        of: Heads,
        [q, k, v, out, d_out]: [u64; 5],
        log_sums: u64,
        [d_q, d_k, d_v]: [u64; 3],
    ) {
        let padded = padded(of.queries);
        let stats = self.fresh(of.heads * padded * 8);
        let tensors = [of.q(q), of.k(k), of.k(v), of.q(out), of.q(d_out), of.q(d_q)];
        let args = tensors.into_iter().chain([of.k(d_k), of.k(d_v)]);
        let args = args.fold(Bytes::default(), rows).pointer(log_sums).pointer(stats.at);
        let args = of.end(of.mask(args));
        let kernels = self.attention;
        self.launch(kernels.rows, [padded / 4, of.heads, 1], (128, 0), args.clone());
        let (queries, threads, shared) = kernels.query_blocks();
        let grid = [of.queries.div_ceil(queries as usize), of.heads, 1];
        self.launch(kernels.backward_queries, grid, (threads, shared), args.clone());
        let (keys, threads, shared) = kernels.key_blocks();
        let grid = [of.keys.div_ceil(keys as usize), of.kv_heads, 1];
        self.launch(kernels.backward_keys, grid, (threads, shared), args);
        self.free([stats]);
    }

    /// log Σ exp and loss of each row, and their weighted sum.
    pub(crate) fn loss(&mut self, of: Loss) {
        let none = Chunk { d_logits: of.parts, first: 0, columns: 0 };
        let (rows, grid) = (of.rows, [of.rows.div_ceil(Products::TILE), of.n_parts, 1]);
        let (kernel, threads) = (self.products.loss_forward, self.products.threads);
        self.launch(kernel, grid, (threads, Products::SHARED), of.head_args(none));
        let args = of.args(Bytes::default());
        self.launch("cross_entropy_merge", [rows.div_ceil(128), 1, 1], (128, 0), args.clone());
        self.launch("cross_entropy_loss", [1, 1, 1], (128, 128 / 32 * 8), args);
    }

    /// The gradient of a chunk's logits.
    pub(crate) fn loss_gradient(&mut self, of: Loss, chunk: Chunk) {
        let tiles = |n: usize| n.div_ceil(Products::TILE);
        let (kernel, threads) = (self.products.loss_gradient, self.products.threads);
        let grid = [tiles(of.rows), tiles(chunk.columns), 1];
        self.launch(kernel, grid, (threads, Products::SHARED), of.head_args(chunk));
    }

    /// The norm of all gradients.
    pub(crate) fn gradient_norm(&mut self, of: AdamW) {
        let grid = [of.n_chunks, 1, 1];
        self.launch("gradient_squares_f32", grid, (THREADS, SCRATCH), of.args());
        let sum = Bytes::default().pointer(of.squares).int(of.n_chunks).pointer(of.norm);
        self.launch("gradient_norm", [1, 1, 1], (1024, 1024 / 32 * 4), sum);
    }

    /// A step of all parameters.
    pub(crate) fn adamw(&mut self, of: AdamW) {
        self.launch("adamw_bf16_f32", [of.n_chunks, 1, 1], (THREADS, 0), of.args());
    }
}

impl AdamW {
    fn args(&self) -> Bytes {
        let of = self;
        let norm = of.clip.map(|_| of.norm);
        let args = [of.parameters, of.chunks, of.squares].into_iter();
        let args = args.fold(Bytes::default(), Bytes::pointer).pointer_or_null(norm);
        let [beta1, beta2] = of.betas;
        let args = args.pointer(of.step).float(of.clip.unwrap_or(0.)).float(beta1).float(beta2);
        args.float(1. - beta1).float(1. - beta2).float(of.eps)
    }
}

impl Heads {
    fn q(&self, at: u64) -> (u64, usize, usize, usize) {
        (at, self.queries, self.heads, self.head_dim)
    }

    fn k(&self, at: u64) -> (u64, usize, usize, usize) {
        (at, self.keys, self.kv_heads, self.head_dim)
    }

    fn mask(&self, args: Bytes) -> Bytes {
        mask(args, self.ranges, self.sights, self.queries, self.keys)
    }

    fn end(&self, args: Bytes) -> Bytes {
        let scale = 1. / (self.head_dim as f64).sqrt() * std::f64::consts::LOG2_E;
        args.int(self.heads).int(self.kv_heads).float(scale)
    }
}

impl Loss {
    fn args(&self, args: Bytes) -> Bytes {
        let pointers = [self.targets, self.weights, self.parts, self.target_logits, self.log_sums];
        let args = pointers.into_iter().fold(args, Bytes::pointer);
        args.pointer(self.nll).pointer(self.loss).int(self.rows).int(self.n_parts).end()
    }

    fn head_args(&self, chunk: Chunk) -> Bytes {
        let args = matrix(matrix(self.args(Bytes::default()), self.hidden), self.head);
        let args = args.int(self.part_tiles).pointer(chunk.d_logits);
        args.int(chunk.first).int(chunk.columns)
    }
}

fn matrix(args: Bytes, m: Matrix) -> Bytes {
    args.pointer(m.at).int(m.columns).int(m.rows).int(m.columns).end()
}

/// A tensor [len, heads, head_dim] of one sequence, as attention's kernels stride over it.
fn rows(args: Bytes, (at, len, heads, head_dim): (u64, usize, usize, usize)) -> Bytes {
    let row = heads * head_dim;
    args.pointer(at).long(len * row).long(head_dim).int(row).end()
}

fn mask(args: Bytes, ranges: u64, sights: u64, queries: usize, keys: usize) -> Bytes {
    args.pointer(ranges).pointer(sights).int(1).int(0).int(queries).int(keys).end()
}
