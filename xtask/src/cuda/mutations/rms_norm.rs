//! Lists faults that someone could make in the kernels of root-mean-square normalisation, and in the
//! code that all kernels share which memory bounds.

use super::{Mutation, fault};

const SHARED: &str = "vectors.cuh";
const NORM: &str = "rms_norm.cu";
const BARRIER: &str = "__syncthreads();";

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // Vectors, and sums over the threads of a row.
    fault(
        "numbers beyond a row are read",
        SHARED,
        ("i < left ? widen(from[i]) : 0", 0),
        "widen(from[i])",
    ),
    fault("numbers beyond a row are written", SHARED, ("if (i < left) to[i]", 0), "to[i]"),
    fault("bf16: halves of a word are mixed", SHARED, ("i % 2        ?", 0), "i % 2 == 0 ?"),
    fault("a sum misses half of the lanes", SHARED, ("step < lanes &&", 0), "step < lanes / 2 &&"),
    fault("warps' sums are read too soon", SHARED, (BARRIER, 0), ""),
    fault("warps' sums are overwritten too soon", SHARED, (BARRIER, 1), ""),
    // The forward pass.
    fault("forward: eps is left out", NORM, (" + p.eps", 0), ""),
    fault("forward: a sum in place of the mean", NORM, ("squares[0] / p.h", 0), "squares[0]"),
    fault("forward: nothing is added", NORM, ("x[k] + added[k]", 0), "x[k]"),
    fault(
        "bf16: forward: the norm of numbers before they are rounded",
        NORM,
        ("widen(narrow<T>(x[k] + added[k]))", 0),
        "x[k] + added[k]",
    ),
    fault("forward: rows beyond the last", NORM, ("row < p.rows ? p.h : 0", 0), "p.h"),
    // The gradients.
    fault("backward: carried is left out", NORM, ("dx[k] +=", 0), "dx[k] ="),
    fault("backward: r as if it were a constant", NORM, (" - back * x[k]", 0), ""),
    fault("backward: rows beyond the last", NORM, ("row < p.rows ? p.h : 0", 1), "p.h"),
    fault("backward: shares begin as they are", NORM, ("share[k * vectors + v] = 0", 0), "(void)v"),
    fault("backward: the last row's share alone", NORM, ("i / N] +=", 0), "i / N] ="),
    fault("backward: shares are summed too soon", NORM, (BARRIER, 0), ""),
    // The weight's gradient.
    fault("weight: parts are summed too soon", NORM, (BARRIER, 1), ""),
    fault("weight: a part is left out", NORM, ("part < PARTS", 0), "part < PARTS - 1"),
    fault("weight: a block too many", NORM, ("(p.rows + p.slab - 1)", 0), "(p.rows + p.slab)"),
    fault("weight: columns beyond the last", NORM, (" || i >= p.h", 0), ""),
    fault(
        "weight: parts of other columns",
        NORM,
        ("part * NORM_COLUMNS + threadIdx.x", 0),
        "part + threadIdx.x",
    ),
    fault(
        "weight: what is there is not added to",
        NORM,
        ("p.add ? widen(p.d_weight[i]) + sum : sum", 0),
        "sum",
    ),
];
