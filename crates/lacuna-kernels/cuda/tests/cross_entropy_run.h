// The loss on a machine, emulated or real: memory and launches. The machine's `Buffer` must be
// there.
#pragma once
#include "cross_entropy.h"
#include "cross_entropy_launches.h"

namespace loss {

/// Memory of one run, and its kernels in their order.
class Run {
  public:
    Run(const Launches &launches, const Case &c, const Inputs &in)
        : k_(launches), c_(c), hidden_(in.hidden), head_(in.head), targets_(in.targets),
          weights_(in.weights), parts_((size_t)n_parts() * c.rows), target_logits_(c.rows),
          log_sums_(c.rows), nll_(c.rows), loss_(1), d_logits_((size_t)c.rows * columns(0)),
          d_hidden_((size_t)c.rows * c.h), d_head_((size_t)c.vocab * c.h) {}

    void forward() {
        start(k_.forward, c_.rows, n_parts(), args(0));
        k_.merge({u(tiles(c_.rows, 128))}, 128, 0, args(0).loss);
        k_.loss({1}, 128, LOSS_SHARED, args(0).loss);
    }
    void gradient(int first) {
        start(k_.gradient, c_.rows, tiles(columns(first), TILE), args(first));
    }
    void d_hidden(int first) {
        const Matrix head{head_.data() + (size_t)first * c_.h, c_.h, tokens(first), c_.h};
        start(k_.d_hidden, c_.rows, tiles(c_.h, TILE),
              SumArgs{d_logits(first), head, d_hidden_.data(), c_.rows, first > 0});
    }
    void d_head(int first) {
        start(k_.d_head, tokens(first), tiles(c_.h, TILE),
              SumArgs{d_logits(first), args(first).hidden, d_head_.data() + (size_t)first * c_.h,
                      tokens(first), false});
    }
    void backward() {
        for (int first = 0; first < c_.vocab; first += c_.chunk)
            gradient(first), d_hidden(first), d_head(first);
    }
    Results results() const {
        Results r;
        nll_.read(r.nll), loss_.read(r.loss), d_hidden_.read(r.d_hidden), d_head_.read(r.d_head);
        return r;
    }

  private:
    static unsigned u(int n) { return static_cast<unsigned>(n); }
    template <class Args>
    void start(Launch<Args> product, int rows, int blocks, const Args &args) const {
        product({u(tiles(rows, TILE)), u(blocks)}, k_.threads, PRODUCT_SHARED, args);
    }
    int n_parts() const { return tiles(tiles(c_.vocab, TILE), c_.part_tiles); }
    int tokens(int first) const { return std::min(c_.chunk, c_.vocab - first); }
    int columns(int first) const { return tiles(tokens(first), 8) * 8; }
    Matrix d_logits(int first) const {
        return {d_logits_.data(), columns(first), c_.rows, columns(first)};
    }
    HeadArgs args(int first) const {
        return {{targets_.data(), weights_.data(), parts_.data(), target_logits_.data(),
                 log_sums_.data(), nll_.data(), loss_.data(), c_.rows, n_parts()},
                {hidden_.data(), c_.h, c_.rows, c_.h},
                {head_.data(), c_.h, c_.vocab, c_.h},
                c_.part_tiles,
                d_logits_.data(),
                first,
                columns(first)};
    }

    const Launches &k_;
    const Case &c_;
    Buffer<bf16> hidden_, head_;
    Buffer<int> targets_;
    Buffer<float> weights_;
    Buffer<float2> parts_;
    Buffer<float> target_logits_, log_sums_, nll_;
    Buffer<double> loss_;
    Buffer<bf16> d_logits_;
    Buffer<float> d_hidden_, d_head_;
};

inline Results run(const Launches &launches, const Case &c, const Inputs &in) {
    Run run(launches, c, in);
    run.forward();
    run.backward();
    return run.results();
}

/// All chunks lie one behind the other; rows are padded with NaNs.
inline std::vector<float> in_chunks(const ChunkCase &c, const std::vector<float> &logits) {
    std::vector<float> all((size_t)tiles(c.vocab, c.chunk) * c.rows * c.chunk, NAN);
    for (int row = 0; row < c.rows; row++)
        for (int v = 0; v < c.vocab; v++)
            all[((size_t)(v / c.chunk) * c.rows + row) * c.chunk + v % c.chunk] =
                logits[(size_t)row * c.vocab + v];
    return all;
}

/// Memory of logits in chunks, and the kernels that go over them.
class ChunkRun {
  public:
    ChunkRun(const Launches &launches, const ChunkCase &c, const std::vector<float> &logits)
        : k_(launches), c_(c), logits_(in_chunks(c, logits)), d_logits_(logits_size()),
          targets_(targets_of(c)), weights_(weights_of(c)), parts_((size_t)n_chunks() * c.rows),
          target_logits_(c.rows), log_sums_(c.rows), nll_(c.rows) {}

    int n_chunks() const { return tiles(c_.vocab, c_.chunk); }
    void part(int chunk) { k_.chunk(grid(), 128, 0, args(chunk)); }
    void merge() { k_.merge({static_cast<unsigned>(tiles(c_.rows, 128))}, 128, 0, args(0).loss); }
    void gradient(int chunk) { k_.chunk_gradient(grid(), 128, 0, args(chunk)); }
    void gradient_bf16(int chunk) { k_.chunk_gradient_bf16(grid(), 128, 0, args(chunk)); }
    ChunkResults results() const {
        ChunkResults r{{}, std::vector<float>((size_t)c_.rows * c_.vocab), 0};
        std::vector<float> wide;
        std::vector<uint16_t> narrow;
        nll_.read(r.nll), logits_.read(wide), d_logits_.read(narrow);
        for (int row = 0; row < c_.rows; row++)
            for (int v = 0; v < tiles(c_.vocab, 8) * 8; v++) {
                const size_t at = place_of(c_, row, v);
                const float d = c_.in_bf16 ? from_bf16(narrow[at]) : wide[at];
                if (v < c_.vocab)
                    r.d_logits[(size_t)row * c_.vocab + v] = d;
                else
                    r.padding += d != 0;
            }
        return r;
    }

  private:
    static size_t place_of(const ChunkCase &c, int row, int v) {
        return ((size_t)(v / c.chunk) * c.rows + row) * c.chunk + v % c.chunk;
    }
    size_t logits_size() const { return (size_t)n_chunks() * c_.rows * c_.chunk; }
    /// All chunks lie one behind the other; rows are padded with NaNs.
    static std::vector<float> in_chunks(const ChunkCase &c, const std::vector<float> &logits) {
        std::vector<float> all((size_t)tiles(c.vocab, c.chunk) * c.rows * c.chunk, NAN);
        for (int row = 0; row < c.rows; row++)
            for (int v = 0; v < c.vocab; v++)
                all[place_of(c, row, v)] = logits[(size_t)row * c.vocab + v];
        return all;
    }
    static std::vector<int> targets_of(const ChunkCase &c) {
        std::vector<int> targets;
        for (int row = 0; row < c.rows; row++) targets.push_back(chunk_target(c, row));
        return targets;
    }
    static std::vector<float> weights_of(const ChunkCase &c) {
        std::vector<float> weights;
        for (int row = 0; row < c.rows; row++) weights.push_back(chunk_weight(row));
        return weights;
    }
    dim3 grid() const { return {static_cast<unsigned>(tiles(c_.rows, 4))}; }
    ChunkArgs args(int chunk) const {
        const size_t at = (size_t)chunk * c_.rows * c_.chunk;
        return {{targets_.data(), weights_.data(), parts_.data(), target_logits_.data(),
                 log_sums_.data(), nll_.data(), nullptr, c_.rows, n_chunks()},
                logits_.data() + at,
                d_logits_.data() + at,
                c_.chunk,
                chunk * c_.chunk,
                std::min(c_.chunk, c_.vocab - chunk * c_.chunk),
                chunk};
    }

    const Launches &k_;
    const ChunkCase &c_;
    Buffer<float> logits_;
    Buffer<bf16> d_logits_;
    Buffer<int> targets_;
    Buffer<float> weights_;
    Buffer<float2> parts_;
    Buffer<float> target_logits_, log_sums_, nll_;
};

inline ChunkResults run(const Launches &launches, const ChunkCase &c,
                        const std::vector<float> &logits) {
    ChunkRun run(launches, c, logits);
    for (int chunk = 0; chunk < run.n_chunks(); chunk++) run.part(chunk);
    run.merge();
    for (int chunk = 0; chunk < run.n_chunks(); chunk++)
        if (c.in_bf16)
            run.gradient_bf16(chunk);
        else
            run.gradient(chunk);
    return run.results();
}

} // namespace loss
