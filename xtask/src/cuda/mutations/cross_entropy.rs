//! Lists faults that someone could make in the loss and the products that it is made of.

use super::{Mutation, Part, fault};

const PRODUCT: &str = "product.cuh";
const GROUPS: &str = "product_hopper.cuh";
const LOSS: &str = "cross_entropy.cuh";

/// The tests of one path.
pub(in super::super) fn part(mutation: &Mutation) -> Part {
    let words: &[_] = match mutation.name.split(':').next() {
        Some("chunk") => &["chunks"],
        Some("groups") => &["hopper"],
        _ => &["plain"],
    };
    Part { flags: &[], words }
}

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // Products.
    fault("rows beyond the last are read", PRODUCT, ("row + first + i < m.rows", 0), "true"),
    fault(
        "columns beyond the last are read",
        PRODUCT,
        ("column + chunk * 8 < m.columns", 0),
        "true",
    ),
    fault(
        "a slab is not waited for",
        PRODUCT,
        ("copies_wait<STAGES - 2>();", 0),
        "copies_wait<STAGES - 1>();",
    ),
    fault("no barrier before a slab", PRODUCT, ("__syncthreads();", 0), ""),
    fault("no barrier behind the last tile", PRODUCT, ("__syncthreads();", 1), ""),
    fault(
        "the slab that is read is loaded",
        PRODUCT,
        ("load(stage == 0 ? STAGES - 1 : stage - 1);", 0),
        "load(stage);",
    ),
    fault("a tile ends one slab early", PRODUCT, ("k < depth", 0), "k + DEPTH < depth"),
    fault(
        "halves of a transposed operand change places",
        PRODUCT,
        ("place<TILE>((lane & 7) + (lane >> 4) * 8, lane >> 3 & 1)", 0),
        "place<TILE>((lane & 7) + (lane >> 3 & 1) * 8, lane >> 4)",
    ),
    // Products of warp groups.
    fault("groups: products are not waited for", GROUPS, ("products_wait<0>();", 0), ""),
    fault("groups: copies are not published", PRODUCT, ("Warps::publish();", 0), ""),
    fault("groups: both have the same rows", GROUPS, ("this_warp() / 4 * 64 * DEPTH", 0), "0"),
    fault(
        "groups: two warps have the same rows",
        GROUPS,
        ("this_warp() * 16", 0),
        "this_warp() / 2 * 16",
    ),
    fault("groups: panels overlap", GROUPS, ("DEPTH * PANEL * 2", 0), "DEPTH * PANEL"),
    fault(
        "groups: right operands are read twice",
        GROUPS,
        ("describe_tile(b + k * 16)", 0),
        "describe_tile(b)",
    ),
    // Forward.
    fault(
        "a token beyond the vocabulary counts",
        LOSS,
        ("n * 8 + i % 2 >= left", 0),
        "n * 8 + i % 2 > left",
    ),
    fault(
        "a sum stays as the maximum rises",
        LOSS,
        ("sum *= exp2_fast((most - max) * LOG2_E);", 0),
        "",
    ),
    fault("a maximum is one lane's", LOSS, ("row.raise(max_of_four(max));", 0), "row.raise(max);"),
    fault("the target is its neighbour", LOSS, ("at == n * 8 + i", 0), "at == n * 8 + i + 1"),
    fault("half a tile is forgotten", LOSS, ("side < Warps::SIDES", 0), "side < 1"),
    fault("halves are read before they are there", LOSS, ("__syncthreads();", 0), ""),
    // Rows.
    fault("the last part is left out", LOSS, ("part < p.n_parts", 0), "part + 1 < p.n_parts"),
    fault("losses of warps are read before they are there", LOSS, ("__syncthreads();", 1), ""),
    // Gradients.
    fault("the target is not taken off", LOSS, ("token == target ? 1.f : 0.f", 0), "0.f"),
    fault("every chunk is the first", LOSS, ("p.first / TILE + blockIdx.y", 0), "blockIdx.y"),
    fault(
        "columns beyond the chunk are written",
        LOSS,
        ("if (token - p.first + n * 8 >= p.columns) continue;", 0),
        "",
    ),
    fault(
        "chunks replace each other",
        PRODUCT,
        ("p.add ? *pair : make_float2(0, 0)", 0),
        "make_float2(0, 0)",
    ),
    // Chunks of logits.
    fault(
        "chunk: lanes are not summed",
        LOSS,
        ("seen.add_part(make_float2(most, sum));", 0),
        "seen.raise(most);",
    ),
    fault("chunk: logits beyond it count", LOSS, ("column + i >= p.columns", 0), "false"),
    fault("chunk: parts share a place", LOSS, ("(long long)p.part * p.loss.rows + row", 0), "row"),
    fault(
        "chunk: its first token is no target",
        LOSS,
        ("at >= 0 && at < p.columns", 0),
        "at > 0 && at < p.columns",
    ),
    fault(
        "chunk: tokens are counted from its beginning",
        LOSS,
        ("p.first + column + i", 0),
        "column + i",
    ),
    fault("chunk: padding keeps what it held", LOSS, ("(p.columns + 7) / 8 * 8", 0), "p.columns"),
    fault(
        "chunk: pairs change places",
        LOSS,
        ("pack_bf16(four.z[0], four.z[1])", 0),
        "pack_bf16(four.z[1], four.z[0])",
    ),
];
