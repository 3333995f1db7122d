// Cases of the loss, its definition in f64, and tolerances, for the emulation and for a card.
#pragma once
#include <algorithm>
#include <string>

#include "numbers.h"

namespace loss {

struct Case {
    std::string name;
    int rows, vocab, h;
    int chunk;           ///< tokens whose gradients are formed at once, a multiple of 128
    int part_tiles;      ///< tiles of 128 tokens that one block of the forward pass goes over
    bool broken = false; ///< a row of hidden that is no number
};

/// Rows and tokens that no tile divides, more slabs than stages; several chunks and parts, a block
/// with more than one tile and one with fewer.
inline std::vector<Case> small_cases() {
    return {{"less than a tile of everything", 37, 50, 24, 128, 1},
            {"tails of all kinds", 140, 150, 200, 128, 2},
            {"chunks and parts", 20, 640, 32, 256, 4},
            {"a row that is no number", 20, 140, 16, 256, 2, true}};
}

struct Inputs {
    std::vector<uint16_t> hidden, head;
    std::vector<int> targets;
    std::vector<float> weights;
};

inline Inputs draw(const Case &c) {
    Inputs in;
    Numbers numbers{5};
    for (int i = 0; i < c.rows * c.h; i++) in.hidden.push_back(to_bf16(numbers.normal()));
    const float scale = 3 / std::sqrt(static_cast<float>(c.h));
    for (int i = 0; i < c.vocab * c.h; i++) in.head.push_back(to_bf16(scale * numbers.normal()));
    for (int i = 0; i < c.rows; i++) {
        in.targets.push_back(static_cast<int>(numbers.next() % c.vocab));
        in.weights.push_back(i % 7 == 3 ? 0.f : static_cast<float>(1 + 3 * numbers.uniform()));
    }
    in.targets[0] = 0, in.targets[c.rows - 1] = c.vocab - 1;
    if (c.vocab > 128) in.targets[1] = 127, in.targets[2] = 128;
    if (c.broken) in.hidden[(size_t)5 * c.h + 3] = to_bf16(NAN);
    return in;
}

struct Results {
    std::vector<float> nll, d_hidden, d_head;
    std::vector<double> loss;
};
inline bool same_bits(const Results &a, const Results &b) {
    using ::same_bits;
    return same_bits(a.nll, b.nll) && same_bits(a.loss, b.loss) &&
           same_bits(a.d_hidden, b.d_hidden) && same_bits(a.d_head, b.d_head);
}

struct Truth {
    std::vector<double> nll, d_hidden, d_head;
    double loss = 0;
};

/// log Σ exp z of one row less its target's logit; the logits become their gradient.
inline double row_loss(std::vector<double> &z, int target, double weight) {
    const double most = *std::max_element(z.begin(), z.end()), at = z[target];
    double sum = 0;
    for (double x : z) sum += std::exp(x - most);
    const double log_sum = most + std::log(sum);
    for (double &x : z) x = std::exp(x - log_sum) * weight;
    z[target] -= weight;
    return log_sum - at;
}

inline Truth truth(const Case &c, const Inputs &in) {
    Truth t;
    t.d_hidden.assign(in.hidden.size(), 0);
    t.d_head.assign(in.head.size(), 0);
    const auto times = [&](const std::vector<uint16_t> &x, size_t row, int i) {
        return static_cast<double>(from_bf16(x[row * c.h + i]));
    };
    std::vector<double> z(c.vocab);
    for (int row = 0; row < c.rows; row++) {
        for (int v = 0; v < c.vocab; v++) {
            z[v] = 0;
            for (int i = 0; i < c.h; i++) z[v] += times(in.hidden, row, i) * times(in.head, v, i);
        }
        t.nll.push_back(row_loss(z, in.targets[row], in.weights[row]));
        t.loss += in.weights[row] * t.nll.back();
        for (int v = 0; v < c.vocab; v++)
            for (int i = 0; i < c.h; i++) {
                t.d_hidden[(size_t)row * c.h + i] += z[v] * times(in.head, v, i);
                t.d_head[(size_t)v * c.h + i] += z[v] * times(in.hidden, row, i);
            }
    }
    return t;
}

struct Errors {
    double nll, loss, d_hidden, d_head;
};
/// Sums are in f32; gradients of logits are rounded to bf16 once before they meet an operand.
constexpr Errors TOLERANCE{2e-5, 2e-6, 3e-3, 3e-3};

inline Errors compare(const Results &r, const Truth &t) {
    return {largest_error(r.nll, t.nll), std::fabs(r.loss[0] / t.loss - 1),
            relative_error(r.d_hidden, t.d_hidden), relative_error(r.d_head, t.d_head)};
}
inline bool within(const Errors &e) {
    return e.nll <= TOLERANCE.nll && e.loss <= TOLERANCE.loss && e.d_hidden <= TOLERANCE.d_hidden &&
           e.d_head <= TOLERANCE.d_head;
}

/// Whether a broken row makes its own loss and gradient NaNs, all of the head's, and no other
/// row's.
inline bool breaks_alone(const Case &c, const Results &r) {
    bool good = std::isnan(r.loss[0]);
    for (int row = 0; row < c.rows; row++) good &= std::isnan(r.nll[row]) == (row == 5);
    for (size_t i = 0; i < r.d_hidden.size(); i++)
        good &= std::isnan(r.d_hidden[i]) == (i / c.h == 5);
    for (float x : r.d_head) good &= std::isnan(x);
    return good;
}

inline int tiles(int n, int of) { return (n + of - 1) / of; }

// --- Chunks of logits that somebody else made ---

struct ChunkCase {
    std::string name;
    int rows, vocab, chunk;
    bool in_bf16;
};

inline std::vector<ChunkCase> chunk_cases() {
    return {{"logits, shorter than a row of lanes", 3, 5, 64, false},
            {"logits in chunks, gradients in place", 9, 1305, 512, false},
            {"logits in chunks, gradients in bf16", 9, 1305, 512, true}};
}

/// Logits of every kind: ties, −∞, and in the last rows +∞ and NaN.
inline std::vector<float> draw_logits(const ChunkCase &c) {
    Numbers numbers{9};
    std::vector<float> z;
    for (int i = 0; i < c.rows * c.vocab; i++) z.push_back(4 * numbers.normal());
    for (int i = 0; i < c.vocab; i++) {
        if (i % 3) z[i] = -INFINITY;
        z[c.vocab + i] = 1.5f;
    }
    // A whole chunk that can't be.
    for (int i = 512; i < std::min(1024, c.vocab); i++) z[2 * c.vocab + i] = -INFINITY;
    if (c.rows > 4) {
        z[(size_t)(c.rows - 1) * c.vocab + 700] = NAN;
        z[(size_t)(c.rows - 2) * c.vocab + 700] = INFINITY;
    }
    return z;
}
/// Tokens of all chunks, one of them the first of its chunk.
inline int chunk_target(const ChunkCase &c, int row) {
    return (row == 3 ? c.chunk : row * 131 * 3) % c.vocab;
}
inline float chunk_weight(int row) { return row == 1 ? 0.f : 0.5f + static_cast<float>(row); }

struct ChunkResults {
    std::vector<float> nll, d_logits; ///< gradients `[rows, vocab]`
    int padding; ///< columns behind the last, to a multiple of 8, that are not 0
};
inline bool same_bits(const ChunkResults &a, const ChunkResults &b) {
    return ::same_bits(a.nll, b.nll) && ::same_bits(a.d_logits, b.d_logits);
}

/// Gradients are at most 8.5, the largest weight: f32's rounding of exponents, or bf16's of
/// results.
inline double chunk_tolerance(const ChunkCase &c) { return c.in_bf16 ? 2e-2 : 2e-5; }

/// Largest errors of losses and gradients; a NaN must be one on both sides.
inline std::pair<double, double> compare(const ChunkCase &c, const std::vector<float> &logits,
                                         const ChunkResults &r) {
    double nll = 0, gradient = 0;
    const auto note = [](double &most, double got, double want) {
        if (got == want || (std::isnan(got) && std::isnan(want))) return; // ∞ equals itself
        most = worse(most, std::fabs(got - want));
    };
    for (int row = 0; row < c.rows; row++) {
        const float *from = logits.data() + (size_t)row * c.vocab;
        std::vector<double> z(from, from + c.vocab);
        note(nll, r.nll[row], row_loss(z, chunk_target(c, row), chunk_weight(row)));
        for (int v = 0; v < c.vocab; v++)
            note(gradient, r.d_logits[(size_t)row * c.vocab + v], z[v]);
    }
    return {nll, gradient};
}

} // namespace loss
