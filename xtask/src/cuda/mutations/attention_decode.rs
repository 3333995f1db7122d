//! Lists faults that someone could make in the attention of a decoder.

use super::{Mutation, Part, fault};

const DECODE: &str = "attention_decode.cu";

/// Heads of one size are enough to find a fault.
pub(in super::super) fn part(_: &Mutation) -> Part {
    Part { flags: &[], words: &["64"] }
}

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    fault("no barrier before a tile is read", DECODE, ("__syncthreads();", 1), ""),
    fault("a tile is not waited for", DECODE, ("copies_wait<1>();", 0), "copies_wait<2>();"),
    fault(
        "the next tile overwrites this",
        DECODE,
        ("stage == 0 ? DECODE_STAGES - 1 : stage - 1", 0),
        "stage",
    ),
    fault(
        "warps hide the keys of the first",
        DECODE,
        ("begin + tile * DECODE_KEYS + own_keys", 0),
        "begin + tile * DECODE_KEYS",
    ),
    fault("warps have the same keys", DECODE, ("own_keys * D", 0), "0"),
    fault("pieces share keys", DECODE, ("min(begin + s.split, s.kv_len)", 0), "s.kv_len"),
    fault(
        "a tile that ends with a range is skipped",
        DECODE,
        ("sees_some(sight.some, s.prefix, key, key + DECODE_KEYS)", 0),
        "sees_some(sight.some, s.prefix, key + 32, key + DECODE_KEYS)",
    ),
    fault(
        "no tile is skipped",
        DECODE,
        ("sees_some(sight.some, s.prefix, key, key + DECODE_KEYS)", 0),
        "true",
    ),
    fault("a sight misses the last row", DECODE, ("lane < s.rows", 0), "lane < s.rows - 1"),
    fault(
        "another key head's queries",
        DECODE,
        ("kv_head * group() + row % group()", 0),
        "row % group()",
    ),
    fault("another row of the group", DECODE, ("row / group()", 0), "row % s.rows"),
    fault(
        "a row sees what the sequence's first does",
        DECODE,
        ("p.ranges[s.query + query(row)]", 0),
        "p.ranges[s.query]",
    ),
    fault("halves of a query are mixed", DECODE, ("from[k * 8 + 4]", 0), "from[k * 8 + 3]"),
    fault("sums are put over tiles", DECODE, ("__syncthreads();", 2), ""),
    fault("sums of warps are not waited for", DECODE, ("__syncthreads();", 0), ""),
    fault(
        "warps are not on one scale",
        DECODE,
        ("of_warp.y == 0 ? 0.f : exp2_fast(of_warp.x - largest)", 0),
        "1.f",
    ),
    fault(
        "warps that saw nothing make NaNs",
        DECODE,
        ("of_warp.y == 0 ? 0.f : exp2_fast(of_warp.x - largest)", 0),
        "exp2_fast(of_warp.x - largest)",
    ),
    fault(
        "scores are not scaled",
        DECODE,
        ("most[0][half] * rows.p.scale_log2", 0),
        "most[0][half]",
    ),
    fault("rows that are none are written", DECODE, ("row >= rows.count()", 0), "false"),
    fault("bands are mixed", DECODE, ("own / 16 * SHARE * 16 + own % 16", 0), "own"),
    fault("a piece that is none is computed", DECODE, ("work.x < 0", 0), "false"),
    fault("every block of a piece has its first rows", DECODE, ("block * DECODE_ROWS", 0), "0"),
    fault(
        "merge: pieces are not on one scale",
        DECODE,
        ("sums.y == 0 ? 0.f : exp2_fast(sums.x - most)", 0),
        "1.f",
    ),
    fault(
        "merge: pieces that nobody sees make NaNs",
        DECODE,
        ("sums.y == 0 ? 0.f : exp2_fast(sums.x - most)", 0),
        "exp2_fast(sums.x - most)",
    ),
    fault(
        "merge: the pieces beyond 32 are the first again",
        DECODE,
        ("part(first + i)", 0),
        "part(i)",
    ),
    fault(
        "merge: weights of another piece",
        DECODE,
        ("__shfl_sync(~0u, weight, i)", 0),
        "__shfl_sync(~0u, weight, count - 1 - i)",
    ),
    fault("merge: the last row is forgotten", DECODE, ("row >= s.rows", 0), "row >= s.rows - 1"),
    fault(
        "merge: log-sums to base 2",
        DECODE,
        ("most * LN_2 + logf(total)", 0),
        "most + logf(total)",
    ),
    fault(
        "a sequence depends on those beside it",
        DECODE,
        ("count <= 16", 0),
        "p.sequences[0].rows > 4 || count <= 16",
    ),
];
