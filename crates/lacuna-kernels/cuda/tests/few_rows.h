// Products of few rows: weights of every format at random, and what their product is in f64, by the
// layouts as `lacuna_kernels::weights` defines them. Shared by the emulation and a card.
#pragma once
#include <algorithm>
#include <string>

#include "numbers.h"

/// A format of stored weights: blocks of so many columns and bytes.
struct Format {
    const char *name;
    int columns, bytes;
};
constexpr Format FORMATS[] = {
    {"bf16", 1, 2}, {"q8_0", 32, 34}, {"q4_0", 32, 18}, {"q4_1", 32, 20}, {"q4_k", 256, 144}};

struct ProductCase {
    Format format;
    bool x_is_f32;
    int rows, outputs, columns;
    bool biased = false;

    std::string name() const {
        return std::string(format.name) + (x_is_f32 ? ", x in f32: " : ", x in bf16: ") +
               std::to_string(rows) + " × " + std::to_string(columns) + " by " +
               std::to_string(outputs) + (biased ? ", biased" : "");
    }
    size_t row_bytes() const { return (size_t)columns / format.columns * format.bytes; }
    /// Bytes that must be read and written at least.
    double bytes() const {
        return (double)outputs * row_bytes() + (double)rows * columns * (x_is_f32 ? 4 : 2) +
               (double)rows * outputs * 4;
    }
};

/// Inputs of a product: weights and x as a kernel reads them, and x as numbers.
struct Product {
    std::vector<unsigned char> weights, x;
    std::vector<float> bias; ///< none, or a number for each output
    std::vector<double> numbers;
};

/// An f16 of either sign between 2⁻⁷ and 2⁻³, its bits at random.
inline uint16_t draw_scale(Numbers &numbers) {
    return static_cast<uint16_t>((numbers.next() & 0x83ff) | (8 + numbers.next() % 4) << 10);
}

inline Product draw(const ProductCase &c) {
    Product p;
    Numbers numbers{23};
    // Whole chunks of 16 bytes may be read; what lies beyond the last weight is NaNs.
    const size_t bytes = c.outputs * c.row_bytes();
    p.weights.assign((bytes + 15) / 16 * 16, 0xff);
    for (size_t at = 0; at < bytes; at += c.format.bytes) {
        const auto store = [&](int i, uint16_t two) { std::memcpy(&p.weights[at + i], &two, 2); };
        for (int i = 0; i < c.format.bytes; i++)
            p.weights[at + i] = static_cast<unsigned char>(numbers.next());
        if (c.format.columns == 1) store(0, to_bf16(numbers.normal()));
        if (c.format.columns > 1) store(0, draw_scale(numbers));
        if (c.format.bytes == 20 || c.format.columns == 256) store(2, draw_scale(numbers));
    }
    for (int i = 0; i < c.rows * c.columns; i++) {
        const float x = numbers.normal();
        const uint16_t rounded = to_bf16(x);
        const auto *from = c.x_is_f32 ? reinterpret_cast<const unsigned char *>(&x)
                                      : reinterpret_cast<const unsigned char *>(&rounded);
        p.x.insert(p.x.end(), from, from + (c.x_is_f32 ? 4 : 2));
        p.numbers.push_back(c.x_is_f32 ? x : from_bf16(rounded));
    }
    if (c.biased) p.bias = draw<float>(numbers, c.outputs);
    return p;
}

inline double from_f16_bytes(const unsigned char *at) {
    const int bits = at[0] | at[1] << 8, exponent = bits >> 10 & 31;
    const double size =
        exponent ? std::ldexp(1024 + (bits & 1023), exponent - 25) : std::ldexp(bits & 1023, -24);
    return bits & 0x8000 ? -size : size;
}

/// The weights of one block.
inline std::vector<double> unpack(const Format &format, const unsigned char *block) {
    const std::string name = format.name;
    std::vector<double> w(format.columns);
    const auto half = [&](int i) { return from_f16_bytes(block + i); };
    if (name == "bf16") w[0] = from_bf16(static_cast<uint16_t>(block[0] | block[1] << 8));
    for (int i = 0; i < 32 && name == "q8_0"; i++)
        w[i] = half(0) * static_cast<signed char>(block[2 + i]);
    for (int i = 0; i < 32 && name == "q4_0"; i++)
        w[i] = half(0) * ((block[2 + i % 16] >> i / 16 * 4 & 15) - 8);
    for (int i = 0; i < 32 && name == "q4_1"; i++)
        w[i] = half(0) * (block[4 + i % 16] >> i / 16 * 4 & 15) + half(2);
    for (int i = 0; i < 256 && name == "q4_k"; i++) {
        const unsigned char *six = block + 4;
        const int part = i / 32, j = part % 4;
        const int scale = part < 4 ? six[j] & 63 : (six[8 + j] & 15) | six[j] >> 6 << 4,
                  least = part < 4 ? six[4 + j] & 63 : six[8 + j] >> 4 | six[4 + j] >> 6 << 4,
                  q = block[16 + part / 2 * 32 + i % 32] >> part % 2 * 4 & 15;
        w[i] = half(0) * scale * q - half(2) * least;
    }
    return w;
}

/// y = x · Wᵀ in f64, `[rows, outputs]`.
inline std::vector<double> truth(const ProductCase &c, const Product &p) {
    std::vector<double> y((size_t)c.rows * c.outputs, 0), w;
    for (int output = 0; output < c.outputs; output++)
        for (int block = 0; block < c.columns / c.format.columns; block++) {
            w = unpack(c.format,
                       &p.weights[output * c.row_bytes() + (size_t)block * c.format.bytes]);
            for (int row = 0; row < c.rows; row++) {
                if (c.biased && block == 0)
                    y[(size_t)row * c.outputs + output] += p.bias[output];
                for (int i = 0; i < c.format.columns; i++)
                    y[(size_t)row * c.outputs + output] +=
                        w[i] * p.numbers[(size_t)row * c.columns + block * c.format.columns + i];
            }
        }
    return y;
}

/// Ids of a table's rows, one of them twice, and one beyond the last.
inline std::vector<uint32_t> row_ids(const ProductCase &c) {
    return {static_cast<uint32_t>(c.outputs - 1), 0, 3, 3, static_cast<uint32_t>(c.outputs)};
}
/// The rows of a table of weights, as numbers: NaNs where there is none.
inline std::vector<double> stored_rows(const ProductCase &c, const Product &p) {
    std::vector<double> rows;
    for (const uint32_t id : row_ids(c))
        for (int block = 0; block < c.columns / c.format.columns; block++) {
            std::vector<double> w(c.format.columns, NAN);
            if (id < static_cast<uint32_t>(c.outputs))
                w = unpack(c.format,
                           &p.weights[id * c.row_bytes() + (size_t)block * c.format.bytes]);
            rows.insert(rows.end(), w.begin(), w.end());
        }
    return rows;
}

/// The error of f32 sums: the emulation rounds every one, tensor cores cut off what is below the
/// largest number of a product.
constexpr double EMULATED_TOLERANCE = 1e-6, CARD_TOLERANCE = 1e-5;

/// Compares rows alone, and in the company of fewer, with `together`, the result of all: true if
/// the bits are the same. `run` gives a case's result.
template <class Run>
bool rows_are_apart(const ProductCase &c, const Product &p, const std::vector<float> &together,
                    Run run) {
    const size_t bytes = p.x.size() / c.rows;
    bool same = true;
    for (int first = 0, count = 1; first < c.rows; first += count, count += 2) {
        ProductCase some = c;
        some.rows = std::min(count, c.rows - first);
        Product of_some = p;
        of_some.x = {p.x.begin() + first * bytes, p.x.begin() + (first + some.rows) * bytes};
        const std::vector<float> apart = run(some, of_some);
        same &= !std::memcmp(apart.data(), &together[(size_t)first * c.outputs], apart.size() * 4);
    }
    return same;
}

/// Each format on x of both kinds: in as many slices of columns as go twice round the warps and on,
/// with a piece of one at the end, and in less than one; rows of weights that begin at every
/// alignment.
inline std::vector<ProductCase> product_cases(const Format &format) {
    const bool k = format.columns == 256, floats = format.columns == 1;
    const int many = k                    ? 4608
                     : floats             ? 1120
                     : format.bytes == 34 ? 2272
                                          : 4448,
              few = k ? 256 : 96;
    return {{format, false, 9, 35, many},
            {format, true, 9, 35, k ? 768 : 352, true},
            {format, false, 3, 40, few},
            {format, true, 1, 7, few}};
}
