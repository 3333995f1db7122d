//! Writes down the launches of a decoder: activations in f32, keys and values in bf16, weights read once for up to sixteen
//! rows.

use lacuna_kernels::StorageDtype;

use super::{Matrix, Recorder, THREADS, lanes};
use crate::launch::Bytes;

/// Threads of a block that norms long rows, and its shared memory: a float for each warp.
const WIDE: u32 = 512;
const WIDE_SCRATCH: u32 = WIDE / 32 * 4;
/// Numbers of f32 in a vector of sixteen bytes.
const VECTOR: usize = 4;
/// Rows that a product takes at most, and rows of weights of a block.
const FEW: usize = 16;
const OUTPUTS: usize = 32;
/// Rows of weights in the shared memory of such a product: two stages for each of eight warps, of 32 rows.
const FEW_STAGES: u32 = 2 * 8 * 32;
/// Rows, each a query's head, that a block of attention takes.
const DECODE_ROWS: usize = 64;
/// Tokens that a block of a draw takes, and its threads.
const SPAN: usize = 4096;
const SAMPLE_THREADS: u32 = 256;
/// Shared memory of the three kernels of a draw, by the structs of `sample.cu`.
const MAXIMA_SHARED: u32 = 8 * 28;
const SPANS_SHARED: u32 = (4096 + 64) / 32 * 33 * 4 + 3 * 64 + 8 * 16 + 2 * 32 + 1024 + 8;
const ROWS_SHARED: u32 = 2048 * 8 + 1032 + 2 * 256 * 8 + 256 * 4 + 2 * 16 + 8 + 8 * 16;
/// Bytes of what these leave for each span of a row, and of a candidate.
const MAXIMA_BYTES: usize = 28;
const SPAN_BYTES: usize = 40;
pub(crate) const CANDIDATE_BYTES: usize = 40;

/// The kind of numbers that a product reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum X {
    Bf16(u64),
    F32(u64),
}

/// The kernels for matrices of one storage format.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Format {
    /// Products with x in bf16, and in f32.
    products: [&'static str; 2],
    /// Rows of a table.
    rows: &'static str,
    /// Bytes of a row of weights in shared memory.
    stride: u32,
    /// Columns that a row has a multiple of.
    pub(crate) columns: usize,
}

impl Format {
    /// The kernels for a format, if it has any.
    pub(crate) fn of(dtype: StorageDtype) -> Option<Self> {
        let of = |products, rows, stride, columns| Some(Self { products, rows, stride, columns });
        match dtype {
            StorageDtype::BF16 => {
                of(["few_rows_bf16_bf16", "few_rows_bf16_f32"], "embedding_bf16_f32", 192, 32)
            }
            StorageDtype::Q8_0 => {
                of(["few_rows_q8_0_bf16", "few_rows_q8_0_f32"], "stored_rows_q8_0", 176, 32)
            }
            StorageDtype::Q4_0 => {
                of(["few_rows_q4_0_bf16", "few_rows_q4_0_f32"], "stored_rows_q4_0", 176, 32)
            }
            StorageDtype::Q4_1 => {
                of(["few_rows_q4_1_bf16", "few_rows_q4_1_f32"], "stored_rows_q4_1", 176, 32)
            }
            StorageDtype::Q4K => {
                of(["few_rows_q4_k_bf16", "few_rows_q4_k_f32"], "stored_rows_q4_k", 160, 256)
            }
            _ => None,
        }
    }
}

/// A matrix as it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) matrix: Matrix,
    pub(crate) format: Format,
}

/// The sequences of a pass over caches.
#[derive(Clone, Copy)]
pub(crate) struct Cached {
    /// The pass's rows, and the most of one sequence.
    pub(crate) rows: usize,
    pub(crate) most_rows: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ranges: u64,
    /// A table of sequences, with the places of their caches.
    pub(crate) sequences: u64,
    pub(crate) n_sequences: usize,
    /// The pieces that their keys are cut into.
    pub(crate) pieces: u64,
    pub(crate) n_pieces: usize,
    /// Partial results of all pieces.
    pub(crate) parts: usize,
}

impl Recorder {
    /// y = x · wᵀ in f32, with a bias added to each row if there is one, for any number of rows, sixteen at a time.
    pub(crate) fn few_rows(
        &mut self,
        x: X,
        rows: usize,
        Stored { matrix: w, format }: Stored,
        bias: Option<u64>,
        y: u64,
    ) {
        // The kernel counts the bytes of a block's rows, at most 64 a column, in an int.
        assert!(w.columns < 1 << 25, "a weight of {} columns", w.columns);
        let (kernel, at, bytes) = match x {
            X::Bf16(at) => (format.products[0], at, 2),
            X::F32(at) => (format.products[1], at, 4),
        };
        for first in (0..rows).step_by(FEW) {
            let n = FEW.min(rows - first);
            let x = at + (first * w.columns * bytes) as u64;
            let y = y + (first * w.rows * 4) as u64;
            let args = Bytes::default().pointer(w.at).pointer(x).pointer(y);
            let args = args.int(n).int(w.rows).int(w.columns).pointer_or_null(bias);
            let shared = FEW_STAGES * format.stride;
            self.launch(kernel, [w.rows.div_ceil(OUTPUTS), 1, 1], (256, shared), args);
        }
    }

    /// Rows of a table as it is stored, in f32.
    pub(crate) fn stored_rows(&mut self, table: Stored, ids: u64, out: u64, rows: usize) {
        self.rows_of(table.format.rows, table.matrix, ids, out, rows);
    }

    /// Rows of a table of f32.
    pub(crate) fn embedding_f32(&mut self, table: Matrix, ids: u64, out: u64, rows: usize) {
        self.rows_of("embedding_f32", table, ids, out, rows);
    }

    fn rows_of(&mut self, kernel: &'static str, table: Matrix, ids: u64, out: u64, rows: usize) {
        let args = Bytes::default().pointer(table.at).pointer(ids).pointer(out);
        let args = args.int(rows).int(table.rows).int(table.columns);
        self.launch(kernel, [rows, 1, 1], (THREADS, 0), args);
    }

    /// Rounds rows and puts them into their places.
    pub(crate) fn place_rows(&mut self, x: Matrix, places: u64, out: u64) {
        let args = Bytes::default().pointer(x.at).pointer(places).pointer(out);
        let args = args.int(x.rows).int(x.columns);
        self.launch("place_rows_f32_bf16", [x.rows, 1, 1], (THREADS, 0), args);
    }

    /// [`Recorder::rms_norm`] in f32.
    pub(crate) fn rms_norm_f32(
        &mut self,
        x: Matrix,
        added: Option<(u64, u64)>,
        weight: u64,
        normed: u64,
        eps: f64,
    ) {
        let (added, sum) = added.unzip();
        // Long rows have a block of more threads: a decoder has so few of them that each waits for its own loads.
        let (lanes, threads) = match lanes(x.columns, VECTOR) {
            long if long == THREADS as usize => (WIDE as usize, WIDE),
            lanes => (lanes, THREADS),
        };
        let args = Bytes::default().pointer(x.at).pointer(weight).pointer(normed);
        let args = args.pointer_or_null(added).pointer_or_null(sum);
        let args = args.int(x.rows).int(x.columns).int(lanes).float(eps);
        let kernel = if added.is_some() { "add_rms_norm_f32" } else { "rms_norm_f32" };
        let blocks = x.rows.div_ceil(threads as usize / lanes);
        self.launch(kernel, [blocks, 1, 1], (threads, WIDE_SCRATCH), args);
    }

    /// [`Recorder::rope`] in f32.
    pub(crate) fn rope_f32(
        &mut self,
        (x, out): (u64, u64),
        [cos, sin, positions]: [u64; 3],
        [rows, heads, head_dim]: [usize; 3],
    ) {
        let args = [x, cos, sin, positions, out].into_iter();
        let args = args.fold(Bytes::default(), Bytes::pointer);
        let args = args.int(rows).int(heads).int(head_dim).float(1.);
        let vectors = rows * heads * (head_dim / 2).div_ceil(VECTOR);
        let blocks = vectors.div_ceil(THREADS as usize);
        self.launch("rope_f32", [blocks, 1, 1], (THREADS, 0), args);
    }

    /// [`Recorder::swiglu`] in f32.
    pub(crate) fn swiglu_f32(&mut self, [gate, up]: [u64; 2], out: u64, n: usize) {
        let args = Bytes::default().pointer(gate).pointer(up).pointer_or_null(None).pointer(out);
        let args = args.pointer_or_null(None).pointer_or_null(None).long(n);
        let blocks = n.div_ceil(THREADS as usize * VECTOR);
        self.launch("swiglu_f32", [blocks, 1, 1], (THREADS, 0), args);
    }

    /// Attention of each sequence's few rows on its cache; q and out: [rows, heads, head_dim] in bf16.
    pub(crate) fn attention_decode(&mut self, of: Cached, [q, out]: [u64; 2]) {
        let log_sums = self.f32(of.rows * of.heads);
        let parts = self.f32(of.parts * of.heads * of.head_dim);
        let part_sums = self.f32(2 * of.parts * of.heads);
        let tensor = |args, at| super::rows(args, (at, of.rows, of.heads, of.head_dim));
        let args = [q, out].into_iter().fold(Bytes::default(), tensor).pointer(log_sums.at);
        let args = args.pointer(of.ranges).pointer(of.sequences).pointer(of.pieces);
        let args = args.pointer(parts.at).pointer(part_sums.at).int(of.heads).int(of.kv_heads);
        let blocks = (of.most_rows * of.heads / of.kv_heads).div_ceil(DECODE_ROWS);
        let scale = 1. / (of.head_dim as f64).sqrt() * std::f64::consts::LOG2_E;
        let args = args.int(blocks).float(scale);
        let [pieces, merge] = match of.head_dim {
            64 => ["attention_decode_64", "attention_decode_merge_64"],
            _ => ["attention_decode_128", "attention_decode_merge_128"],
        };
        let shared = (3 * 2 * 64 * of.head_dim * 2) as u32;
        let grid = [of.n_pieces * of.kv_heads * blocks, 1, 1];
        self.launch(pieces, grid, (128, shared), args.clone());
        let warps = of.most_rows * of.heads * (of.head_dim / 64);
        self.launch(merge, [warps.div_ceil(4), of.n_sequences, 1], (128, 0), args);
        self.free([log_sums, parts, part_sums]);
    }

    /// A candidate for each draw from rows of logits.
    pub(crate) fn sample(&mut self, logits: Matrix, draws: u64, n: usize, candidates: u64) {
        let vocab = logits.columns;
        let spans = vocab.div_ceil(SPAN);
        let maxima = self.fresh(n * spans * MAXIMA_BYTES);
        let results = self.fresh(n * spans * SPAN_BYTES);
        let pool = self.fresh(n * spans * SPAN * 8);
        let args = Bytes::default().pointer(logits.at).long(vocab).int(vocab).pointer(draws);
        let args = args.pointer(maxima.at).pointer(results.at).pointer(pool.at).pointer(candidates);
        for (kernel, grid, shared) in [
            ("sample_maxima", [spans, n, 1], MAXIMA_SHARED),
            ("sample_spans", [spans, n, 1], SPANS_SHARED),
            ("sample_rows", [n, 1, 1], ROWS_SHARED),
        ] {
            self.launch(kernel, grid, (SAMPLE_THREADS, shared), args.clone());
        }
        self.free([maxima, results, pool]);
    }
}
