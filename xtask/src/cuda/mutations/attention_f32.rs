//! Lists faults that someone could make in attention's kernels for f32.

use super::{Mutation, Part, fault};

const F32: &str = "attention_f32.cu";
const BARRIER: &str = "__syncthreads();";
const WARP_BARRIER: &str = "__syncwarp();";
const WAIT: &str = "copies_wait<0>();";
const LATE: &str = "copies_wait<1>();";

/// Heads of 64, whose cases are all.
pub(in super::super) fn part(_: &Mutation) -> Part {
    Part { flags: &[], words: &["64"] }
}

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // Tiles, and products by them.
    fault("rows beyond the last are read", F32, ("first + row + i < count", 0), "true"),
    fault(
        "weights in another order",
        F32,
        ("(lane_of_eight() + j * GROUP_LANES) * WEIGHT_STRIDE<ROWS>", 0),
        "(lane_of_eight() * OF_LANE + j) * WEIGHT_STRIDE<ROWS>",
    ),
    fault("a sum misses four lanes", F32, ("x + __shfl_xor_sync(~0u, x, 4)", 0), "x"),
    fault("a maximum misses four lanes", F32, ("fmaxf(x, __shfl_xor_sync(~0u, x, 4))", 0), "x"),
    fault(
        "no tile of keys is skipped",
        F32,
        ("sees_some(some, mask.prefix, i * OVER, (i + 1) * OVER)", 0),
        "true",
    ),
    fault(
        "a tile seen in part counts as seen",
        F32,
        ("sees_all(mask.sights_of(b)[row / SIGHT].all, mask.prefix, key, key + OVER)", 0),
        "sees_all(mask.sights_of(b)[row / SIGHT].all, mask.prefix, key, key + 1)",
    ),
    // The forward pass.
    fault("forward: no barrier before the scores", F32, (BARRIER, 0), ""),
    fault("forward: no barrier before the values", F32, (BARRIER, 1), ""),
    fault("forward: keys are not waited for", F32, (WAIT, 0), LATE),
    fault("forward: values are not waited for", F32, (WAIT, 1), LATE),
    fault(
        "forward: values of the next tile",
        F32,
        ("load(v_tile, p.v, tile);", 0),
        "load(v_tile, p.v, tile + 1);",
    ),
    fault("forward: the sum does not fade", F32, ("sum[i] *= fade;", 0), ""),
    fault("forward: results do not fade", F32, ("out[i][c][n] *= fade;", 0), ""),
    fault(
        "forward: hidden tiles make NaNs",
        F32,
        ("max == NOTHING ? 1 : exp2_fast((most[i] - max) * scale_log2)", 0),
        "exp2_fast((most[i] - max) * scale_log2)",
    ),
    fault(
        "forward: blind queries make NaNs",
        F32,
        ("max == NOTHING ? 0 : max * scale_log2", 0),
        "max * scale_log2",
    ),
    fault(
        "forward: another head's keys",
        F32,
        ("head / (p.heads / p.kv_heads)", 0),
        "head % p.kv_heads",
    ),
    fault("forward: log-sums to base 2", F32, ("p.scale_log2 * LN_2", 0), "p.scale_log2"),
    // Statistics of rows.
    fault("rows: blind queries have weights", F32, ("log_sum == NOTHING", 0), "false"),
    fault(
        "rows: a sum misses half of the lanes",
        F32,
        ("delta += __shfl_xor_sync(~0u, delta, step);", 0),
        "delta += step == 16 ? 0 : __shfl_xor_sync(~0u, delta, step);",
    ),
    fault("rows: log-sums to base e", F32, ("LOG2_E", 0), "1.f"),
    // The gradient of queries.
    fault("queries: a tile is overwritten too soon", F32, (BARRIER, 2), ""),
    fault("queries: a tile is read too soon", F32, (BARRIER, 3), ""),
    fault("queries: a tile is not waited for", F32, (WAIT, 3), LATE),
    fault("queries: weights are read too soon", F32, (WARP_BARRIER, 0), ""),
    fault(
        "queries: values in place of keys",
        F32,
        ("add_weighted_floats<D, ROWS>(d_q, weights, k_tile);", 0),
        "add_weighted_floats<D, ROWS>(d_q, weights, v_tile);",
    ),
    fault("queries: delta is left out", F32, ("stats[i].y", 0), "0"),
    fault("queries: the scale is left out", F32, ("p.scale_log2 * LN_2", 1), "1"),
    // The gradients of keys and values.
    fault("keys: a tile is overwritten too soon", F32, (BARRIER, 4), ""),
    fault("keys: a tile is read too soon", F32, (BARRIER, 5), ""),
    fault("keys: a tile is not waited for", F32, (WAIT, 5), LATE),
    fault("keys: weights are read too soon", F32, (WARP_BARRIER, 1), ""),
    fault("keys: weights are overwritten too soon", F32, (WARP_BARRIER, 2), ""),
    fault("keys: their gradients are read too soon", F32, (WARP_BARRIER, 3), ""),
    fault(
        "keys: only the first head of a group",
        F32,
        ("head < (kv_head + 1) * group", 0),
        "head < kv_head * group + 1",
    ),
    fault(
        "keys: no tile of queries is skipped",
        F32,
        ("sees_some(mask.sights_of(b)[i].some, mask.prefix, key0, key0 + KEYS)", 0),
        "true",
    ),
    fault(
        "keys: a tile seen in part counts as seen",
        F32,
        ("!sees_all(mask.sights_of(b)[tile].all, mask.prefix, row, row_end)", 0),
        "false",
    ),
    fault(
        "keys: statistics of another query",
        F32,
        ("q0 + lane_of_eight() + j * GROUP_LANES", 0),
        "q0 + lane_of_eight()",
    ),
    fault("keys: delta is left out", F32, ("stats[j].y", 0), "0"),
    fault(
        "keys: outputs' gradients in place of queries",
        F32,
        ("add_weighted_floats<D, ROWS>(d_k, weights, q_tile);", 0),
        "add_weighted_floats<D, ROWS>(d_k, weights, d_out_tile);",
    ),
];
