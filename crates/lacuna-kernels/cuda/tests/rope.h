// Rotary position embedding: its cases, and its definition in f64. Shared by the emulation and by a
// card.
#pragma once
#include "typed_cases.h"

struct RopeCase {
    const char *name;
    int rows, heads, d;
};

constexpr int ROPE_POSITIONS = 50;
constexpr RopeCase ROPE_CASES[] = {
    {"heads of 64", 37, 3, 64},
    {"heads of 128", 5, 2, 128},
    {"a single row", 1, 1, 64},
    {"no vector divides half a head", 9, 5, 18},
};

/// T: `uint16_t` for bf16, or `float`.
template <class T> struct RopePass {
    std::vector<T> x, cos, sin;
    std::vector<uint32_t> positions;
    std::vector<T> out, back; ///< back: x turned the other way, as the gradient is
};

template <class T> RopePass<T> draw(const RopeCase &c) {
    Numbers numbers{19};
    RopePass<T> p;
    p.x = draw<T>(numbers, (size_t)c.rows * c.heads * c.d);
    for (int i = 0; i < ROPE_POSITIONS * c.d / 2; i++) {
        const double angle = i / (c.d / 2) * std::pow(1e4, -2. * (i % (c.d / 2)) / c.d);
        p.cos.push_back(nearest<T>(std::cos(angle))), p.sin.push_back(nearest<T>(std::sin(angle)));
    }
    for (int i = 0; i < c.rows; i++)
        p.positions.push_back((i * 7 + ROPE_POSITIONS - 1) % ROPE_POSITIONS);
    p.x[c.d / 2 - 1] = nearest<T>(NAN);
    return p;
}

template <class T> bool same_bits(const RopePass<T> &a, const RopePass<T> &b) {
    return same_bits(a.out, b.out) && same_bits(a.back, b.back);
}

/// One pass on a machine.
template <class T> void run(const RopeCase &c, RopePass<T> &pass);

template <class T>
std::vector<double> turned(const RopeCase &c, const RopePass<T> &p, double direction) {
    std::vector<double> out(p.x.size());
    const int half = c.d / 2;
    for (int head = 0; head < c.rows * c.heads; head++)
        for (int i = 0; i < half; i++) {
            const size_t at = (size_t)head * c.d + i,
                         angle = p.positions[head / c.heads] * half + i;
            const double x = number(p.x[at]), y = number(p.x[at + half]);
            const double cos = number(p.cos[angle]), sin = number(p.sin[angle]) * direction;
            out[at] = x * cos - y * sin;
            out[at + half] = y * cos + x * sin;
        }
    return out;
}

template <class Suite> void check_rope(Suite &suite) {
    check_cases(suite, ROPE_CASES, [](const RopeCase &c, const auto &inputs, const auto &pass) {
        const double out = relative_error(pass.out, turned(c, inputs, 1)),
                     back = relative_error(pass.back, turned(c, inputs, -1));
        // bf16 is rounded once, by at most 2⁻⁹ of each number; f32 has a rounding or two more.
        const double tolerance = sizeof(inputs.x[0]) == 2 ? 2e-3 : 1e-6;
        return Verdict{error_text({{"out", out}, {"back", back}}),
                       out <= tolerance && back <= tolerance};
    });
}
