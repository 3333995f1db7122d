//! Lists faults that someone could make in the kernels that draw.

use super::{Mutation, Part, fault};

const SAMPLE: &str = "sample.cu";
const SHARED: &str = "sample.cuh";

pub(in super::super) fn part(_: &Mutation) -> Part {
    Part::default()
}

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    // Maxima.
    fault(
        "of equal logits the last wins",
        SHARED,
        ("static_cast<unsigned>(a_at) < static_cast<unsigned>(b_at)", 0),
        "static_cast<unsigned>(a_at) > static_cast<unsigned>(b_at)",
    ),
    fault(
        "the second largest is another span's",
        SHARED,
        ("fmaxf(allowed, other.next)", 0),
        "other.next",
    ),
    fault(
        "infinity passes",
        SHARED,
        ("!(penalised < PLUS_INFINITY)", 0),
        "!(penalised <= PLUS_INFINITY)",
    ),
    fault("a forbidden token is the largest", SHARED, ("if (forbidden) return;", 0), ""),
    fault(
        "tokens beyond the vocabulary are read",
        SAMPLE,
        ("if (token >= p.vocab) continue;", 0),
        "",
    ),
    fault(
        "negative logits are penalised upwards",
        SHARED,
        ("old * repetition_penalty", 0),
        "old / repetition_penalty",
    ),
    // Spans.
    fault(
        "a chunk ends with its span",
        SAMPLE,
        ("min(first + SPAN + CHUNK, p.vocab)", 0),
        "min(first + SPAN, p.vocab)",
    ),
    fault(
        "chunks go on over forbidden tokens",
        SAMPLE,
        ("max(begin, end + 1)", 0),
        "max(begin, end - 1)",
    ),
    fault(
        "the tail is added twice",
        SAMPLE,
        ("max(tail, span.first)", 0),
        "max(begin, span.first)",
    ),
    fault("logits are narrowed while they are read", SAMPLE, ("__syncthreads();", 1), ""),
    fault("tokens are drawn before they are forbidden", SAMPLE, ("__syncthreads();", 3), ""),
    fault("two rounds are missing", SHARED, ("i < 4", 1), "i < 3"),
    fault("words are the neighbours'", SHARED, ("token % 16 == i", 0), "token % 16 == (i ^ 1)"),
    fault(
        "bounds are too low",
        SHARED,
        ("(word >> 8) * (1.f / 16777216)", 0),
        "(word >> 8) * (20.f / 16777216)",
    ),
    fault("only the leader runs", SAMPLE, ("bounds[i] >= score ? 1u : 0u", 0), "0u"),
    fault("warps' pools overlap", SAMPLE, ("before < warp", 0), "before < warp / 2"),
    fault(
        "the pool's bound is too high",
        SAMPLE,
        ("rank == draw.top_k - 1", 0),
        "rank == draw.top_k / 8",
    ),
    // Rows.
    fault(
        "of equal logits the last are kept",
        SAMPLE,
        ("~static_cast<unsigned>(entry.y)", 0),
        "static_cast<unsigned>(entry.y)",
    ),
    fault("digits above are forgotten", SAMPLE, ("above = scratch.above;", 0), ""),
    fault(
        "all entries count for every digit",
        SAMPLE,
        ("shift < 56 && (rank ^ found) >> (shift + 8)", 0),
        "false",
    ),
    fault("top-p counts what top-k left out", SAMPLE, ("rank < least", 0), "false"),
    fault("digits are summed while they are read", SAMPLE, ("__syncthreads();", 12), ""),
    fault("what is above a digit is read before it is there", SAMPLE, ("__syncthreads();", 17), ""),
    fault(
        "one token more is kept",
        SAMPLE,
        ("before.value() < target", 0),
        "before.value() <= target",
    ),
    fault("min-p is forgotten", SAMPLE, ("weight(logit) < draw.min_p", 0), "false"),
    fault(
        "the margin is to itself",
        SAMPLE,
        ("race.token == row.allowed_at", 0),
        "race.token != row.allowed_at",
    ),
    fault(
        "halves of the uniform number change places",
        SAMPLE,
        ("static_cast<unsigned long long>(order[1]) << 32 | order[0]", 0),
        "static_cast<unsigned long long>(order[0]) << 32 | order[1]",
    ),
];
