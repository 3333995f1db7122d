// Attention's kernels on the emulated machine.
#include "../attention_forward.cu"

#include "../attention_backward.cu"
#include "../attention_hopper.cu"

#include "attention.h"
#include "suite.h"

namespace {

Rows rows(const Buffer<bf16> &data, int len, int heads, int d) {
    return {data.data(), (long long)len * heads * d, d, heads * d};
}

unsigned u(int n) { return static_cast<unsigned>(n); }

struct Grids {
    dim3 forward, rows, queries, keys;
};

template <auto FORWARD, auto ROWS, auto QUERIES, auto KEYS>
void launch_kernels(const Shape &s, const Grids &grids, const ForwardArgs &forward,
                    const BackwardArgs &args, bool backward) {
    using emulation::launch;
    launch<FORWARD>(grids.forward, s.threads(s.forward_queries),
                    forward_shared(s.d, s.forward_queries, s.forward_keys), forward);
    if (!backward) return;
    launch<ROWS>(grids.rows, 128, 0, args);
    launch<QUERIES>(grids.queries, s.threads(s.dq_queries),
                    backward_queries_shared(s.d, s.dq_queries, s.dq_keys), args);
    launch<KEYS>(grids.keys, s.threads(s.dkv_keys),
                 backward_keys_shared(s.d, s.dkv_keys, s.dkv_queries), args);
}

void launch_shape(const Shape &s, const Grids &g, const ForwardArgs &f, const BackwardArgs &b,
                  bool backward) {
    const std::string name = s.name;
    if (name == "64")
        launch_kernels<attention_forward_64, attention_backward_rows_64,
                       attention_backward_queries_64, attention_backward_keys_64>(s, g, f, b,
                                                                                  backward);
    if (name == "128_hopper")
        launch_kernels<attention_forward_128_hopper, attention_backward_rows_128,
                       attention_backward_queries_128_hopper, attention_backward_keys_128_hopper>(
            s, g, f, b, backward);
// A build for planted faults has the kernels of two shapes alone.
#ifndef LACUNA_FEW
    if (name == "128")
        launch_kernels<attention_forward_128, attention_backward_rows_128,
                       attention_backward_queries_128, attention_backward_keys_128>(s, g, f, b,
                                                                                    backward);
    if (name == "64_small")
        launch_kernels<attention_forward_64, attention_backward_rows_64,
                       attention_backward_queries_64_small, attention_backward_keys_64>(s, g, f, b,
                                                                                        backward);
    if (name == "128_small")
        launch_kernels<attention_forward_128_small, attention_backward_rows_128,
                       attention_backward_queries_128_small, attention_backward_keys_128_small>(
            s, g, f, b, backward);
    if (name == "64_hopper")
        launch_kernels<attention_forward_64_hopper, attention_backward_rows_64,
                       attention_backward_queries_64_hopper, attention_backward_keys_64_hopper>(
            s, g, f, b, backward);
#endif
}

} // namespace

void run(const Case &c, const Shape &shape, Pass &p, float scale, bool backward) {
    using emulation::launch;
    const int q_len = c.q_len(), d = c.d, n_rows = static_cast<int>(c.rows.size());
    std::vector<int4> flat;
    for (const auto &row : c.rows)
        for (const Seen &s : row)
            flat.push_back({s.first.begin, s.first.end, s.second.begin, s.second.end});
    const Buffer<int4> ranges(flat);
    const Buffer<Sight> sights(n_rows * tiles(q_len, SIGHT));
    const Buffer<bf16> q(p.q), k(p.k), v(p.v), d_out(p.d_out), out(p.q.size()), d_q(p.q.size()),
        d_k(p.k.size()), d_v(p.v.size());
    const Buffer<float> log_sums((size_t)c.batch * c.heads * q_len);
    const int padded = tiles(q_len, PADDING) * PADDING;
    const Buffer<float2> stats((size_t)c.batch * c.heads * padded);
    const Mask mask{ranges.data(), sights.data(), n_rows, c.prefix, q_len, c.kv_len};
    launch<attention_sights>({u(tiles(q_len, 4 * SIGHT)), u(n_rows)}, 128, 0,
                             SightArgs{mask, sights.data()});

    const auto by_query = [&](const Buffer<bf16> &x) { return rows(x, q_len, c.heads, d); };
    const auto by_key = [&](const Buffer<bf16> &x) { return rows(x, c.kv_len, c.kv_heads, d); };
    const ForwardArgs forward{by_query(q), by_key(k), by_key(v),  by_query(out), log_sums.data(),
                              mask,        c.heads,   c.kv_heads, scale * LOG2_E};
    const BackwardArgs args{by_query(q),     by_key(k),     by_key(v),   by_query(out),
                            by_query(d_out), by_query(d_q), by_key(d_k), by_key(d_v),
                            log_sums.data(), stats.data(),  mask,        c.heads,
                            c.kv_heads,      scale * LOG2_E};
    const Grids grids{{u(tiles(q_len, shape.forward_queries)), u(c.heads), u(c.batch)},
                      {u(padded / 4), u(c.heads), u(c.batch)},
                      {u(tiles(q_len, shape.dq_queries)), u(c.heads), u(c.batch)},
                      {u(tiles(c.kv_len, shape.dkv_keys)), u(c.kv_heads), u(c.batch)}};
    launch_shape(shape, grids, forward, args, backward);
    out.read(p.out);
    log_sums.read(p.log_sums);
    if (backward) d_q.read(p.d_q), d_k.read(p.d_k), d_v.read(p.d_v);
}
