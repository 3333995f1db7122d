// Numbers for tests: draws that are the same everywhere, bf16 on the host, and how far results are
// from what they should be. Shared by the emulation and by a card.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

struct Numbers {
    uint64_t state;
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    double uniform() { return static_cast<double>(next() >> 11) / (1ull << 53); }
    /// Twelve uniform draws are normal enough.
    float normal() {
        double sum = -6;
        for (int i = 0; i < 12; i++) sum += uniform();
        return static_cast<float>(sum);
    }
};

inline uint16_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float from_bf16(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

/// A number as a tensor holds it: bf16 by its bits, f32 as it is.
inline double number(uint16_t x) { return from_bf16(x); }
inline double number(float x) { return x; }

/// The number of a tensor that is nearest; `narrow<T>(x)` of a kernel's T.
template <class T> T nearest(double x) {
    if constexpr (sizeof(T) == 2)
        return to_bf16(static_cast<float>(x));
    else
        return static_cast<T>(x);
}

/// Normal numbers as a tensor holds them.
template <class T> std::vector<T> draw(Numbers &numbers, size_t n) {
    std::vector<T> x(n);
    for (auto &y : x) y = nearest<T>(numbers.normal());
    return x;
}

/// ‖got − want‖ / ‖want‖ over what should be a number. A NaN, which poisoned results begin as,
/// makes it one; where a NaN is wanted, anything else makes it infinite.
template <class T>
double relative_error(const std::vector<T> &got, const std::vector<double> &want) {
    double error = 0, size = 0;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(want[i])) {
            if (!std::isnan(number(got[i]))) return INFINITY;
            continue;
        }
        const double e = number(got[i]) - want[i];
        error += e * e;
        size += want[i] * want[i];
    }
    return size ? std::sqrt(error / size) : error;
}

/// The larger of two errors; a NaN is larger than any.
inline double worse(double most, double error) {
    return most >= error || std::isnan(most) ? most : error;
}

template <class T>
double largest_error(const std::vector<T> &got, const std::vector<double> &want) {
    double most = 0;
    for (size_t i = 0; i < want.size(); i++) {
        const double e =
            number(got[i]) == want[i] ? 0 : std::fabs(number(got[i]) - want[i]); // ∞ equals itself
        most = worse(most, e);
    }
    return most;
}

template <class T> bool same_bits(const std::vector<T> &a, const std::vector<T> &b) {
    return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
}

/// The outcome of a comparison: the errors, in words, and whether all are within their tolerances.
struct Verdict {
    std::string text;
    bool good;
};

/// Errors as a verdict tells them.
inline std::string error_text(std::initializer_list<std::pair<const char *, double>> errors) {
    std::string text;
    for (const auto &[of, error] : errors) {
        char one[64];
        std::snprintf(one, sizeof one, "%s%s %.1e", text.empty() ? "" : " ", of, error);
        text += one;
    }
    return text;
}
