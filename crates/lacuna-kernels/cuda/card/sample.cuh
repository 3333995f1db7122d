// Draws on a card: the CPU's tokens, then times.
#pragma once
#include "device.cuh"

#include "../tests/sample_run.h"

namespace sample {

const Launches ON_CARD{launch<sample_maxima>, launch<sample_spans>, launch<sample_rows>};

inline bool check(const cudaDeviceProp &) {
    bool good = true;
    const auto &all = recorded();
    for (auto begin = all.begin(), end = begin; begin != all.end(); begin = end) {
        while (end != all.end() && end->vocab == begin->vocab) end++;
        const std::vector<Recorded> draws{begin, end};
        std::vector<std::vector<float>> rows;
        for (const auto &draw : draws) rows.push_back(row(draw));
        const Results first = run(ON_CARD, rows, draws), second = run(ON_CARD, rows, draws);
        const Errors e = compare(draws, first.candidates);
        const bool same = same_bits(first, second),
                   fine = !e.tokens && e.numbers <= TOLERANCE && same;
        std::printf("check sample the CPU's tokens of %-6d %d of %zu differ, numbers %.1e%s%s\n",
                    begin->vocab, e.tokens, draws.size(), e.numbers,
                    same ? "" : "  a second run gave other bits", fine ? "" : "  FAILED");
        good &= fine;
    }
    return good;
}

/// Times against a copy's that moves the logits once; they are read twice.
inline void time(const cudaDeviceProp &) {
    const Recorded plain{Shape::Steep, 155136, 1, 1, 0, 0, 0, 0, 0, 0, 1, {}, 0, 0, 0, 0, 0};
    struct {
        const char *name;
        double temperature, top_p;
        int top_k;
    } const kinds[] = {{"greedy", 0, 0, 0},
                       {"temperature 1", 1, 0, 0},
                       {"top-k 50", 1, 0, 50},
                       {"top-p 0.95", 1, 0.95, 0}};
    for (int rows : {4, 32, 256})
        for (const auto &kind : kinds) {
            Recorded draw = plain;
            draw.temperature = kind.temperature, draw.top_p = kind.top_p, draw.top_k = kind.top_k;
            std::vector<Recorded> draws(rows, draw);
            std::vector<std::vector<float>> logits;
            for (int i = 0; i < rows; i++) draws[i].logits = i, logits.push_back(row(draws[i]));
            Run run(logits, draws);
            report_bytes("sample", std::to_string(rows) + " rows, " + kind.name,
                         milliseconds([&] { run.start(ON_CARD); }), 4. * rows * plain.vocab);
        }
}

} // namespace sample
