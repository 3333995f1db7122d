// The embedding: its cases, and its definition in f64. Shared by the emulation and by a card.
#pragma once
#include <algorithm>
#include <numeric>

#include "typed_cases.h"

struct EmbeddingCase {
    const char *name;
    int rows, v, h;
    bool beyond; ///< an id is beyond the table
};
constexpr EmbeddingCase EMBEDDING_CASES[] = {
    {"several blocks to a token", 23, 7, 1100, false},
    {"no vector divides a row", 40, 9, 67, false},
    {"a single row", 1, 3, 64, false},
    {"an id beyond the table makes NaNs", 5, 4, 72, true},
};

/// T: `uint16_t` for bf16, or `float`.
template <class T> struct EmbeddingPass {
    std::vector<uint32_t> ids, looked_up;      ///< looked_up: ids, one beyond the table perhaps
    std::vector<T> table, d_out, out, d_table; ///< d_table: what is there already, then the sum
    std::vector<float> d_table_f32;            ///< the same in f32, of gradients of T
    std::vector<float> out_f32;                ///< rows of the table in f32
    std::vector<uint16_t> placed; ///< these rows in reverse order, in bf16, behind one of NaNs
};

template <class T> EmbeddingPass<T> draw(const EmbeddingCase &c) {
    Numbers numbers{29};
    EmbeddingPass<T> p;
    // A few tokens are most of a text.
    for (int i = 0; i < c.rows; i++) {
        const double u = numbers.uniform();
        p.ids.push_back(static_cast<uint32_t>(u * u * u * c.v));
    }
    p.looked_up = p.ids;
    if (c.beyond) p.looked_up[1] = static_cast<uint32_t>(c.v);
    p.table = draw<T>(numbers, (size_t)c.v * c.h);
    p.d_table = draw<T>(numbers, (size_t)c.v * c.h);
    for (const T x : p.d_table) p.d_table_f32.push_back(static_cast<float>(number(x)));
    p.d_out = draw<T>(numbers, (size_t)c.rows * c.h);
    p.d_out[c.h - 1] = nearest<T>(NAN);
    return p;
}

template <class T> bool same_bits(const EmbeddingPass<T> &a, const EmbeddingPass<T> &b) {
    return same_bits(a.out, b.out) && same_bits(a.d_table, b.d_table) &&
           same_bits(a.d_table_f32, b.d_table_f32) && same_bits(a.out_f32, b.out_f32) &&
           same_bits(a.placed, b.placed);
}

/// The places of each token that occurs, as the gradient's kernel reads it.
struct Occurrences {
    std::vector<uint32_t> tokens;
    std::vector<int> starts, places;
};
inline Occurrences sort_by_token(const std::vector<uint32_t> &ids) {
    Occurrences o;
    o.places.resize(ids.size());
    std::iota(o.places.begin(), o.places.end(), 0);
    std::stable_sort(o.places.begin(), o.places.end(),
                     [&](int a, int b) { return ids[a] < ids[b]; });
    for (size_t i = 0; i < ids.size(); i++)
        if (!i || ids[o.places[i]] != o.tokens.back())
            o.tokens.push_back(ids[o.places[i]]), o.starts.push_back(static_cast<int>(i));
    o.starts.push_back(static_cast<int>(ids.size()));
    return o;
}

/// One pass on a machine.
template <class T> void run(const EmbeddingCase &c, EmbeddingPass<T> &pass);

template <class Suite> void check_embedding(Suite &suite) {
    check_cases(
        suite, EMBEDDING_CASES, [](const EmbeddingCase &c, const auto &inputs, const auto &pass) {
            std::vector<double> out, d_table;
            for (const auto x : inputs.d_table) d_table.push_back(number(x));
            for (int i = 0; i < c.rows * c.h; i++) {
                const size_t row = i / c.h, column = i % c.h, id = inputs.looked_up[row];
                out.push_back(id < (size_t)c.v ? number(inputs.table[id * c.h + column]) : NAN);
                d_table[inputs.ids[row] * c.h + column] += number(inputs.d_out[i]);
            }
            std::vector<double> reversed(c.h, NAN);
            for (int i = 0; i < c.rows * c.h; i++)
                reversed.push_back(out[(c.rows - 1 - i / c.h) * c.h + i % c.h]);
            // bf16 is rounded once, by at most 2⁻⁹ of each number.
            const bool placed = relative_error(pass.placed, reversed) <= 2e-3;
            const double copied = relative_error(pass.out, out) + relative_error(pass.out_f32, out),
                         gradient = relative_error(pass.d_table, d_table),
                         wide = relative_error(pass.d_table_f32, d_table);
            // bf16 is rounded once, by at most 2⁻⁹ of each number; f32 with each row.
            const double tolerance = sizeof(inputs.table[0]) == 2 ? 2e-3 : 1e-6;
            return Verdict{error_text({{"out", copied}, {"d_table", gradient}, {"in f32", wide}}),
                           copied == 0 && placed && gradient <= tolerance && wide <= 1e-6};
        });
}
