// Runs attention on a machine, emulated or real, and compares it with its definition in f64.
#pragma once
#include <cstdio>

#include "cases.h"
#include "numbers.h"

/// Values of one pass, on the host, in bf16 (T: its bits) or f32. Tensors are `[batch, len, heads,
/// d]`, as projections leave them.
template <class T> struct PassOf {
    std::vector<T> q, k, v, d_out, out, d_q, d_k, d_v;
    std::vector<float> log_sums;
};
using Pass = PassOf<uint16_t>;

template <class T> bool same_bits(const PassOf<T> &a, const PassOf<T> &b) {
    return same_bits(a.out, b.out) && same_bits(a.log_sums, b.log_sums) &&
           same_bits(a.d_q, b.d_q) && same_bits(a.d_k, b.d_k) && same_bits(a.d_v, b.d_v);
}

template <class T = uint16_t> PassOf<T> draw(const Case &c, uint64_t seed = 7) {
    PassOf<T> p;
    Numbers numbers{seed};
    const size_t queries = (size_t)c.batch * c.q_len() * c.heads * c.d,
                 keys = (size_t)c.batch * c.kv_len * c.kv_heads * c.d;
    for (auto *x : {&p.q, &p.d_out}) x->resize(queries);
    for (auto *x : {&p.k, &p.v}) x->resize(keys);
    for (auto *x : {&p.q, &p.k, &p.v, &p.d_out})
        for (auto &y : *x) y = nearest<T>(numbers.normal());
    return p;
}

/// The definition: every product in f64 over what is visible.
struct Truth {
    std::vector<double> out, log_sums, d_q, d_k, d_v;
};

template <class T> Truth truth(const Case &c, const PassOf<T> &p, double scale) {
    const int q_len = c.q_len(), d = c.d, group = c.heads / c.kv_heads;
    Truth t;
    for (auto *x : {&t.out, &t.d_q}) x->assign(p.q.size(), 0);
    for (auto *x : {&t.d_k, &t.d_v}) x->assign(p.k.size(), 0);
    t.log_sums.assign((size_t)c.batch * c.heads * q_len, -INFINITY);
    std::vector<double> w(c.kv_len), d_w(c.kv_len);
    std::vector<int> seen;
    for (int b = 0; b < c.batch; b++)
        for (int h = 0; h < c.heads; h++)
            for (int i = 0; i < q_len; i++) {
                const size_t q = (((size_t)b * q_len + i) * c.heads + h) * d;
                const auto key = [&](int j) {
                    return (((size_t)b * c.kv_len + j) * c.kv_heads + h / group) * d;
                };
                double most = -INFINITY, sum = 0, delta = 0;
                seen.clear();
                for (int j = 0; j < c.kv_len; j++) {
                    if (!c.sees(b, i, j)) continue;
                    seen.push_back(j);
                    w[j] = 0;
                    for (int x = 0; x < d; x++)
                        w[j] += number(p.q[q + x]) * number(p.k[key(j) + x]) * scale;
                    most = std::max(most, w[j]);
                }
                if (seen.empty()) continue;
                for (int j : seen) sum += w[j] = std::exp(w[j] - most);
                t.log_sums[((size_t)b * c.heads + h) * q_len + i] = most + std::log(sum);
                for (int j : seen) {
                    w[j] /= sum;
                    d_w[j] = 0;
                    for (int x = 0; x < d; x++) {
                        t.out[q + x] += w[j] * number(p.v[key(j) + x]);
                        d_w[j] += number(p.d_out[q + x]) * number(p.v[key(j) + x]);
                    }
                    delta += w[j] * d_w[j];
                }
                for (int j : seen)
                    for (int x = 0; x < d; x++) {
                        const double d_s = w[j] * (d_w[j] - delta) * scale;
                        t.d_v[key(j) + x] += w[j] * number(p.d_out[q + x]);
                        t.d_q[q + x] += d_s * number(p.k[key(j) + x]);
                        t.d_k[key(j) + x] += d_s * number(p.q[q + x]);
                    }
            }
    return t;
}

struct Errors {
    double out = 0, log_sum = 0, d_q = 0, d_k = 0, d_v = 0;
};
/// What bf16 operands cost, with sums in f32: weights are rounded once more before they meet
/// values.
constexpr Errors TOLERANCE{3e-3, 2e-5, 1e-2, 1e-2, 1e-2};
/// What f32 costs; measured 2e-7 to 6e-7, and a card's exponential is off by two units in the last
/// place.
constexpr Errors F32_TOLERANCE{5e-6, 2e-5, 5e-6, 5e-6, 5e-6};

template <class T> Errors compare(const PassOf<T> &p, const Truth &t, bool backward) {
    Errors e{relative_error(p.out, t.out), largest_error(p.log_sums, t.log_sums)};
    if (backward)
        e.d_q = relative_error(p.d_q, t.d_q), e.d_k = relative_error(p.d_k, t.d_k),
        e.d_v = relative_error(p.d_v, t.d_v);
    return e;
}

inline bool within(const Errors &e, const Errors &most = TOLERANCE) {
    return e.out <= most.out && e.log_sum <= most.log_sum && e.d_q <= most.d_q &&
           e.d_k <= most.d_k && e.d_v <= most.d_v;
}

/// How one pass is cut up: which kernels, and the tiles that they were written for.
struct Shape {
    const char *name;
    int d, forward_queries, forward_keys, dq_queries, dq_keys, dkv_keys, dkv_queries;

    /// A warp group takes 64 rows, other kernels 128 threads whatever their rows are.
    int threads(int rows) const { return std::strstr(name, "_hopper") ? 2 * rows : 128; }
};
constexpr Shape SHAPES[] = {
    {"64", 64, 128, 64, 128, 64, 128, 32},       {"128", 128, 128, 64, 128, 32, 64, 64},
    {"64_small", 64, 128, 64, 128, 32, 128, 32}, {"128_small", 128, 64, 32, 64, 32, 64, 32},
    {"64_hopper", 64, 64, 64, 64, 64, 64, 64},   {"128_hopper", 128, 128, 128, 128, 128, 64, 64},
};

inline int tiles(int n, int of) { return (n + of - 1) / of; }
