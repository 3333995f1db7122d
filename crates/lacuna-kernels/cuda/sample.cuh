// Draws, rows' maxima, exponentials, random words and the race that a token wins: what the kernels
// of sample.cu are made of.
#pragma once
#include "tensor_core.h"

constexpr float PLUS_INFINITY = __builtin_huge_valf(), MINUS_INFINITY = -PLUS_INFINITY;

constexpr int SPAN = 4096; ///< tokens that a block takes
constexpr int SAMPLE_THREADS = 256, SAMPLE_WARPS = SAMPLE_THREADS / 32;
constexpr int OF_A_THREAD = SPAN / SAMPLE_THREADS; ///< as many as a block of ChaCha has words
/// Values whose exponentials are added in f32, sixteen sums side by side: as on the CPU.
constexpr int CHUNK = 64, LANES = 16;
/// Vocabularies have at most this many spans.
constexpr int MOST_SPANS = 256;
/// Entries of a pool that fit in shared memory; those beyond are read from where they lie.
constexpr int STAGED = 2048;

/// A place to draw at, as `lacuna_samplers::{Sampling, Site}` have it.
struct Draw {
    long long row; ///< of the logits; below 0 nothing is drawn, at no cost
    unsigned long long seed, position, refinement;
    double temperature;
    double top_p, min_p; ///< 0: none
    double repetition_penalty;
    const unsigned *seen; ///< a bit for each token that the penalty applies to; null: none
    const int *forbidden; ///< ascending
    int n_forbidden;
    int top_k; ///< 0: none

    __device__ __forceinline__ bool filters() const { return top_k || top_p > 0 || min_p > 0; }
    /// A token's logit with the penalty on it.
    __device__ __forceinline__ float penalised(float logit, int token) const {
        if (!seen || !(seen[token / 32] >> token % 32 & 1)) return logit;
        const double old = logit;
        return static_cast<float>(old > 0 ? old / repetition_penalty : old * repetition_penalty);
    }
};

enum Status { FOUND, NOT_FINITE, NOTHING_ALLOWED };

struct Candidate {
    int token, status;
    double confidence, margin, entropy, uniform;
};

/// The largest values of some tokens.
struct Maxima {
    float most = MINUS_INFINITY;    ///< of all logits as they came
    float drawn = MINUS_INFINITY;   ///< of those that may be drawn, penalty on them
    int drawn_at = -1;              ///< its first token
    float allowed = MINUS_INFINITY; ///< of those that may be drawn, as they came
    int allowed_at = -1;
    float next = MINUS_INFINITY; ///< the second largest of these
    int broken = 0;              ///< a NaN or +∞ is among them

    __device__ __forceinline__ void add(float logit, float penalised, int token, bool forbidden) {
        if (logit > most) most = logit;
        if (!(penalised < PLUS_INFINITY)) broken = 1; // so it is if the logit is
        if (forbidden) return;
        if (penalised > drawn) drawn = penalised, drawn_at = token;
        if (logit > allowed)
            next = allowed, allowed = logit, allowed_at = token;
        else if (logit > next)
            next = logit;
    }
    /// Adds other tokens'; of equal values the lowest token's is kept.
    __device__ __forceinline__ void merge(const Maxima &other) {
        const auto before = [](float a, int a_at, float b, int b_at) {
            return a > b || (a == b && static_cast<unsigned>(a_at) < static_cast<unsigned>(b_at));
        };
        most = fmaxf(most, other.most);
        broken |= other.broken;
        if (before(other.drawn, other.drawn_at, drawn, drawn_at))
            drawn = other.drawn, drawn_at = other.drawn_at;
        if (before(other.allowed, other.allowed_at, allowed, allowed_at))
            next = fmaxf(allowed, other.next), allowed = other.allowed,
            allowed_at = other.allowed_at;
        else
            next = fmaxf(next, other.allowed);
    }
    __device__ __forceinline__ Maxima of_lane(int step) const {
        Maxima other;
        other.most = __shfl_xor_sync(~0u, most, step);
        other.drawn = __shfl_xor_sync(~0u, drawn, step);
        other.drawn_at = __shfl_xor_sync(~0u, drawn_at, step);
        other.allowed = __shfl_xor_sync(~0u, allowed, step);
        other.allowed_at = __shfl_xor_sync(~0u, allowed_at, step);
        other.next = __shfl_xor_sync(~0u, next, step);
        other.broken = __shfl_xor_sync(~0u, broken, step);
        return other;
    }
};

/// What a span leaves for its row.
struct SpanResult {
    double sum, moment; ///< Σ e^d and Σ d e^d, d = logit − the row's largest
    double total;       ///< Σ e^(d/T) over tokens that may be drawn, for top-p
    double score;       ///< the best without filters, and its token
    int token;
    int pooled; ///< entries of the span's pool
};

struct SampleArgs {
    const float *logits; ///< `[rows, vocab]`
    long long stride;
    int vocab;
    const Draw *draws;
    Maxima *maxima;    ///< `[draws, spans]`
    SpanResult *spans; ///< `[draws, spans]`
    int2 *pool;        ///< `[draws, spans, SPAN]`: bits of a logit, token; unused without filters
    Candidate *candidates;

    __device__ __forceinline__ int n_spans() const { return (vocab + SPAN - 1) / SPAN; }
    __device__ __forceinline__ int2 *pool_of(int draw, int span) const {
        return pool + ((long long)draw * n_spans() + span) * SPAN;
    }
};

/// 1/T as a finite f32.
__device__ __forceinline__ float inverse(double temperature) {
    return static_cast<float>(fmin(1 / temperature, 3.4028234663852886e38));
}

/// d = (logit − max) · scale, at least −87.
__device__ __forceinline__ float distance(float logit, float max, float scale) {
    const float d = __fmul_rn(__fadd_rn(logit, -max), scale);
    return d > -87 ? d : -87;
}

/// e^x for −87 ≤ x ≤ 0 by the CPU's polynomial, each step rounded as there:
/// `rows::exp_nonpositive`.
__device__ __forceinline__ float exp_nonpositive(float x) {
    constexpr float ROUND = 12582912, LN2_HIGH = 355.f / 512, LN2_LOW = -2.1219444e-4f;
    const float shifted = __fadd_rn(__fmul_rn(x, 1.4426950408889634f), ROUND),
                n = __fadd_rn(shifted, -ROUND),
                r = __fadd_rn(__fadd_rn(x, -__fmul_rn(n, LN2_HIGH)), -__fmul_rn(n, LN2_LOW));
    float e = 1.f / 5040;
    e = __fadd_rn(__fmul_rn(e, r), 1.f / 720);
    e = __fadd_rn(__fmul_rn(e, r), 1.f / 120);
    e = __fadd_rn(__fmul_rn(e, r), 1.f / 24);
    e = __fadd_rn(__fmul_rn(e, r), 1.f / 6);
    e = __fadd_rn(__fmul_rn(e, r), 0.5f);
    e = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(e, r), r), r), 1);
    return __int_as_float(static_cast<int>(static_cast<unsigned>(__float_as_int(e)) +
                                           (static_cast<unsigned>(__float_as_int(shifted)) << 23)));
}

/// The sixteen words of one block of the stream at (seed, purpose, position, refinement): ChaCha8,
/// as lacuna_random keys it.
struct Stream {
    unsigned key[8];
    __device__ __forceinline__ Stream(const Draw &draw, unsigned long long purpose) {
        const unsigned long long parts[4] = {draw.seed, purpose, draw.position, draw.refinement};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            key[2 * i] = static_cast<unsigned>(parts[i]);
            key[2 * i + 1] = static_cast<unsigned>(parts[i] >> 32);
        }
    }
    __device__ __forceinline__ void block(unsigned (&out)[16], unsigned index) const {
        const unsigned start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1],
                                    key[2],     key[3],     key[4],     key[5],     key[6], key[7],
                                    index,      0,          0,          0};
#pragma unroll
        for (int i = 0; i < 16; i++) out[i] = start[i];
        const auto mix = [&](int a, int b, int c, int d) {
            const auto turn = [](unsigned x, int by) { return x << by | x >> (32 - by); };
            out[a] += out[b], out[d] = turn(out[d] ^ out[a], 16);
            out[c] += out[d], out[b] = turn(out[b] ^ out[c], 12);
            out[a] += out[b], out[d] = turn(out[d] ^ out[a], 8);
            out[c] += out[d], out[b] = turn(out[b] ^ out[c], 7);
        };
        for (int i = 0; i < 4; i++) {
            mix(0, 4, 8, 12), mix(1, 5, 9, 13), mix(2, 6, 10, 14), mix(3, 7, 11, 15);
            mix(0, 5, 10, 15), mix(1, 6, 11, 12), mix(2, 7, 8, 13), mix(3, 4, 9, 14);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) out[i] += start[i];
    }
    __device__ __forceinline__ unsigned word(int token) const {
        unsigned words[16], found = 0;
        block(words, static_cast<unsigned>(token) / 16);
#pragma unroll
        for (int i = 0; i < 16; i++) // an index would put the words in local memory
            found |= words[i] & (token % 16 == i ? ~0u : 0u);
        return found;
    }
};
constexpr unsigned long long OF_TOKENS = 0x746f6b656e000001, OF_ORDER = 0x6f72646572000002;

/// The token whose exponential clock rings first: argmax of (logit − max)/T − ln E, E = −ln(1 − v),
/// v the token's uniform number. Ties go to the lowest token.
struct Race {
    double score = MINUS_INFINITY;
    int token = -1;

    /// Above every score that a token can have, for E ≥ v: from this few tokens need two logarithms
    /// in f64. The slack covers the rounding in f32 where a token can win, d > −30.
    static __device__ __forceinline__ float bound(float logit, float max, float scale,
                                                  unsigned word) {
        constexpr float SLACK = 1e-3f;
        return (logit - max) * scale - logf((word >> 8) * (1.f / 16777216)) + SLACK;
    }
    __device__ __forceinline__ void enter(const Draw &draw, float max, float logit, int at,
                                          unsigned word) {
        const double v = (word + 0.5) * (1 / 4294967296.),
                     mine = (static_cast<double>(logit) - max) / draw.temperature - log(-log1p(-v));
        if (mine > score || (mine == score && at < token)) score = mine, token = at;
    }
    __device__ __forceinline__ void merge(double other, int other_token) {
        if (other > score || (other == score && other_token < token))
            score = other, token = other_token;
    }
    /// The warp's best, for all its lanes.
    __device__ __forceinline__ void gather() {
#pragma unroll
        for (int step = 16; step; step >>= 1) {
            const double other = __shfl_xor_sync(~0u, score, step);
            merge(other, __shfl_xor_sync(~0u, token, step));
        }
    }
};
