//! Lists faults that someone could make in attention's kernels.

use super::{Mutation, Part, fault};

const SHARED: &str = "attention.cuh";
const FORWARD: &str = "attention_forward.cu";
const BACKWARD: &str = "attention_backward.cu";
const HOPPER: &str = "attention_hopper.cu";
const HOPPER_SHARED: &str = "hopper.cuh";
const BARRIER: &str = "__syncthreads();";
const WAIT: &str = "copies_wait<0>();";
const LATE: &str = "copies_wait<1>();";
const PUBLISH: &str = "publish_copies();";

/// Kernels of one shape and the passes with the fault.
pub(in super::super) fn part(mutation: &Mutation) -> Part {
    let starts = |word| mutation.name.starts_with(word);
    let words: &[_] = match mutation.file {
        HOPPER | HOPPER_SHARED if starts("hopper forward") || starts("groups") => {
            &["128_hopper", "forward"]
        }
        HOPPER | HOPPER_SHARED => &["128_hopper"],
        BACKWARD => &["64"],
        _ if starts("rows: ") => &["64"],
        _ => &["64", "forward"],
    };
    Part { flags: &[], words }
}

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // The code that all kernels share.
    fault("chunks of a tile share banks", SHARED, ("(chunk ^ (row & 7)) << 3", 0), "chunk << 3"),
    fault("rows beyond the last are read", SHARED, ("first + row + i < count", 0), "true"),
    fault(
        "every second tile is skipped",
        SHARED,
        ("found &= found - 1;", 0),
        "found &= found - 1, found &= found - 1;",
    ),
    fault(
        "a tile that begins with a range is skipped",
        SHARED,
        ("some.x < end", 0),
        "some.x < begin",
    ),
    fault("the hull forgets second ranges", SHARED, ("min(some.z, one.z)", 0), "some.z"),
    fault("a range holds one key too many", SHARED, ("key < range.y", 0), "key <= range.y"),
    fault("the prefix is hidden", SHARED, ("key < prefix", 0), "false"),
    fault("a tile seen in part counts as seen", SHARED, ("end <= all.y", 0), "begin <= all.y"),
    fault(
        "right operands of two tiles are mixed",
        SHARED,
        ("multiply_add(sums[m][n], a[m], right[0], right[1]);", 0),
        "multiply_add(sums[m][n], a[m], right[0], right[2]);",
    ),
    fault(
        "left operands are in another order",
        SHARED,
        ("left[m][1] = pack_bf16(w[2 * k][2], w[2 * k][3])", 0),
        "left[m][2] = pack_bf16(w[2 * k][2], w[2 * k][3])",
    ),
    fault(
        "values are not transposed",
        SHARED,
        ("load_matrices_transposed(right, b + chunk_on(right_at, d) + k * 16 * D)", 0),
        "load_matrices(right, b + chunk_on(right_at, d) + k * 16 * D)",
    ),
    fault("a sum misses two lanes", SHARED, ("x + __shfl_xor_sync(~0u, x, 2)", 0), "x"),
    fault("a maximum misses two lanes", SHARED, ("fmaxf(x, __shfl_xor_sync(~0u, x, 2))", 0), "x"),
    // Sights.
    fault(
        "a sight holds what some queries see",
        SHARED,
        ("min(all.y, __shfl_xor_sync(~0u, all.y, step))", 0),
        "max(all.y, __shfl_xor_sync(~0u, all.y, step))",
    ),
    fault(
        "a sight begins where the last query's range does",
        SHARED,
        ("min(some.x, __shfl_xor_sync(~0u, some.x, step))", 0),
        "max(some.x, __shfl_xor_sync(~0u, some.x, step))",
    ),
    fault("sights beyond the last are written", FORWARD, ("sight < p.mask.n_sights()", 0), "true"),
    fault(
        "a sight ends with the shortest second range",
        SHARED,
        ("max(some.w, __shfl_xor_sync(~0u, some.w, step))", 0),
        "min(some.w, __shfl_xor_sync(~0u, some.w, step))",
    ),
    fault(
        "batch rows share one sight",
        FORWARD,
        ("(long long)blockIdx.y * p.mask.n_sights()", 0),
        "0",
    ),
    // The forward pass.
    fault("forward: no barrier", FORWARD, (BARRIER, 0), ""),
    fault("forward: a tile is not waited for", FORWARD, (WAIT, 0), LATE),
    fault(
        "forward: the next tile overwrites this",
        FORWARD,
        ("load(tile, stage ^ 2 * TILE)", 0),
        "load(tile, stage)",
    ),
    fault("forward: the sum does not fade", SHARED, ("sum[m][0] *= fade[m][0]", 0), "sum[m][0]"),
    fault(
        "forward: hidden tiles make NaNs",
        SHARED,
        ("max == NOTHING ? 1 : exp2_fast((most[m][half] - max) * scale_log2)", 0),
        "exp2_fast((most[m][half] - max) * scale_log2)",
    ),
    fault(
        "forward: blind queries make NaNs",
        SHARED,
        ("most[m][half] == NOTHING ? 0.f : most[m][half] * scale_log2", 0),
        "most[m][half] * scale_log2",
    ),
    fault(
        "forward: another head's keys",
        FORWARD,
        ("head / (p.heads / p.kv_heads)", 0),
        "head % p.kv_heads",
    ),
    fault("forward: log-sums to base 2", FORWARD, ("p.scale_log2 * LN_2", 0), "p.scale_log2"),
    fault(
        "forward: no tile is skipped",
        FORWARD,
        ("sees_some(some, mask.prefix, i * KEYS, (i + 1) * KEYS)", 0),
        "true",
    ),
    // Statistics of rows.
    fault("rows: blind queries have weights", BACKWARD, ("log_sum == NOTHING", 0), "false"),
    fault(
        "rows: a sum misses half of the lanes",
        BACKWARD,
        ("delta += __shfl_xor_sync(~0u, delta, step)", 0),
        "delta += step == 16 ? 0 : __shfl_xor_sync(~0u, delta, step)",
    ),
    fault("rows: log-sums to base e", BACKWARD, ("LOG2_E", 0), "1"),
    fault(
        "rows: halves of a word are mixed",
        BACKWARD,
        ("bf16_high(d_out[i])", 0),
        "bf16_low(d_out[i])",
    ),
    fault(
        "rows: another head's",
        SHARED,
        ("((long long)b * heads + head) * padded", 0),
        "((long long)b * heads) * padded",
    ),
    // The gradient of queries.
    fault("queries: no barrier", BACKWARD, (BARRIER, 0), ""),
    fault("queries: a tile is not waited for", BACKWARD, (WAIT, 0), LATE),
    fault(
        "queries: the next tile overwrites this",
        BACKWARD,
        ("load(tile, stage ^ 1)", 0),
        "load(tile, stage)",
    ),
    fault(
        "queries: values in place of keys",
        BACKWARD,
        ("add_weighted_rows<D, BANDS, KEYS>(d_q, s, k_tile);", 0),
        "add_weighted_rows<D, BANDS, KEYS>(d_q, s, v_tile);",
    ),
    fault("queries: delta is left out", BACKWARD, ("stats[m][i / 2].y", 0), "0"),
    fault("queries: the scale is left out", BACKWARD, ("p.scale_log2 * LN_2", 0), "1"),
    // The gradients of keys and values.
    fault("keys: no barrier", BACKWARD, (BARRIER, 1), ""),
    fault("keys: a tile is not waited for", BACKWARD, (WAIT, 2), LATE),
    fault(
        "keys: the next tile overwrites this",
        BACKWARD,
        ("load(tile, stage ^ 1)", 1),
        "load(tile, stage)",
    ),
    fault(
        "keys: statistics of the query before",
        BACKWARD,
        ("stats[n * 8 + 2 * t + (i & 1)].x", 0),
        "stats[n * 8 + 2 * t].x",
    ),
    fault(
        "keys: only the first head of a group",
        BACKWARD,
        ("head < (kv_head + 1) * group", 0),
        "head < kv_head * group + 1",
    ),
    fault("keys: later heads' queries are not visited", BACKWARD, ("walk = Walk{}", 0), "walk"),
    fault(
        "keys: outputs' gradients in place of queries",
        BACKWARD,
        ("add_weighted_rows<D, BANDS, QUERIES>(d_k, p_t, q_tile);", 0),
        "add_weighted_rows<D, BANDS, QUERIES>(d_k, p_t, d_out_tile);",
    ),
    fault(
        "keys: statistics are copied in part",
        BACKWARD,
        ("threadIdx.x < QUERIES / 2", 0),
        "threadIdx.x < QUERIES / 4",
    ),
    fault("keys: a tile seen in part counts as seen", BACKWARD, ("!whole", 0), "false"),
    // Products of warp groups.
    fault(
        "groups: tiles are not swizzled",
        HOPPER_SHARED,
        ("place<64>(row, chunk % 8)", 0),
        "row * 64 + chunk % 8 * 8",
    ),
    fault("groups: the second panel is not found", HOPPER_SHARED, ("PANEL * 2", 0), "PANEL"),
    fault("groups: one panel for all columns", HOPPER_SHARED, ("k / 4 * PANEL + row", 0), "row"),
    fault(
        "groups: the first 16 columns every time",
        HOPPER_SHARED,
        ("a.rows(row, k)", 0),
        "a.rows(row, 0)",
    ),
    fault(
        "groups: weights in another order",
        HOPPER_SHARED,
        ("w[0][2 * k + i / 2][i % 2 * 2]", 0),
        "w[0][2 * k + i % 2][i / 2 * 2]",
    ),
    fault(
        "groups: values are read along rows",
        HOPPER_SHARED,
        ("b.columns(k)", 0),
        "b.rows(16 * k, 0)",
    ),
    fault("groups: sums begin with what was there", HOPPER_SHARED, ("k > 0", 0), "true"),
    // The forward pass of sm_90a.
    fault("hopper forward: the first tile is not published", HOPPER, (PUBLISH, 0), ""),
    fault("hopper forward: no barrier before the first tile", HOPPER, (BARRIER, 0), ""),
    fault("hopper forward: no barrier", HOPPER, (BARRIER, 1), ""),
    fault("hopper forward: a tile is not waited for", HOPPER, (WAIT, 1), LATE),
    fault("hopper forward: no barrier before the last values", HOPPER, (BARRIER, 2), ""),
    fault(
        "hopper forward: scores are not waited for",
        HOPPER,
        ("products_wait<1>();", 0),
        "products_wait<2>();",
    ),
    fault("hopper forward: sums fade while they grow", HOPPER, ("products_wait<0>();", 1), ""),
    fault(
        "hopper forward: the next keys overwrite these",
        HOPPER,
        ("load_keys(next, stage)", 0),
        "load_keys(next, stage ^ 1)",
    ),
    fault(
        "hopper forward: the next values overwrite these",
        HOPPER,
        ("load_values(now, stage ^ 1)", 0),
        "load_values(now, stage)",
    ),
    fault(
        "hopper forward: sums do not fade",
        HOPPER,
        ("out[0][d][i] *= fade[i / 2]", 0),
        "out[0][d][i] *= 1",
    ),
    fault(
        "hopper forward: weights meet the next values",
        HOPPER,
        ("start_weighted_rows<D, KEYS>(out, weights, v(stage));", 0),
        "start_weighted_rows<D, KEYS>(out, weights, v(stage ^ 1));",
    ),
    fault(
        "hopper forward: the tile before is masked",
        HOPPER,
        ("weigh(now * KEYS)", 0),
        "weigh(tile * KEYS)",
    ),
    // The gradients of sm_90a.
    fault("hopper queries: no barrier", HOPPER, (BARRIER, 3), ""),
    fault("hopper queries: tiles are not published", HOPPER, (PUBLISH, 3), ""),
    fault(
        "hopper queries: weights' gradients are not waited for",
        HOPPER,
        ("products_wait<0>();", 3),
        "",
    ),
    fault(
        "hopper queries: values in place of keys",
        HOPPER,
        ("start_weighted_rows<D, KEYS>(d_q, weights, k(now));", 0),
        "start_weighted_rows<D, KEYS>(d_q, weights, v(now));",
    ),
    fault("hopper queries: delta is left out", HOPPER, ("stats[i / 2].y", 0), "0"),
    fault(
        "hopper queries: the next tile overwrites this",
        HOPPER,
        ("load(tile, stage)", 0),
        "load(tile, now)",
    ),
    fault("hopper keys: no barrier", HOPPER, (BARRIER, 4), ""),
    fault("hopper keys: tiles are not published", HOPPER, (PUBLISH, 4), ""),
    fault(
        "hopper keys: scores are not waited for",
        HOPPER,
        ("products_wait<1>();", 2),
        "products_wait<2>();",
    ),
    fault(
        "hopper keys: weights' gradients are not waited for",
        HOPPER,
        ("products_wait<1>();", 3),
        "products_wait<2>();",
    ),
    fault(
        "hopper keys: outputs' gradients in place of queries",
        HOPPER,
        ("start_weighted_rows<D, QUERIES>(d_k, d_weights, q(now));", 0),
        "start_weighted_rows<D, QUERIES>(d_k, d_weights, d_out(now));",
    ),
    fault(
        "hopper keys: statistics of the other stage",
        HOPPER,
        ("row_stages + now * QUERIES", 0),
        "row_stages + stage * QUERIES",
    ),
    fault("hopper keys: a tile seen in part counts as seen", HOPPER, ("!whole", 0), "false"),
];
