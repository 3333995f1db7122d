// AdamW on a card: every case against f64, then times of bf16 against the bytes of the tensors
// that are read and written, once.
#pragma once
#include "device.cuh"

#include "../tests/adamw.cuh"

namespace optimizer {

/// One parameter of n numbers, which is as good as many.
inline void time_step(int n) {
    const Buffer<bf16> values(any_numbers(n)), gradient(any_numbers(n));
    const std::vector<float> ones(n, 1.f);
    const Buffer<float> master(ones), first(ones), second(ones), norm(1);
    const std::vector<AdamWParameter<bf16>> parameter{
        {values.data(), gradient.data(), master.data(), first.data(), second.data(), n, true}};
    std::vector<AdamWChunk> each;
    for (int i = 0; i * ADAMW_CHUNK < n; i++) each.push_back({0, i});
    const Buffer<AdamWParameter<bf16>> parameters(parameter);
    const Buffer<AdamWChunk> chunks(each);
    const Buffer<float> squares(each.size());
    const std::vector<AdamWStep> this_step{{STEP_SIZE, ROOT_SCALE, ADAMW_SHRINKS[0]}};
    const Buffer<AdamWStep> step(this_step);
    const AdamWArgs<bf16> args{parameters.data(),
                               chunks.data(),
                               squares.data(),
                               norm.data(),
                               step.data(),
                               1,
                               BETA1,
                               BETA2,
                               REST1,
                               REST2,
                               ADAMW_EPS};
    const dim3 blocks(each.size());
    const std::string what = std::to_string(n >> 20) + " Mi numbers";
    time_bytes("gradient_squares, gradient_norm", what, 2. * n, [&] {
        launch<gradient_squares_bf16>(blocks, THREADS, SCRATCH, args);
        launch<gradient_norm>(dim3(1), NORM_THREADS, GRADIENT_NORM_SHARED,
                              GradientNormArgs{squares.data(), (int)each.size(), norm.data()});
    });
    time_bytes("adamw", what, 28. * n, [&] { launch<adamw_bf16>(blocks, THREADS, 0, args); });
}

inline bool check(const cudaDeviceProp &) {
    Suite suite;
    check_adamw(suite);
    return suite.good;
}

inline void time(const cudaDeviceProp &) { time_step(256 << 20); }

} // namespace optimizer
