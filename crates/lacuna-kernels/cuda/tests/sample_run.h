// Draws on a machine, emulated or real: memory and launches. The machine's `Buffer` must be there.
#pragma once
#include "sample.h"
#include "sample_launches.h"

namespace sample {

/// Draws over one vocabulary, in one launch of each kernel.
class Run {
  public:
    Run(const std::vector<std::vector<float>> &rows, const std::vector<Recorded> &draws)
        : vocab_(draws[0].vocab), n_(static_cast<int>(draws.size())), logits_(flat(rows)),
          seen_(sample::seen(vocab_)), forbidden_(all_forbidden(draws)),
          maxima_((size_t)n_ * n_spans()), spans_((size_t)n_ * n_spans()),
          pool_((size_t)n_ * n_spans() * SPAN), candidates_(n_), draws_(as_draws(draws)) {}

    void start(const Launches &k) {
        k.maxima(by_span(), SAMPLE_THREADS, MAXIMA_SHARED, args());
        k.spans(by_span(), SAMPLE_THREADS, SPANS_SHARED, args());
        k.rows({static_cast<unsigned>(n_)}, SAMPLE_THREADS, ROWS_SHARED, args());
    }
    std::vector<Picked> candidates() const {
        static_assert(sizeof(Picked) == sizeof(Candidate));
        std::vector<Picked> all;
        candidates_.read(all);
        return all;
    }

  private:
    int n_spans() const { return (vocab_ + SPAN - 1) / SPAN; }
    dim3 by_span() const { return {static_cast<unsigned>(n_spans()), static_cast<unsigned>(n_)}; }
    SampleArgs args() const {
        return {logits_.data(), vocab_,        vocab_,       draws_.data(),
                maxima_.data(), spans_.data(), pool_.data(), candidates_.data()};
    }
    static std::vector<float> flat(const std::vector<std::vector<float>> &rows) {
        std::vector<float> all;
        for (const auto &row : rows) all.insert(all.end(), row.begin(), row.end());
        return all;
    }
    static std::vector<int> all_forbidden(const std::vector<Recorded> &draws) {
        std::vector<int> all{-1}; // a buffer is never empty
        for (const auto &draw : draws)
            all.insert(all.end(), draw.forbidden.begin(), draw.forbidden.end());
        return all;
    }
    /// A draw of row i each; one of no vocabulary draws nothing.
    std::vector<Draw> as_draws(const std::vector<Recorded> &draws) const {
        std::vector<Draw> all;
        const int *forbidden = forbidden_.data() + 1;
        for (size_t i = 0; i < draws.size(); i++) {
            const Recorded &r = draws[i];
            all.push_back({r.vocab ? (long long)i : -1, r.seed, r.position, r.refinement,
                           r.temperature, r.top_p, r.min_p, r.penalty,
                           r.penalty == 1 ? nullptr : seen_.data(), forbidden,
                           static_cast<int>(r.forbidden.size()), r.top_k});
            forbidden += r.forbidden.size();
        }
        return all;
    }

    int vocab_, n_;
    Buffer<float> logits_;
    Buffer<unsigned> seen_;
    Buffer<int> forbidden_;
    Buffer<Maxima> maxima_;
    Buffer<SpanResult> spans_;
    Buffer<int2> pool_;
    Buffer<Candidate> candidates_;
    Buffer<Draw> draws_;
};

inline Results run(const Launches &launches, const std::vector<std::vector<float>> &rows,
                   const std::vector<Recorded> &draws) {
    Run run(rows, draws);
    run.start(launches);
    return {run.candidates()};
}

} // namespace sample
