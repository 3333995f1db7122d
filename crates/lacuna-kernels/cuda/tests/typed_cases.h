// Cases that are checked in bf16 and in f32, on a machine, emulated or real, whose `Suite` it is
// given.
#pragma once
#include "numbers.h"

/// Checks every case: `draw<T>(c)` makes its inputs, `run(c, pass)` computes on a copy of them,
/// `compare(c, inputs, pass)` judges. T: `uint16_t` for bf16, or `float`.
template <class Suite, class Cases, class Compare>
void check_cases(Suite &suite, const Cases &cases, Compare compare) {
    for (const auto &c : cases)
        suite.each_type([&](auto type, const char *name) {
            const auto inputs = draw<decltype(type)>(c);
            suite.check(
                std::string(name) + c.name,
                [&] {
                    auto pass = inputs;
                    run(c, pass);
                    return pass;
                },
                [&](const auto &pass) { return compare(c, inputs, pass); });
        });
}
