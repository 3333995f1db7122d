// Attention in f32 on a card: every case against f64, then times.
#pragma once
#include "attention.cuh"

#include "../attention_f32.cu"
#include "../tests/attention_f32.cuh"

namespace attention_f32_card {

inline bool check(const cudaDeviceProp &) {
    Suite suite;
    for (const int d : {64, 128}) check_floats(suite, d);
    return suite.good;
}

inline void time(const cudaDeviceProp &) {
    for (const int d : {64, 128}) {
        const int heads = 2048 / d;
        const Case c{"block diffusion 2 × 2048, blocks of 4, head " + std::to_string(d),
                     1,
                     heads,
                     heads,
                     d,
                     4096,
                     0,
                     {pass(Pattern::BlockDiffusion, 4, 2048, 0)}};
        const FloatRun run(c, draw<float>(c));
        attention::report("attention in f32", c, milliseconds([&] { run.forward(); }), 2);
        attention::report("attention in f32, backward", c, milliseconds([&] { run.backward(); }),
                          5);
    }
}

} // namespace attention_f32_card
