//! Lists faults that someone could make in a layer's products: in the ways they read operands, and in what becomes of the
//! sums. The loss's suite has those of the loop that both share.

use super::{Mutation, Part, fault};

const PRODUCT: &str = "product.cuh";
const LINEAR: &str = "linear.cu";

/// The tests of the kernels for every card: those for one share what the faults are in.
pub(in super::super) fn part(_: &Mutation) -> Part {
    Part { flags: &[], words: &["plain"] }
}

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    fault(
        "what is there is not added to",
        PRODUCT,
        ("p.add ? *pair : make_float2(0, 0)", 0),
        "make_float2(0, 0)",
    ),
    fault(
        "what is there is always added to",
        PRODUCT,
        ("p.add ? *pair : make_float2(0, 0)", 0),
        "p.out ? *pair : make_float2(0, 0)",
    ),
    fault(
        "the last product is rounded alone",
        PRODUCT,
        ("pack_bf16(sum.x, sum.y)", 0),
        "pack_bf16(sums[m][n][2 * half], sums[m][n][2 * half + 1])",
    ),
    fault(
        "pairs change places",
        PRODUCT,
        ("pack_bf16(sum.x, sum.y)", 0),
        "pack_bf16(sum.y, sum.x)",
    ),
    fault(
        "columns beyond the last are written",
        PRODUCT,
        ("column + n * 8 >= columns", 0),
        "false",
    ),
    fault("rows beyond the last are written", PRODUCT, ("row >= p.rows", 0), "false"),
    fault(
        "rows are as long as the sums",
        PRODUCT,
        ("(long long)row * columns + column", 0),
        "(long long)row * p.left.columns + column",
    ),
    fault(
        "half of a row's tile is left out",
        PRODUCT,
        ("tile * TILE + Warps::column()", 0),
        "tile * TILE + lane_column()",
    ),
    fault("every block takes the first rows", PRODUCT, ("blockIdx.x * TILE", 0), "0"),
    fault(
        "the gradient of x goes along the rows of W",
        LINEAR,
        ("sum_up<Quarters, Along::Rows, Along::Columns>(p);", 0),
        "sum_up<Quarters, Along::Rows, Along::Rows>(p);",
    ),
    fault(
        "the gradient of W goes along rows",
        LINEAR,
        ("sum_up<Quarters, Along::Columns, Along::Columns>(p);", 0),
        "sum_up<Quarters, Along::Rows, Along::Columns>(p);",
    ),
    // The gradient of W by slices of rows.
    fault("slices: every slice is the first", PRODUCT, ("blockIdx.z * p.slice", 0), "0"),
    fault(
        "slices: the last one goes on into what follows",
        PRODUCT,
        ("min(rows, m.rows - first)", 0),
        "rows",
    ),
    fault(
        "slices: one result for all",
        PRODUCT,
        ("p.out + (long long)blockIdx.z * p.rows * columns", 0),
        "p.out",
    ),
    fault(
        "slices: the last one is left out",
        LINEAR,
        ("slice < p.slices", 0),
        "slice + 1 < p.slices",
    ),
    fault(
        "slices: what is there is not added to",
        LINEAR,
        ("if (p.add) load<true>(sum, p.out + i, N);", 0),
        "",
    ),
    // Biases, and their gradients.
    fault(
        "the bias is left out",
        PRODUCT,
        ("if (p.bias) sum = plus_bias(sum, p.bias + column + n * 8);", 0),
        "",
    ),
    fault("one bias for two columns", PRODUCT, ("bf16_low(two)", 0), "bf16_high(two)"),
    fault("bias: lines are summed too soon", LINEAR, ("__syncthreads();", 0), ""),
    fault("bias: a line is left out", LINEAR, ("i < BIAS_LINES", 0), "i < BIAS_LINES - 1"),
    fault(
        "bias: rows beyond the last",
        LINEAR,
        ("column < p.columns ? min(first + p.slab, p.rows) : 0", 0),
        "column < p.columns ? first + p.slab : 0",
    ),
    fault("bias: every slab is the first", LINEAR, ("blockIdx.y * p.slab", 0), "0"),
    fault(
        "bias: columns beyond the last are read",
        LINEAR,
        ("column < p.columns ? min(first + p.slab, p.rows) : 0", 0),
        "min(first + p.slab, p.rows)",
    ),
    fault("bias: columns beyond the last are written", LINEAR, ("mine >= p.columns", 0), "false"),
];
