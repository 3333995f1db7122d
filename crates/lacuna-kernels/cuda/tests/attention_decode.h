// Decoding attention: sequences of every kind in small, how they become one launch, and the
// comparison with the definition in f64. Shared by the emulation and a card; whoever includes this
// has a `Buffer`.
#pragma once
#include <memory>

#include "../attention_decode.cu"
#include "attention.h"

/// The sequences of one launch, each a `Case` of batch 1 that has keys of its own.
struct DecodeCase {
    std::string name;
    int heads, kv_heads, d;
    std::vector<Case> sequences;
    int split = 0; ///< keys of a piece; 0: as `decode_split` has it

    float scale() const { return 1 / std::sqrt(static_cast<float>(d)); }
};

/// Results of a launch: `[rows, heads, d]` and `[rows, heads]`.
struct Decoded {
    std::vector<uint16_t> out;
    std::vector<float> log_sums;
};

inline bool same_bits(const Decoded &a, const Decoded &b) {
    return same_bits(a.out, b.out) && same_bits(a.log_sums, b.log_sums);
}

/// Inputs of each sequence: what a sequence draws depends on its number alone.
inline std::vector<Pass> draw(const DecodeCase &c) {
    std::vector<Pass> passes;
    for (const Case &s : c.sequences) passes.push_back(draw(s, 100 + passes.size()));
    return passes;
}

/// Queries of all sequences end to end.
inline std::vector<uint16_t> queries(const std::vector<Pass> &passes) {
    std::vector<uint16_t> all;
    for (const Pass &p : passes) all.insert(all.end(), p.q.begin(), p.q.end());
    return all;
}

/// The sequences of a launch as the kernel is told of them, and its work.
struct DecodePlan {
    std::vector<Sequence> sequences;
    std::vector<int2> pieces;
    std::vector<int4> ranges;
    long long parts = 0;
    int rows = 0, most_rows = 0;
};

/// Pieces of all sequences, and one that is nothing, as a launch that is used again for fewer has.
inline DecodePlan plan(const DecodeCase &c) {
    DecodePlan plan;
    for (const Case &s : c.sequences) {
        const int split = c.split ? c.split : decode_split(s.kv_len),
                  pieces = tiles(s.kv_len, split), rows = s.q_len(),
                  number = static_cast<int>(plan.sequences.size());
        plan.sequences.push_back(
            {{}, {}, plan.rows, rows, s.kv_len, s.prefix, split, pieces, plan.parts});
        for (int i = 0; i < pieces; i++) plan.pieces.push_back({number, i});
        for (const Seen &r : s.rows[0])
            plan.ranges.push_back({r.first.begin, r.first.end, r.second.begin, r.second.end});
        plan.parts += (long long)pieces * rows;
        plan.rows += rows;
        plan.most_rows = std::max(plan.most_rows, rows);
    }
    plan.pieces.push_back({-(1 << 20), 0});
    return plan;
}

/// The memory of a launch, on the emulated machine or a card.
class DecodeMemory {
  public:
    DecodeMemory(const DecodeCase &c, const std::vector<Pass> &passes)
        : DecodeMemory(c, passes, plan(c)) {}
    const DecodeArgs &args() const { return args_; }
    /// Blocks of the kernel that computes pieces, and of that which joins them.
    unsigned piece_blocks() const {
        return static_cast<unsigned>(n_pieces_ * args_.kv_heads * args_.blocks);
    }
    dim3 merge_blocks() const {
        return dim3{static_cast<unsigned>(tiles(most_rows_ * args_.heads * (d_ / 64), 4)),
                    static_cast<unsigned>(n_sequences_), 1};
    }
    Decoded read() const {
        Decoded decoded;
        out_.read(decoded.out);
        log_sums_.read(decoded.log_sums);
        return decoded;
    }

  private:
    DecodeMemory(const DecodeCase &c, const std::vector<Pass> &passes, DecodePlan plan)
        : d_(c.d), n_sequences_(passes.size()), n_pieces_(plan.pieces.size()),
          most_rows_(plan.most_rows), q_(queries(passes)), out_((size_t)plan.rows * c.heads * c.d),
          log_sums_((size_t)plan.rows * c.heads), parts_((size_t)plan.parts * c.heads * c.d),
          part_sums_((size_t)plan.parts * c.heads), ranges_(plan.ranges), pieces_(plan.pieces),
          sequences_(with_caches(c, passes, std::move(plan.sequences))) {
        const Rows q{q_.data(), 0, d_, c.heads * d_}, out{out_.data(), 0, d_, c.heads * d_};
        args_ = {q,
                 out,
                 log_sums_.data(),
                 ranges_.data(),
                 sequences_.data(),
                 pieces_.data(),
                 parts_.data(),
                 part_sums_.data(),
                 c.heads,
                 c.kv_heads,
                 tiles(most_rows_ * c.heads / c.kv_heads, DECODE_ROWS),
                 c.scale() * LOG2_E};
    }
    std::vector<Sequence> with_caches(const DecodeCase &c, const std::vector<Pass> &passes,
                                      std::vector<Sequence> sequences) {
        const auto cache = [&](const std::vector<uint16_t> &rows) {
            caches_.push_back(std::make_unique<Buffer<bf16>>(rows));
            return Rows{caches_.back()->data(), 0, d_, c.kv_heads * d_};
        };
        for (size_t i = 0; i < passes.size(); i++)
            sequences[i].k = cache(passes[i].k), sequences[i].v = cache(passes[i].v);
        return sequences;
    }

    int d_;
    size_t n_sequences_, n_pieces_;
    int most_rows_;
    std::vector<std::unique_ptr<Buffer<bf16>>> caches_;
    Buffer<bf16> q_, out_;
    Buffer<float> log_sums_, parts_;
    Buffer<float2> part_sums_;
    Buffer<int4> ranges_;
    Buffer<int2> pieces_;
    Buffer<Sequence> sequences_;
    DecodeArgs args_;
};

/// The bits that each sequence has alone, end to end; `run` gives a case's.
template <class Run>
Decoded decode_apart(const DecodeCase &c, const std::vector<Pass> &passes, Run run) {
    Decoded apart;
    for (size_t i = 0; i < passes.size(); i++) {
        DecodeCase one = c;
        one.sequences = {c.sequences[i]};
        const Decoded alone = run(one, std::vector<Pass>{passes[i]});
        apart.out.insert(apart.out.end(), alone.out.begin(), alone.out.end());
        apart.log_sums.insert(apart.log_sums.end(), alone.log_sums.begin(), alone.log_sums.end());
    }
    return apart;
}

inline Errors compare(const DecodeCase &c, const std::vector<Pass> &passes, const Decoded &got) {
    std::vector<double> out, log_sums;
    for (size_t i = 0; i < passes.size(); i++) {
        const Case &s = c.sequences[i];
        const Truth t = truth(s, passes[i], c.scale());
        out.insert(out.end(), t.out.begin(), t.out.end());
        for (int row = 0; row < s.q_len(); row++)
            for (int head = 0; head < c.heads; head++)
                log_sums.push_back(t.log_sums[(size_t)head * s.q_len() + row]);
    }
    return {relative_error(got.out, out), largest_error(got.log_sums, log_sums)};
}

/// Keys before a position that a window of `width` sees, and the first `sinks`.
inline Seen window(int position, int width, int sinks) {
    return {{0, sinks}, {std::max(sinks, position + 1 - width), position + 1}};
}

inline std::vector<DecodeCase> decode_cases(int d) {
    using P = Pattern;
    std::vector<DecodeCase> cases;
    const auto add = [&](const char *name, int heads, int kv_heads) {
        cases.push_back(
            {std::string(name) + ", head " + std::to_string(d), heads, kv_heads, d, {}});
    };
    const auto sequence = [&](int prefix, int kv_len, std::vector<Seen> rows) {
        DecodeCase &c = cases.back();
        c.sequences.push_back({"", 1, c.heads, c.kv_heads, d, kv_len, prefix, {std::move(rows)}});
    };
    add("a block of 4 behind ragged caches", 8, 2);
    for (int prefix : {261, 0, 129, 60})
        sequence(prefix, prefix + 4, pass(P::BlockCausal, 4, 4, prefix));
    add("a speculative draft and its check", 4, 1);
    sequence(270, 270 + 12, speculative(4, 4, 4, 270));
    sequence(70, 70 + 10, speculative(4, 2, 4, 70));
    if (d == 128) return cases;
    add("windows, one query blind", 2, 1);
    std::vector<Seen> rows;
    for (int i = 0; i < 5; i++) rows.push_back(window(900 + i, 130, 3));
    rows[2] = {{0, 0}, {0, 0}};
    sequence(0, 905, rows);
    add("two blocks in one", 4, 1);
    for (int prefix : {258, 62}) sequence(prefix, prefix + 8, pass(P::BlockCausal, 4, 8, prefix));
    add("one row", 2, 2);
    for (int prefix : {63, 300, 0, 255})
        sequence(prefix, prefix + 1, pass(P::Causal, 1, 1, prefix));
    sequence(0, 0, {{{0, 0}, {0, 0}}});
    add("16 rows of 7 heads", 7, 1);
    sequence(90, 90 + 16, pass(P::Causal, 1, 16, 90));
    sequence(20, 20 + 1, pass(P::Causal, 1, 1, 20));
    add("more pieces than a warp has lanes", 1, 1);
    cases.back().split = DECODE_KEYS;
    sequence(2200, 2201, pass(P::Causal, 1, 1, 2200));
    return cases;
}
