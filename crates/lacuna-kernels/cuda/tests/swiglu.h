// The gated activation: its cases, and its definition in f64. Shared by the emulation and by a
// card.
#pragma once
#include "typed_cases.h"

struct SwigluCase {
    const char *name;
    int n;
};
constexpr SwigluCase SWIGLU_CASES[] = {
    {"whole blocks", 2048}, {"a tail", 4099}, {"less than a vector", 3}};

/// T: `uint16_t` for bf16, or `float`.
template <class T> struct SwigluPass {
    std::vector<T> gate, up, d_out;
    std::vector<T> out, again, d_gate, d_up; ///< again: out as the backward pass writes it
};

template <class T> SwigluPass<T> draw(const SwigluCase &c) {
    Numbers numbers{23};
    SwigluPass<T> p{
        draw<T>(numbers, c.n), draw<T>(numbers, c.n), draw<T>(numbers, c.n), {}, {}, {}, {}};
    // Gates that are wide open, shut, and no number at all.
    const double odd[] = {90, -90, NAN};
    for (size_t i = 0; i < std::size(odd) && c.n > 16; i++) p.gate[5 * i] = nearest<T>(odd[i]);
    return p;
}

template <class T> bool same_bits(const SwigluPass<T> &a, const SwigluPass<T> &b) {
    return same_bits(a.out, b.out) && same_bits(a.again, b.again) &&
           same_bits(a.d_gate, b.d_gate) && same_bits(a.d_up, b.d_up);
}

/// One pass on a machine.
template <class T> void run(const SwigluCase &c, SwigluPass<T> &pass);

template <class Suite> void check_swiglu(Suite &suite) {
    check_cases(suite, SWIGLU_CASES, [](const SwigluCase &c, const auto &inputs, const auto &pass) {
        std::vector<double> out, d_gate, d_up;
        for (int i = 0; i < c.n; i++) {
            const double gate = number(inputs.gate[i]), up = number(inputs.up[i]),
                         d = number(inputs.d_out[i]), sigma = 1 / (1 + std::exp(-gate));
            out.push_back(gate * sigma * up);
            d_gate.push_back(d * up * sigma * (1 + gate * (1 - sigma)));
            d_up.push_back(d * gate * sigma);
        }
        const double e[] = {relative_error(pass.out, out), relative_error(pass.again, out),
                            relative_error(pass.d_gate, d_gate), relative_error(pass.d_up, d_up)};
        // bf16 is rounded once, by at most 2⁻⁹ of each number; in f32 the exponential is off by two
        // units, and by more where its argument is large.
        const double tolerance = sizeof(inputs.gate[0]) == 2 ? 2e-3 : 1e-6;
        bool good = true;
        for (double error : e) good &= error <= tolerance;
        return Verdict{
            error_text({{"out", e[0]}, {"again", e[1]}, {"d_gate", e[2]}, {"d_up", e[3]}}), good};
    });
}
