//! Lists faults that someone could make in the kernels of the gated activation.

use super::{Mutation, fault};

const FILE: &str = "swiglu.cu";

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // The forward pass, and what it shares with the gradients.
    fault("the gate is turned round", FILE, ("-LOG2_E * x", 0), "LOG2_E * x"),
    fault("the exponential has base 2", FILE, ("-LOG2_E * x", 0), "-x"),
    fault("up is left out", FILE, ("silu * up[k]", 0), "silu"),
    fault("a tail is left out", FILE, ("else if (at < p.n)", 0), "else if (false)"),
    fault("numbers beyond the last are written", FILE, ("at + VECTOR<T> <= p.n", 0), "at < p.n"),
    fault("vectors overlap", FILE, ("threadIdx.x) * VECTOR<T>", 0), "threadIdx.x) * VECTOR<T> / 2"),
    // The gradients.
    fault(
        "backward: sigma as if it were a constant",
        FILE,
        ("(sigma + silu * (1 - sigma))", 0),
        "sigma",
    ),
    fault(
        "backward: sigma in place of its complement",
        FILE,
        ("silu * (1 - sigma)", 0),
        "silu * sigma",
    ),
    fault("backward: d_out is left out of d_up", FILE, ("d_out[k] * silu", 0), "silu"),
    fault("backward: up is left out of d_gate", FILE, ("d_out[k] * up[k] *", 0), "d_out[k] *"),
    fault(
        "backward: d_up in place of d_gate",
        FILE,
        ("p.d_gate + at, d_gate", 0),
        "p.d_gate + at, d_up",
    ),
];
