// A layer's products: cases, their definition in f64, and tolerances, for the emulation and for a
// card.
#pragma once
#include "numbers.h"

struct LinearCase {
    const char *name;
    int rows, in, out;
    int slice = 128; ///< rows of a slice of the weight's gradient, where it is sliced
};

/// Rows and numbers that no tile divides, more slabs than stages in every direction.
constexpr LinearCase LINEAR_CASES[] = {
    {"less than a tile of everything", 5, 24, 16},
    {"tails of all kinds", 260, 200, 136},
    {"slices of rows, the last one short", 200, 40, 24, 64},
};

struct LinearPass {
    std::vector<uint16_t> x, w, bias, d_y, other_w, other_d_y;
    /// y without and with the bias; d_x: the sum of the gradients by both projections.
    std::vector<uint16_t> y, y_biased, d_x;
    std::vector<float> d_x_f32, d_w, d_w_twice, d_bias;
    std::vector<float> d_w_sliced, d_w_sliced_twice; ///< the same by slices of rows
};

inline bool same_bits(const LinearPass &a, const LinearPass &b) {
    return same_bits(a.y, b.y) && same_bits(a.d_x, b.d_x) && same_bits(a.d_x_f32, b.d_x_f32) &&
           same_bits(a.d_w, b.d_w) && same_bits(a.d_w_twice, b.d_w_twice) &&
           same_bits(a.y_biased, b.y_biased) && same_bits(a.d_bias, b.d_bias) &&
           same_bits(a.d_w_sliced, b.d_w_sliced) &&
           same_bits(a.d_w_sliced_twice, b.d_w_sliced_twice);
}

inline LinearPass draw(const LinearCase &c) {
    Numbers numbers{41};
    LinearPass p;
    p.x = draw<uint16_t>(numbers, (size_t)c.rows * c.in);
    for (auto *w : {&p.w, &p.other_w}) *w = draw<uint16_t>(numbers, (size_t)c.out * c.in);
    for (auto *d : {&p.d_y, &p.other_d_y}) *d = draw<uint16_t>(numbers, (size_t)c.rows * c.out);
    p.bias = draw<uint16_t>(numbers, c.out);
    return p;
}

struct LinearTruth {
    std::vector<double> y, y_biased, d_x, d_w, d_bias;
};

inline LinearTruth truth(const LinearCase &c, const LinearPass &p) {
    LinearTruth t;
    t.y.assign((size_t)c.rows * c.out, 0);
    t.d_x.assign((size_t)c.rows * c.in, 0);
    t.d_w.assign((size_t)c.out * c.in, 0);
    t.d_bias.assign(c.out, 0);
    for (int row = 0; row < c.rows; row++)
        for (int o = 0; o < c.out; o++) {
            const size_t y = (size_t)row * c.out + o;
            for (int i = 0; i < c.in; i++) {
                const size_t x = (size_t)row * c.in + i, w = (size_t)o * c.in + i;
                t.y[y] += number(p.x[x]) * number(p.w[w]);
                t.d_x[x] += number(p.d_y[y]) * number(p.w[w]) +
                            number(p.other_d_y[y]) * number(p.other_w[w]);
                t.d_w[w] += number(p.d_y[y]) * number(p.x[x]);
            }
            t.y_biased.push_back(t.y[y] + number(p.bias[o]));
            t.d_bias[o] += number(p.d_y[y]);
        }
    return t;
}

inline Verdict compare(const LinearCase &c, const LinearPass &inputs, const LinearPass &pass) {
    LinearTruth t = truth(c, inputs);
    const double y = relative_error(pass.y, t.y), d_x = relative_error(pass.d_x, t.d_x),
                 sums = relative_error(pass.d_x_f32, t.d_x),
                 d_w = relative_error(pass.d_w, t.d_w),
                 sliced = relative_error(pass.d_w_sliced, t.d_w);
    const double biased = relative_error(pass.y_biased, t.y_biased),
                 d_bias = relative_error(pass.d_bias, t.d_bias);
    for (double &x : t.d_w) x *= 2;
    const double twice = relative_error(pass.d_w_twice, t.d_w),
                 sliced_twice = relative_error(pass.d_w_sliced_twice, t.d_w);
    // Products of bf16 are exact in f32, whose sums remain; bf16 is rounded once.
    return {error_text({{"y", y},
                        {"biased", biased},
                        {"d_x", d_x},
                        {"in f32", sums},
                        {"d_w", d_w},
                        {"added up", twice},
                        {"sliced", sliced},
                        {"added up", sliced_twice},
                        {"d_bias", d_bias}}),
            y <= 2e-3 && biased <= 2e-3 && d_x <= 2e-3 && sums <= 1e-6 && d_w <= 1e-6 &&
                twice <= 1e-6 && sliced <= 1e-6 && sliced_twice <= 1e-6 && d_bias <= 1e-6};
}
