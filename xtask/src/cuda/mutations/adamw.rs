//! Lists faults that someone could make in the kernels of AdamW.

use super::{Mutation, fault};

const FILE: &str = "adamw.cu";

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // Sums of squares.
    fault("squares: a tail is left out", FILE, ("else if (left > 0)", 0), "else if (false)"),
    fault(
        "squares: numbers of the next chunk",
        FILE,
        ("i < ADAMW_CHUNK;", 0),
        "i < ADAMW_CHUNK + 4;",
    ),
    fault(
        "squares: every chunk is the first",
        FILE,
        ("chunk.index * ADAMW_CHUNK", 0),
        "0 * ADAMW_CHUNK",
    ),
    fault(
        "squares: every chunk is the first parameter's",
        FILE,
        ("p.parameters[chunk.parameter]", 0),
        "p.parameters[0]",
    ),
    fault("squares: numbers in place of squares", FILE, ("sum += g[k] * g[k]", 0), "sum += g[k]"),
    // The norm of all gradients.
    fault(
        "norm: chunks beyond a block's threads are left out",
        FILE,
        ("i += blockDim.x", 0),
        "i += p.chunks",
    ),
    fault("norm: a chunk too many", FILE, ("i < p.chunks;", 0), "i <= p.chunks;"),
    fault("norm: its square", FILE, ("sqrtf(sum[0])", 0), "sum[0]"),
    fault("norm: the first warp's sum", FILE, ("Team(blockDim.x)", 0), "Team(32)"),
    fault(
        "norm: the last chunks alone",
        FILE,
        ("sum[0] += p.squares[i]", 0),
        "sum[0] = p.squares[i]",
    ),
    // The step.
    fault("step: nothing is clipped", FILE, ("g[k] *= scale;", 0), ""),
    fault("step: a small gradient grows", FILE, ("if (scale > 1) scale = 1;", 0), ""),
    fault(
        "step: a NaN in the norm is overlooked",
        FILE,
        ("if (scale > 1)", 0),
        "if (!(scale <= 1))",
    ),
    fault("step: decay is left out", FILE, (" * step.shrink", 0), ""),
    fault("step: every parameter decays", FILE, ("if (!of.decays)", 0), "if (false)"),
    fault("step: eps is left out", FILE, (" + p.eps", 0), ""),
    fault(
        "step: the gradient is not squared",
        FILE,
        ("p.rest2 * g[k] * g[k]", 0),
        "p.rest2 * g[k]",
    ),
    fault(
        "step: the second moment in place of the first",
        FILE,
        ("of.first + at, m", 0),
        "of.first + at, v",
    ),
    fault("step: a tail is left out", FILE, ("else if (left > 0)", 1), "else if (false)"),
    fault(
        "bf16: step: the master is not kept",
        FILE,
        ("store<WHOLE>(master + at, x, left);", 0),
        "",
    ),
    fault(
        "bf16: step: the parameter is not kept",
        FILE,
        ("if (sizeof(T) == 2) store", 0),
        "if (false) store",
    ),
];
