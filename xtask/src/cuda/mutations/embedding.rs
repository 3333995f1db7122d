//! Lists faults that someone could make in the kernels of the embedding.

use super::{Mutation, fault};

const FILE: &str = "embedding.cu";

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // The rows that are looked up.
    fault("an id beyond the table is read", FILE, ("id < static_cast<unsigned>(p.v)", 0), "true"),
    fault(
        "the last id is beyond the table",
        FILE,
        ("id < static_cast<unsigned>(p.v)", 0),
        "id + 1 < static_cast<unsigned>(p.v)",
    ),
    fault("a row's end is left out", FILE, ("i < p.h; i += THREADS * N", 0), "i < p.h; i += p.h"),
    fault("numbers beyond a row are written", FILE, ("x, p.h - i", 0), "x, N"),
    fault(
        "rows of the table overlap",
        FILE,
        ("(long long)id * p.h", 0),
        "(long long)id * (p.h - 1)",
    ),
    // Rows to their places.
    fault(
        "placed: rows stay in their order",
        FILE,
        ("p.places[blockIdx.x] * p.h", 0),
        "blockIdx.x * p.h",
    ),
    fault(
        "placed: a row that goes nowhere is written",
        FILE,
        ("if (p.places[blockIdx.x] < 0) return;", 0),
        "",
    ),
    fault(
        "placed: numbers beyond a row",
        FILE,
        ("store<WHOLE>(to + i, x, p.h - i);", 1),
        "store<WHOLE>(to + i, x, N);",
    ),
    // The table's gradient.
    fault(
        "backward: what is there is lost",
        FILE,
        ("load<WHOLE>(sum, to, left);", 0),
        "for (float &s : sum) s = 0;",
    ),
    fault(
        "backward: a token's first place is left out",
        FILE,
        ("place = p.starts[blockIdx.x]", 0),
        "place = p.starts[blockIdx.x] + 1",
    ),
    fault("backward: a place of the next token", FILE, ("place < end", 0), "place <= end"),
    fault(
        "backward: every block takes the first columns",
        FILE,
        ("(blockIdx.y * THREADS + threadIdx.x)", 0),
        "threadIdx.x",
    ),
    fault(
        "backward: a token without places is added to",
        FILE,
        ("if (p.starts[blockIdx.x] == end) return;", 0),
        "",
    ),
    fault("backward: columns beyond a row", FILE, ("if (left <= 0) return;", 0), ""),
    fault("backward: rows as they stand, not by token", FILE, ("p.places[place]", 0), "place"),
];
