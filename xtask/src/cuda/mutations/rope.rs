//! Lists faults that someone could make in the kernel of rotary position embedding.

use super::{Mutation, fault};

const FILE: &str = "rope.cu";

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    fault("the gradient is turned forward", FILE, (" * p.direction", 0), ""),
    fault(
        "a position for each head",
        FILE,
        ("p.positions[head / p.heads]", 0),
        "p.positions[head % p.heads]",
    ),
    fault("the first vector's angles for all", FILE, ("half + i", 0), "half"),
    fault("pairs beyond half a head are turned", FILE, ("left = half - i", 0), "left = p.d - i"),
    fault(
        "heads beyond the last are turned",
        FILE,
        ("if (head >= p.rows * p.heads) return;", 0),
        "",
    ),
    fault("the second half turns back", FILE, ("y * cos[k] + x * s", 0), "y * cos[k] - x * s"),
    fault(
        "a number is turned with one that has been",
        FILE,
        ("y * cos[k] + x * s", 0),
        "y * cos[k] + a[k] * s",
    ),
];
