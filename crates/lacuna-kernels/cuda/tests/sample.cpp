// Candidates on the emulated machine: the CPU's tokens, and a status where nothing can be drawn.
//
//   sample [quick] [large]: vocabularies of every size, a real model's among them; otherwise one
//   smaller than a span and one that ends in the middle of a chunk of another's
#include <algorithm>

#include "suite.h"

#include "sample_run.h"

extern const sample::Launches EMULATED; // in sample_kernels.cpp

namespace {

std::vector<std::vector<float>> rows_of(const std::vector<sample::Recorded> &draws) {
    std::vector<std::vector<float>> rows;
    for (const auto &draw : draws) rows.push_back(sample::row(draw));
    return rows;
}

/// All draws over one vocabulary.
void check_recorded(Suite &suite, const std::vector<sample::Recorded> &draws) {
    const auto rows = rows_of(draws);
    suite.check(
        "the CPU's tokens of " + std::to_string(draws[0].vocab),
        [&] { return sample::run(EMULATED, rows, draws); },
        [&](const sample::Results &r) -> Verdict {
            const sample::Errors e = sample::compare(draws, r.candidates);
            return {std::to_string(e.tokens) + " tokens differ, " +
                        error_text({{"numbers", e.numbers}}),
                    !e.tokens && e.numbers <= sample::TOLERANCE};
        });
}

/// Rows that nothing can come of, beside one that is passed over and one that is fine.
void check_statuses(Suite &suite) {
    const auto &all = sample::recorded();
    const auto plain = [](const auto &draw) { return draw.vocab > 4000 && draw.temperature == 1; };
    std::vector<sample::Recorded> draws(7, *std::find_if(all.begin(), all.end(), plain));
    const int vocab = draws[0].vocab;
    auto rows = rows_of(draws);
    rows[0][700] = NAN;
    rows[1][vocab - 1] = INFINITY;
    rows[2].assign(vocab, -INFINITY);
    rows[3].assign(vocab, -INFINITY), rows[3][5] = rows[3][vocab - 2] = 1;
    draws[3].forbidden = {5, vocab - 2};
    rows[4][3] = 3e38f, draws[4].penalty = 0.5; // the penalty makes it infinite
    draws[5].vocab = 0;
    const int expected[] = {NOT_FINITE, NOT_FINITE, NOTHING_ALLOWED, NOTHING_ALLOWED, NOT_FINITE,
                            -1,         FOUND};
    suite.check(
        "rows that nothing comes of", [&] { return sample::run(EMULATED, rows, draws); },
        [&](const sample::Results &r) -> Verdict {
            bool good = r.candidates[6].token == draws[6].token;
            std::string text = "statuses";
            for (int i = 0; i < 7; i++) { // a poisoned status is −1
                text += " " + std::to_string(r.candidates[i].status);
                good &= r.candidates[i].status == expected[i];
            }
            return {text, good};
        });
}

} // namespace

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    const auto &all = sample::recorded();
    const bool large = suite.has("large");
    check_statuses(suite);
    for (auto begin = all.begin(), end = begin; begin != all.end(); begin = end) {
        while (end != all.end() && end->vocab == begin->vocab) end++;
        if (large || begin->vocab == 300)
            check_recorded(suite, {begin, end});
        else if (begin->vocab == 4200) // the filters that end somewhere, and two draws of each end
            check_recorded(suite, {end - 12, end});
    }
    return suite.end();
}
