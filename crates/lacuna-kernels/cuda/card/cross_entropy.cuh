// The loss on a card: every case against f64, then times.
#pragma once
#include "device.cuh"

#include "../tests/cross_entropy_kernels.h"
#include "../tests/cross_entropy_run.h"

namespace loss {

const Launches ON_CARD = plain("cross_entropy"), ON_HOPPER = hopper("cross_entropy_hopper");

inline bool report(const Launches &launches, const std::string &name, bool good, bool same,
                   const std::string &errors) {
    std::printf("check %-20s %-40s %s%s%s\n", launches.name, name.c_str(), errors.c_str(),
                same ? "" : "  a second run gave other bits", good && same ? "" : "  FAILED");
    return good && same;
}

inline bool check_case(const Launches &k, const Case &c) {
    const Inputs in = draw(c);
    const Results first = run(k, c, in), second = run(k, c, in);
    const bool same = same_bits(first, second);
    if (c.broken) return report(k, c.name, breaks_alone(c, first), same, "NaNs where they belong");
    const Errors e = compare(first, truth(c, in));
    char errors[128];
    std::snprintf(errors, sizeof errors, "nll %.1e loss %.1e d_hidden %.2e d_head %.2e", e.nll,
                  e.loss, e.d_hidden, e.d_head);
    return report(k, c.name, within(e), same, errors);
}

inline bool check_case(const ChunkCase &c) {
    const auto logits = draw_logits(c);
    const ChunkResults first = run(ON_CARD, c, logits), second = run(ON_CARD, c, logits);
    const auto [nll, gradient] = compare(c, logits, first);
    char errors[128];
    std::snprintf(errors, sizeof errors, "nll %.1e d_logits %.1e", nll, gradient);
    const bool good = nll <= TOLERANCE.nll && gradient <= chunk_tolerance(c) && !first.padding;
    return report(ON_CARD, c.name, good, same_bits(first, second), errors);
}

/// The ways to multiply that a card has.
inline std::vector<const Launches *> ways(const cudaDeviceProp &card) {
    if (card.major == 9) return {&ON_CARD, &ON_HOPPER};
    return {&ON_CARD};
}

inline bool check(const cudaDeviceProp &card) {
    bool good = true;
    for (const Launches *k : ways(card)) {
        for (const Case &c : small_cases()) good &= check_case(*k, c);
        good &= check_case(*k, Case{"more of everything", 400, 5003, 512, 1024, 3});
    }
    for (const ChunkCase &c : chunk_cases()) good &= check_case(c);
    good &= check_case(ChunkCase{"logits of a real vocabulary", 40, 155136, 8192, false});
    return good;
}

/// Normal numbers enough for times: a table of them, read at random places.
inline Inputs draw_many(const Case &c) {
    Inputs in;
    Numbers numbers{3};
    std::vector<uint16_t> table(1 << 14);
    for (auto &x : table) x = to_bf16(numbers.normal());
    in.hidden.resize((size_t)c.rows * c.h), in.head.resize((size_t)c.vocab * c.h);
    for (auto *x : {&in.hidden, &in.head})
        for (size_t i = 0; i < x->size(); i += 4) {
            const uint64_t bits = numbers.next();
            for (int j = 0; j < 4; j++) (*x)[i + j] = table[bits >> (16 * j) & (table.size() - 1)];
        }
    for (int i = 0; i < c.rows; i++)
        in.targets.push_back(static_cast<int>(numbers.next() % c.vocab)), in.weights.push_back(1);
    return in;
}

inline void report_products(const Launches &k, const char *what, const Case &c, double tokens,
                            double ms, double products) {
    const double flops = 2. * products * c.rows * tokens * c.h;
    std::printf("time %-20s %-40s %8.3f ms %7.1f TFLOP/s\n", k.name, what, ms, flops / ms * 1e-9);
    std::fflush(stdout);
}

/// A training step's loss: half of 8192 tokens masked.
inline void time_products(const Launches &k) {
    const Case c{"", 4096, 155136, 2048, 8192, 38};
    Run run(k, c, draw_many(c));
    const auto time = [&](const char *what, double tokens, double products, auto call) {
        report_products(k, what, c, tokens, milliseconds(call), products);
    };
    std::printf("loss of %d rows, %d tokens, %d numbers a row\n", c.rows, c.vocab, c.h);
    time("forward", c.vocab, 1, [&] { run.forward(); });
    time("gradient of a chunk's logits", c.chunk, 1, [&] { run.gradient(0); });
    time("d_hidden of a chunk", c.chunk, 1, [&] { run.d_hidden(0); });
    time("d_head of a chunk", c.chunk, 1, [&] { run.d_head(0); });
    time("backward, all chunks", c.vocab, 3, [&] { run.backward(); });
}

inline void time(const cudaDeviceProp &card) {
    for (const Launches *k : ways(card)) time_products(*k);
    const ChunkCase logits{"", 4096, 8192, 8192, false};
    ChunkRun chunk(ON_CARD, logits, std::vector<float>((size_t)logits.rows * logits.vocab, 1.f));
    const double numbers = (double)logits.rows * logits.vocab;
    const std::string what = "4096 rows, 8192 tokens";
    report_bytes("cross_entropy_chunk", what, milliseconds([&] { chunk.part(0); }), 4 * numbers);
    chunk.merge();
    report_bytes("cross_entropy_chunk_gradient", what, milliseconds([&] { chunk.gradient(0); }),
                 8 * numbers);
    report_bytes("cross_entropy_chunk_gradient_bf16", what,
                 milliseconds([&] { chunk.gradient_bf16(0); }), 6 * numbers);
}

} // namespace loss
