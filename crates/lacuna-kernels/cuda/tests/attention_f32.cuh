// Attention in f32 on a machine, emulated or real, whose `Buffer` and `launch` it is given: the cases
// of bf16, and some in which NaNs stand where nobody looks.
#pragma once
#include "attention.h"

using FloatPass = PassOf<float>;

/// A pass with its inputs and results on the machine.
class FloatRun {
  public:
    FloatRun(const Case &c, const FloatPass &p)
        : c_(c), q_len_(c.q_len()), ranges_(flat(c)),
          sights_(c.rows.size() * tiles(q_len_, SIGHT)), q_(p.q), k_(p.k), v_(p.v), d_out_(p.d_out),
          out_(p.q.size()), d_q_(p.q.size()), d_k_(p.k.size()), d_v_(p.v.size()),
          log_sums_((size_t)c.batch * c.heads * q_len_),
          stats_((size_t)c.batch * c.heads * tiles(q_len_, PADDING) * PADDING),
          mask_{ranges_.data(), sights_.data(), static_cast<int>(c.rows.size()),
                c.prefix,       q_len_,         c.kv_len} {
        launch<attention_sights>(grid(tiles(q_len_, 4 * SIGHT), mask_.rows), 128, 0,
                                 SightArgs{mask_, sights_.data()});
    }
    void forward() const {
        if (c_.d == 64)
            forward_by<attention_forward_64_f32>();
        else
            forward_by<attention_forward_128_f32>();
    }
    void backward() const {
        if (c_.d == 64)
            backward_by<attention_backward_rows_64_f32, attention_backward_queries_64_f32,
                        attention_backward_keys_64_f32>();
        else
            backward_by<attention_backward_rows_128_f32, attention_backward_queries_128_f32,
                        attention_backward_keys_128_f32>();
    }
    void read(FloatPass &p) const {
        out_.read(p.out), log_sums_.read(p.log_sums);
        d_q_.read(p.d_q), d_k_.read(p.d_k), d_v_.read(p.d_v);
    }

  private:
    static std::vector<int4> flat(const Case &c) {
        std::vector<int4> flat;
        for (const auto &row : c.rows)
            for (const Seen &s : row)
                flat.push_back({s.first.begin, s.first.end, s.second.begin, s.second.end});
        return flat;
    }
    static dim3 grid(int x, int y, int z = 1) {
        return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
    }
    RowsOf<float> rows(const Buffer<float> &x, int len, int heads) const {
        return {x.data(), (long long)len * heads * c_.d, c_.d, heads * c_.d};
    }
    RowsOf<float> by_query(const Buffer<float> &x) const { return rows(x, q_len_, c_.heads); }
    RowsOf<float> by_key(const Buffer<float> &x) const { return rows(x, c_.kv_len, c_.kv_heads); }
    float scale() const { return LOG2_E / std::sqrt(static_cast<float>(c_.d)); }

    template <auto KERNEL> void forward_by() const {
        launch<KERNEL>(grid(tiles(q_len_, GROUPS * FORWARD_ROWS), c_.heads, c_.batch), F32_THREADS,
                       forward_f32_shared(c_.d),
                       ForwardArgsOf<float>{by_query(q_), by_key(k_), by_key(v_), by_query(out_),
                                            log_sums_.data(), mask_, c_.heads, c_.kv_heads,
                                            scale()});
    }
    template <auto ROWS, auto QUERIES, auto KEYS> void backward_by() const {
        const BackwardArgsOf<float> args{
            by_query(q_),     by_key(k_),    by_key(v_),  by_query(out_), by_query(d_out_),
            by_query(d_q_),   by_key(d_k_),  by_key(d_v_), log_sums_.data(), stats_.data(),
            mask_,            c_.heads,      c_.kv_heads, scale()};
        const int shared = backward_f32_shared(c_.d), of_block = GROUPS * BACKWARD_ROWS;
        launch<ROWS>(grid(tiles(q_len_, PADDING) * PADDING / 4, c_.heads, c_.batch), F32_THREADS, 0,
                     args);
        launch<QUERIES>(grid(tiles(q_len_, of_block), c_.heads, c_.batch), F32_THREADS, shared,
                        args);
        launch<KEYS>(grid(tiles(c_.kv_len, of_block), c_.kv_heads, c_.batch), F32_THREADS, shared,
                     args);
    }

    const Case &c_;
    int q_len_;
    Buffer<int4> ranges_;
    Buffer<Sight> sights_;
    Buffer<float> q_, k_, v_, d_out_, out_, d_q_, d_k_, d_v_, log_sums_;
    Buffer<float2> stats_;
    Mask mask_;
};

template <class Suite> void check_float_case(Suite &suite, const Case &c, const FloatPass &inputs) {
    suite.check(
        "f32, " + c.name,
        [&] {
            FloatPass p = inputs;
            const FloatRun run(c, inputs);
            run.forward(), run.backward(), run.read(p);
            return p;
        },
        [&](const FloatPass &p) {
            const Errors e = compare(p, truth(c, inputs, 1 / std::sqrt((double)c.d)), true);
            return Verdict{error_text({{"out", e.out},
                                       {"log-sum", e.log_sum},
                                       {"dq", e.d_q},
                                       {"dk", e.d_k},
                                       {"dv", e.d_v}}),
                           within(e, F32_TOLERANCE)};
        });
}

/// Causal, but nobody sees the 64 last keys, and the 64 last queries see nothing.
inline Case with_idle_tiles(int d) {
    auto seen = pass(Pattern::Causal, 1, 96, 0);
    seen.resize(160, Seen{{0, 0}, {0, 0}});
    return {"idle tiles hold NaNs, head " + std::to_string(d), 1, 2, 1, d, 160, 0, {seen}};
}
/// Its inputs, with NaNs in those tiles: they must not be touched.
inline FloatPass with_nans(const Case &c) {
    FloatPass p = draw<float>(c);
    const auto spoil = [&](std::vector<float> &x, int heads) {
        for (size_t i = (size_t)96 * heads * c.d; i < x.size(); i++) x[i] = NAN;
    };
    spoil(p.q, c.heads), spoil(p.d_out, c.heads), spoil(p.k, c.kv_heads), spoil(p.v, c.kv_heads);
    return p;
}

/// Heads of 64 run every case, those of 128 what training runs.
template <class Suite> void check_floats(Suite &suite, int d) {
    const Case idle = with_idle_tiles(d);
    check_float_case(suite, idle, with_nans(idle));
    for (const Case &c : small_cases(d))
        if (d == 64 || c.name.find("diffusion") != std::string::npos)
            check_float_case(suite, c, draw<float>(c));
}
