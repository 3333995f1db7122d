// Root-mean-square normalisation: its cases, and its definition in f64. Shared by the emulation and
// by a card.
#pragma once
#include "typed_cases.h"

struct NormCase {
    const char *name;
    int rows, h, slabs; ///< slabs: a block's rows, for each team
    bool carried = true;
    int poisoned = -1; ///< a row that holds a NaN
};

/// Rows that no vector, warp or block divides, heads, and the largest rows that models have.
constexpr NormCase NORM_CASES[] = {
    {"heads of 37 tokens", 37, 128, 1},
    {"heads of 64, several rows a team", 70, 64, 3},
    {"a warp takes a row, many blocks", 70, 264, 1, false},
    {"a block takes a row of 8192", 3, 8192, 2},
    {"a single row", 1, 2048, 1},
    {"no vector divides a row", 7, 67, 2},
    {"nor a large one", 3, 4101, 1, false},
    {"rows of less than a vector", 35, 3, 2},
    {"a NaN stays in its row", 21, 72, 1, true, 4},
};
constexpr float NORM_EPS = 1e-5f;

/// T: `uint16_t` for bf16, or `float`.
template <class T> struct NormPass {
    std::vector<T> x, added, weight, d_normed, carried, normed, sum, normed_sum, dx, d_weight,
        d_weight_twice;
};

template <class T> NormPass<T> draw(const NormCase &c) {
    Numbers numbers{17};
    const size_t n = (size_t)c.rows * c.h;
    NormPass<T> p;
    for (auto *x : {&p.x, &p.added, &p.d_normed, &p.carried}) *x = draw<T>(numbers, n);
    p.weight = draw<T>(numbers, c.h);
    if (c.poisoned >= 0) p.x[c.poisoned * c.h + c.h / 2] = nearest<T>(NAN);
    return p;
}

template <class T> bool same_bits(const NormPass<T> &a, const NormPass<T> &b) {
    return same_bits(a.normed, b.normed) && same_bits(a.sum, b.sum) &&
           same_bits(a.normed_sum, b.normed_sum) && same_bits(a.dx, b.dx) &&
           same_bits(a.d_weight, b.d_weight) && same_bits(a.d_weight_twice, b.d_weight_twice);
}

/// One pass on a machine.
template <class T> void run(const NormCase &c, NormPass<T> &pass);

struct NormTruth {
    std::vector<double> normed, sum, normed_sum, dx, d_weight;
};

template <class T> NormTruth truth(const NormCase &c, const NormPass<T> &p) {
    NormTruth t;
    for (auto *x : {&t.normed, &t.sum, &t.normed_sum, &t.dx}) x->resize(p.x.size());
    t.d_weight.assign(c.h, 0);
    const auto scale = [&](const double *x) {
        double squares = 0;
        for (int i = 0; i < c.h; i++) squares += x[i] * x[i];
        return 1 / std::sqrt(squares / c.h + NORM_EPS);
    };
    std::vector<double> x(c.h);
    for (int row = 0; row < c.rows; row++) {
        const size_t at = (size_t)row * c.h;
        double dot = 0;
        for (int i = 0; i < c.h; i++) {
            x[i] = number(p.x[at + i]);
            // The sum is a tensor of its own, so its norm is that of rounded numbers.
            t.sum[at + i] = number(nearest<T>(x[i] + number(p.added[at + i])));
            dot += number(p.d_normed[at + i]) * number(p.weight[i]) * x[i];
        }
        const double r = scale(x.data()), r_sum = scale(&t.sum[at]);
        for (int i = 0; i < c.h; i++) {
            const double w = number(p.weight[i]), dy = number(p.d_normed[at + i]);
            t.normed[at + i] = x[i] * r * w;
            t.normed_sum[at + i] = t.sum[at + i] * r_sum * w;
            t.dx[at + i] = r * dy * w - x[i] * r * r * r * dot / c.h +
                           (c.carried ? number(p.carried[at + i]) : 0);
            t.d_weight[i] += dy * x[i] * r;
        }
    }
    return t;
}

template <class Suite> void check_rms_norm(Suite &suite) {
    check_cases(suite, NORM_CASES, [](const NormCase &c, const auto &inputs, const auto &pass) {
        NormTruth t = truth(c, inputs);
        const double normed = relative_error(pass.normed, t.normed),
                     sum = relative_error(pass.sum, t.sum),
                     normed_sum = relative_error(pass.normed_sum, t.normed_sum),
                     dx = relative_error(pass.dx, t.dx),
                     d_weight = relative_error(pass.d_weight, t.d_weight);
        for (double &x : t.d_weight) x *= 2;
        const double twice = relative_error(pass.d_weight_twice, t.d_weight);
        // bf16 is rounded once, by at most 2⁻⁹ of each number; in f32 some roundings of sums
        // remain.
        const double tolerance = sizeof(inputs.x[0]) == 2 ? 2e-3 : 1e-6;
        return Verdict{error_text({{"normed", normed},
                                   {"sum", sum},
                                   {"its norm", normed_sum},
                                   {"dx", dx},
                                   {"d_weight", d_weight},
                                   {"added up", twice}}),
                       sum == 0 && normed <= tolerance && normed_sum <= tolerance &&
                           dx <= tolerance && d_weight <= tolerance && twice <= tolerance};
    });
}
