// Draws and the candidates that lacuna-samplers picks for them on the CPU, for the emulation and
// for a card.
#pragma once
#include <string>

#include "numbers.h"

namespace sample {

/// The kinds of rows, made as `candidates/recorded.rs` makes them.
enum class Shape { Uniform, Peaked, Ties, Flat, Holes, Steep, Pair };

/// A draw and the candidate that the CPU picks.
struct Recorded {
    Shape shape;
    int vocab;
    uint64_t logits; ///< the row's seed
    uint64_t seed, position, refinement;
    double temperature;
    int top_k;
    double top_p, min_p, penalty;
    std::vector<int> forbidden;
    int token;
    double confidence, margin, entropy, uniform;
};

/// In groups of one vocabulary, from small to large.
inline const std::vector<Recorded> &recorded() {
    static const std::vector<Recorded> all{
#include "candidates.inc"
    };
    return all;
}

inline std::vector<float> row(const Recorded &r) {
    Numbers numbers{r.logits};
    std::vector<float> row;
    for (int token = 0; token < r.vocab; token++) {
        const uint64_t bits = numbers.next();
        const float x =
            static_cast<float>(static_cast<int>(bits >> 40) - (1 << 23)) / (1 << 20); // −8..8
        const bool peak = r.shape == Shape::Peaked && token == r.vocab / 3;
        const bool hole = (r.shape == Shape::Holes && token != 3 && bits % 8) ||
                          (r.shape == Shape::Pair && token != 3 && token != 4);
        row.push_back(peak                      ? 20
                      : hole                    ? -INFINITY
                      : r.shape == Shape::Ties  ? std::floor(x * 2) / 2
                      : r.shape == Shape::Flat  ? 1.5f
                      : r.shape == Shape::Steep ? x * 4
                      : r.shape == Shape::Pair  ? (token == 3 ? 0.5f : 0)
                                                : x);
    }
    return row;
}

/// Every third token was seen before, where that counts.
inline std::vector<unsigned> seen(int vocab) {
    std::vector<unsigned> words((vocab + 31) / 32, 0);
    for (int token = 0; token < vocab; token += 3) words[token / 32] |= 1u << token % 32;
    return words;
}

/// What a kernel writes of each draw.
struct Picked {
    int token, status;
    double confidence, margin, entropy, uniform;
};
struct Results {
    std::vector<Picked> candidates;
};
inline bool same_bits(const Results &a, const Results &b) {
    return ::same_bits(a.candidates, b.candidates);
}

/// How far candidates are from the CPU's: tokens that differ, and the largest difference of a
/// number, relative where it is above 1.
struct Errors {
    int tokens = 0;
    double numbers = 0;
};
/// Sums have the CPU's terms in another order, exponentials and logarithms may be an ulp off: some
/// 1e-14 in all.
constexpr double TOLERANCE = 1e-12;

inline Errors compare(const std::vector<Recorded> &draws, const std::vector<Picked> &found) {
    Errors e;
    for (size_t i = 0; i < draws.size(); i++) {
        const Recorded &r = draws[i];
        const Picked &c = found[i];
        e.tokens += c.token != r.token || c.status != 0;
        const double pairs[][2] = {{c.confidence, r.confidence},
                                   {c.margin, r.margin},
                                   {c.entropy, r.entropy},
                                   {c.uniform, r.uniform}};
        for (const auto &[got, want] : pairs) {
            const double error = std::fabs(got - want) / std::fmax(1, std::fabs(want));
            e.numbers = worse(e.numbers, error);
        }
    }
    return e;
}

} // namespace sample
