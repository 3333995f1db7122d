// Attention on a card: every case against f64, then times.
#pragma once
#include <map>

#include "../attention_backward.cu"
#include "../attention_forward.cu"
#include "../attention_hopper.cu"
#include "../tests/attention.h"
#include "device.cuh"

namespace attention {

Rows rows(const Buffer<bf16> &data, int len, int heads, int d) {
    return {data.data(), (long long)len * heads * d, d, heads * d};
}

/// A kernel with the tile that it was written for.
template <class Args> struct Kernel {
    const char *name;
    void (*run)(Args);
    int d, threads, rows, shared; ///< rows: queries or keys to a block
};

struct Kernels {
    const char *name;
    Kernel<ForwardArgs> forward;
    Kernel<BackwardArgs> rows, queries, keys;
};

#define KERNEL(name, d, threads, rows, shared) {#name, name, d, threads, rows, shared}
/// Kernels of a shape, as tests/attention.h lists them.
Kernels of_shape(const char *name) {
    const auto find = [](const char *name) {
        for (const Shape &s : SHAPES)
            if (!std::strcmp(s.name, name)) return s;
        std::abort();
    };
    const Shape s = find(name);
    const int forward = forward_shared(s.d, s.forward_queries, s.forward_keys),
              queries = backward_queries_shared(s.d, s.dq_queries, s.dq_keys),
              keys = backward_keys_shared(s.d, s.dkv_keys, s.dkv_queries);
#define SHAPE(suffix, forward_kernel, rows_kernel, queries_kernel, keys_kernel)                    \
    if (!std::strcmp(name, #suffix))                                                               \
        return {                                                                                   \
            s.name,                                                                                \
            KERNEL(forward_kernel, s.d, s.threads(s.forward_queries), s.forward_queries, forward), \
            KERNEL(rows_kernel, s.d, 128, 4, 0),                                                   \
            KERNEL(queries_kernel, s.d, s.threads(s.dq_queries), s.dq_queries, queries),           \
            KERNEL(keys_kernel, s.d, s.threads(s.dkv_keys), s.dkv_keys, keys)};
    SHAPE(64, attention_forward_64, attention_backward_rows_64, attention_backward_queries_64,
          attention_backward_keys_64)
    SHAPE(128, attention_forward_128, attention_backward_rows_128, attention_backward_queries_128,
          attention_backward_keys_128)
    SHAPE(64_small, attention_forward_64, attention_backward_rows_64,
          attention_backward_queries_64_small, attention_backward_keys_64)
    SHAPE(128_small, attention_forward_128_small, attention_backward_rows_128,
          attention_backward_queries_128_small, attention_backward_keys_128_small)
    SHAPE(64_hopper, attention_forward_64_hopper, attention_backward_rows_64,
          attention_backward_queries_64_hopper, attention_backward_keys_64_hopper)
    SHAPE(128_hopper, attention_forward_128_hopper, attention_backward_rows_128,
          attention_backward_queries_128_hopper, attention_backward_keys_128_hopper)
    std::abort();
}

/// One pass with its inputs and results on the card.
class CardPass {
  public:
    CardPass(const Case &c, const Pass &p)
        : c_(c), padded_(tiles(c.q_len(), PADDING) * PADDING), ranges_(flat(c)),
          sights_(c.rows.size() * tiles(c.q_len(), SIGHT)), q_(p.q), k_(p.k), v_(p.v),
          d_out_(p.d_out), out_(p.q.size()), d_q_(p.q.size()), d_k_(p.k.size()), d_v_(p.v.size()),
          log_sums_((size_t)c.batch * c.heads * c.q_len()),
          stats_((size_t)c.batch * c.heads * padded_) {
        mask_ = {ranges_.data(), sights_.data(), (int)c.rows.size(), c.prefix, c.q_len(), c.kv_len};
    }
    void sights() {
        attention_sights<<<dim3(tiles(c_.q_len(), 4 * SIGHT), (unsigned)c_.rows.size()), 128>>>(
            SightArgs{mask_, sights_.data()});
        MUST(cudaGetLastError());
    }
    void forward(const Kernel<ForwardArgs> &k) {
        start(k, dim3(tiles(c_.q_len(), k.rows), c_.heads, c_.batch),
              ForwardArgs{by_query(q_), by_key(k_), by_key(v_), by_query(out_), log_sums_.data(),
                          mask_, c_.heads, c_.kv_heads, scale() * LOG2_E});
    }
    void backward_rows(const Kernel<BackwardArgs> &k) {
        start(k, dim3(padded_ / k.rows, c_.heads, c_.batch), backward());
    }
    void backward_queries(const Kernel<BackwardArgs> &k) {
        start(k, dim3(tiles(c_.q_len(), k.rows), c_.heads, c_.batch), backward());
    }
    void backward_keys(const Kernel<BackwardArgs> &k) {
        start(k, dim3(tiles(c_.kv_len, k.rows), c_.kv_heads, c_.batch), backward());
    }
    void read(Pass &p) const {
        MUST(cudaDeviceSynchronize());
        out_.read(p.out), log_sums_.read(p.log_sums), d_q_.read(p.d_q), d_k_.read(p.d_k),
            d_v_.read(p.d_v);
    }
    float scale() const { return 1 / std::sqrt((float)c_.d); }

  private:
    static std::vector<int4> flat(const Case &c) {
        std::vector<int4> flat;
        for (const auto &row : c.rows)
            for (const Seen &s : row)
                flat.push_back({s.first.begin, s.first.end, s.second.begin, s.second.end});
        return flat;
    }
    Rows by_query(const Buffer<bf16> &x) const { return rows(x, c_.q_len(), c_.heads, c_.d); }
    Rows by_key(const Buffer<bf16> &x) const { return rows(x, c_.kv_len, c_.kv_heads, c_.d); }
    BackwardArgs backward() const {
        return {by_query(q_),   by_key(k_),   by_key(v_),   by_query(out_),   by_query(d_out_),
                by_query(d_q_), by_key(d_k_), by_key(d_v_), log_sums_.data(), stats_.data(),
                mask_,          c_.heads,     c_.kv_heads,  scale() * LOG2_E};
    }
    template <class Args> static void start(const Kernel<Args> &k, dim3 grid, const Args &args) {
        static std::map<const void *, bool> prepared;
        if (!prepared[(const void *)k.run]) allow_shared((const void *)k.run, k.shared);
        prepared[(const void *)k.run] = true;
        k.run<<<grid, k.threads, k.shared>>>(args);
        must(cudaGetLastError(), k.name);
    }

    const Case &c_;
    int padded_;
    Mask mask_;
    Buffer<int4> ranges_;
    Buffer<Sight> sights_;
    Buffer<bf16> q_, k_, v_, d_out_, out_, d_q_, d_k_, d_v_;
    Buffer<float> log_sums_;
    Buffer<float2> stats_;
};

Pass whole_pass(const Case &c, const Pass &inputs, const Kernels &k) {
    CardPass card(c, inputs);
    card.sights();
    card.forward(k.forward);
    card.backward_rows(k.rows);
    card.backward_queries(k.queries);
    card.backward_keys(k.keys);
    Pass p = inputs;
    card.read(p);
    return p;
}

bool check_case(const Case &c, const Kernels &k) {
    const Pass inputs = draw(c), first = whole_pass(c, inputs, k),
               second = whole_pass(c, inputs, k);
    const bool same = same_bits(first, second);
    const Errors e = compare(first, truth(c, inputs, 1 / std::sqrt((double)c.d)), true);
    const bool good = within(e) && same;
    std::printf("check %-9s %-46s out %.2e log-sum %.1e dq %.2e dk %.2e dv %.2e%s%s\n", k.name,
                c.name.c_str(), e.out, e.log_sum, e.d_q, e.d_k, e.d_v,
                same ? "" : "  a second run gave other bits", good ? "" : "  FAILED");
    return good;
}

/// Beyond one block of everything: tails in the middle of a tile, groups of heads, several
/// sequences.
std::vector<Case> large_cases(int d) {
    std::vector<Case> cases;
    const auto name = [&](const char *what) {
        return std::string(what) + ", head " + std::to_string(d);
    };
    cases.push_back({name("causal 700"), 1, 3, 1, d, 700, 0, {pass(Pattern::Causal, 1, 700, 0)}});
    cases.push_back({name("block diffusion 2 × 450"),
                     1,
                     4,
                     2,
                     d,
                     900,
                     0,
                     {pass(Pattern::BlockDiffusion, 4, 450, 0)}});
    cases.push_back({name("documents 2 × 388"),
                     2,
                     2,
                     2,
                     d,
                     776,
                     0,
                     {documents(Pattern::BlockDiffusion, 16, {150, 37, 1, 200}),
                      documents(Pattern::BlockDiffusion, 16, {388})}});
    return cases;
}

Pass random_pass(const Case &c) {
    Pass p;
    Numbers numbers{3};
    const size_t queries = (size_t)c.batch * c.q_len() * c.heads * c.d,
                 keys = (size_t)c.batch * c.kv_len * c.kv_heads * c.d;
    for (auto *x : {&p.q, &p.d_out}) x->resize(queries);
    for (auto *x : {&p.k, &p.v}) x->resize(keys);
    // Normal draws are slow for hundreds of millions of numbers; a table of them, read at random
    // places, will do for times.
    std::vector<uint16_t> table(1 << 14);
    for (auto &x : table) x = to_bf16(numbers.normal());
    for (auto *x : {&p.q, &p.k, &p.v, &p.d_out})
        for (size_t i = 0; i < x->size(); i += 4) {
            const uint64_t bits = numbers.next();
            for (int j = 0; j < 4; j++) (*x)[i + j] = table[bits >> (16 * j) & (table.size() - 1)];
        }
    return p;
}

std::vector<Case> timed_cases(int d) {
    const int heads = 2048 / d;
    std::vector<Case> cases;
    const auto name = [&](const char *what) {
        return std::string(what) + ", head " + std::to_string(d);
    };
    cases.push_back(
        {name("causal 8192"), 2, heads, heads, d, 8192, 0, {pass(Pattern::Causal, 1, 8192, 0)}});
    cases.push_back(
        {name("full 8192"), 1, heads, heads, d, 8192, 0, {pass(Pattern::Full, 1, 8192, 0)}});
    cases.push_back({name("block diffusion 2 × 8192, blocks of 4"),
                     1,
                     heads,
                     heads,
                     d,
                     16384,
                     0,
                     {pass(Pattern::BlockDiffusion, 4, 8192, 0)}});
    cases.push_back({name("block diffusion 2 × 4096, blocks of 4, 2 heads a key head"),
                     2,
                     heads,
                     heads / 2,
                     d,
                     8192,
                     0,
                     {pass(Pattern::BlockDiffusion, 4, 4096, 0)}});
    std::vector<int> lengths;
    for (int n = 0, i = 0; n < 8192; i++)
        lengths.push_back(std::min(8192 - n, 100 + 397 * i % 900)), n += lengths.back();
    cases.push_back({name("documents 2 × 8192, blocks of 4"),
                     1,
                     heads,
                     heads,
                     d,
                     16384,
                     0,
                     {documents(Pattern::BlockDiffusion, 4, lengths)}});
    return cases;
}

void report(const char *kernel, const Case &c, double ms, double products) {
    const double flops = 2. * products * c.d * c.pairs() * c.heads;
    std::printf("time %-38s %-62s %8.3f ms %7.1f TFLOP/s\n", kernel, c.name.c_str(), ms,
                flops / ms * 1e-9);
    std::fflush(stdout);
}

void time_case(const Case &c, const Kernels &k) {
    CardPass card(c, random_pass(c));
    card.sights();
    const double sights = milliseconds([&] { card.sights(); });
    const double forward = milliseconds([&] { card.forward(k.forward); });
    report(k.forward.name, c, forward, 2);
    const double row = milliseconds([&] { card.backward_rows(k.rows); });
    const double queries = milliseconds([&] { card.backward_queries(k.queries); });
    const double keys = milliseconds([&] { card.backward_keys(k.keys); });
    report(k.queries.name, c, queries, 3);
    report(k.keys.name, c, keys, 4);
    report("backward, all of it", c, row + queries + keys, 5);
    std::printf("     sights %.3f ms, rows %.3f ms\n", sights, row);
}

/// Whether a card has what a shape's kernels need.
bool fits(const Shape &shape, const cudaDeviceProp &card) {
    const std::string name = shape.name;
    if (name == "128") return card.major == 8 && card.minor == 0;
    return name.find("_hopper") == std::string::npos || card.major == 9;
}

bool check(const cudaDeviceProp &card) {
    bool good = true;
    for (const Shape &shape : SHAPES) {
        if (!fits(shape, card)) continue;
        const Kernels k = of_shape(shape.name);
        for (const Case &c : small_cases(shape.d)) good &= check_case(c, k);
        for (const Case &c : large_cases(shape.d)) good &= check_case(c, k);
    }
    return good;
}

void time(const cudaDeviceProp &card) {
    for (const Shape &shape : SHAPES)
        if (fits(shape, card))
            for (const Case &c : timed_cases(shape.d)) time_case(c, of_shape(shape.name));
}

} // namespace attention
