// AdamW: its cases, and its definition in f64. Shared by the emulation and by a card.
#pragma once
#include "typed_cases.h"

struct AdamWCase {
    const char *name;
    float clip;    ///< 0: nothing is clipped
    bool poisoned; ///< a gradient is no number
};
constexpr AdamWCase ADAMW_CASES[] = {
    {"the norm is above the bound", 1, false},
    {"the norm is below the bound", 1e6f, false},
    {"nothing is clipped, a NaN stays where it is", 0, true},
    {"a NaN in the norm is everywhere", 1, true},
};
/// Numbers of each parameter: of several blocks, of less than a vector, of one block.
constexpr int ADAMW_SIZES[] = {2 * 16384 + 6, 3, 1000, 16384};

// The third step of a run.
constexpr float BETA1 = 0.9f, BETA2 = 0.95f, REST1 = 0.1f, REST2 = 0.05f, ADAMW_EPS = 1e-3f,
                STEP_SIZE = 1e-3f / 0.271f, ROOT_SCALE = 2.6481f;
/// The first of two parameters decays.
constexpr float ADAMW_SHRINKS[] = {0.9999f, 1};

/// The tensors of a parameter that a step changes. T: `uint16_t` for bf16, or `float`, which has no
/// master.
template <class T> struct AdamWValues {
    std::vector<T> values;
    std::vector<float> master, first, second;
};
template <class T> struct AdamWPass {
    std::vector<std::vector<T>> gradients;
    std::vector<AdamWValues<T>> parameters;
    std::vector<float> shares; ///< sums of squares of more chunks than the norm's block has threads
    std::vector<float> norm, norm_of_shares;
    std::vector<AdamWValues<T>> from_f32; ///< bf16 stepped by the same gradients in f32
};

template <class T> AdamWPass<T> draw(const AdamWCase &c) {
    Numbers numbers{31};
    AdamWPass<T> p;
    for (int n : ADAMW_SIZES) {
        p.gradients.push_back(draw<T>(numbers, n));
        AdamWValues<T> x{
            {}, draw<float>(numbers, n), draw<float>(numbers, n), draw<float>(numbers, n)};
        for (float &v : x.second) v *= v;
        for (float m : x.master) x.values.push_back(nearest<T>(m));
        p.parameters.push_back(x);
    }
    for (int i = 0; i < 2500; i++) p.shares.push_back(static_cast<float>(numbers.uniform()));
    if (c.poisoned) p.gradients[2][7] = nearest<T>(NAN);
    return p;
}

template <class T> bool same_bits(const AdamWValues<T> &x, const AdamWValues<T> &y) {
    return same_bits(x.values, y.values) && same_bits(x.master, y.master) &&
           same_bits(x.first, y.first) && same_bits(x.second, y.second);
}
template <class T> bool same_bits(const AdamWPass<T> &a, const AdamWPass<T> &b) {
    bool same = same_bits(a.norm, b.norm) && same_bits(a.norm_of_shares, b.norm_of_shares);
    for (size_t i = 0; i < a.parameters.size(); i++) {
        const auto &x = a.parameters[i], &y = b.parameters[i];
        same &= same_bits(x, y);
    }
    for (size_t i = 0; i < a.from_f32.size(); i++) same &= same_bits(a.from_f32[i], b.from_f32[i]);
    return same;
}

/// One step on a machine.
template <class T> void run(const AdamWCase &c, AdamWPass<T> &pass);

/// The definition: one step on a copy, in f64.
struct AdamWTruth {
    double norm = 0;
    std::vector<std::vector<double>> values, first, second;
};
template <class T> AdamWTruth truth(const AdamWCase &c, const AdamWPass<T> &p) {
    AdamWTruth t;
    for (const auto &gradient : p.gradients)
        for (const T g : gradient) t.norm += number(g) * number(g);
    t.norm = std::sqrt(t.norm);
    double scale = c.clip > 0 ? c.clip / (t.norm + 1e-6) : 1;
    if (scale > 1) scale = 1;
    for (size_t i = 0; i < p.parameters.size(); i++) {
        const auto &before = p.parameters[i];
        std::vector<double> values, first, second;
        for (size_t j = 0; j < before.values.size(); j++) {
            const double g = number(p.gradients[i][j]) * scale;
            first.push_back(BETA1 * double(before.first[j]) + REST1 * g);
            second.push_back(BETA2 * double(before.second[j]) + REST2 * g * g);
            values.push_back(before.master[j] * double(ADAMW_SHRINKS[i % 2]) -
                             STEP_SIZE * first[j] /
                                 (std::sqrt(second[j]) * ROOT_SCALE + ADAMW_EPS));
        }
        t.values.push_back(values), t.first.push_back(first), t.second.push_back(second);
    }
    return t;
}

template <class Suite> void check_adamw(Suite &suite) {
    check_cases(suite, ADAMW_CASES, [](const AdamWCase &c, const auto &inputs, const auto &pass) {
        const AdamWTruth t = truth(c, inputs);
        const bool half = sizeof(inputs.gradients[0][0]) == 2;
        double norm = relative_error(pass.norm, {t.norm}), shares = 0;
        for (float share : inputs.shares) shares += share;
        norm += relative_error(pass.norm_of_shares, {std::sqrt(shares)});
        double values = 0, master = 0, moments = 0;
        const auto raise = [](double &most, double error) {
            if (!(error <= most)) most = error;
        };
        for (size_t i = 0; i < pass.parameters.size(); i++) {
            const auto &x = pass.parameters[i];
            raise(values, relative_error(x.values, t.values[i]));
            if (half) raise(master, relative_error(x.master, t.values[i]));
            raise(moments, relative_error(x.first, t.first[i]));
            raise(moments, relative_error(x.second, t.second[i]));
            // A bf16 number is one in f32: the same gradients make the same bits.
            if (half && !same_bits(pass.from_f32[i], x)) values = INFINITY;
        }
        // f32 rounds in each of a few steps, bf16 once more, by at most 2⁻⁹ of each number.
        return Verdict{
            error_text(
                {{"norm", norm}, {"values", values}, {"master", master}, {"moments", moments}}),
            norm <= 1e-6 && values <= (half ? 2e-3 : 1e-6) && master <= 1e-6 && moments <= 1e-6};
    });
}
