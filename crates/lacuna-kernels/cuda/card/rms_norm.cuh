// Root-mean-square normalisation on a card: every case against f64, then times of bf16 against the
// bytes of the tensors that are read and written, once.
#pragma once
#include "device.cuh"

#include "../tests/rms_norm.cuh"

namespace norms {

inline void time_rows(int rows, int h) {
    const size_t n = (size_t)rows * h;
    const int lanes = lanes_for<bf16>(h), slab = norm_slab<bf16>(rows, h),
              slabs = (rows + slab - 1) / slab;
    const auto host = any_numbers(n);
    const Buffer<bf16> x(host), added(host), d_normed(host), weight(any_numbers(h)), normed(n),
        sum(n), d_weight(h);
    const Buffer<float> partial((size_t)slabs * h);
    const NormArgs<bf16> args{
        x.data(), weight.data(), normed.data(), added.data(), sum.data(), rows, h, lanes, NORM_EPS};
    const NormBackwardArgs<bf16> back{x.data(),       weight.data(), d_normed.data(),
                                      added.data(),   sum.data(),    d_weight.data(),
                                      partial.data(), rows,          h,
                                      lanes,          slab,          NORM_EPS};
    const std::string what = std::to_string(rows) + " rows of " + std::to_string(h);
    const dim3 blocks(norm_blocks<bf16>(rows, h));
    const double bytes = n * 2.;
    time_bytes("rms_norm", what, 2 * bytes,
               [&] { launch<rms_norm_bf16>(blocks, THREADS, NORM_SHARED, args); });
    time_bytes("add_rms_norm", what, 4 * bytes,
               [&] { launch<add_rms_norm_bf16>(blocks, THREADS, NORM_SHARED, args); });
    time_bytes("rms_norm_backward", what, 4 * bytes, [&] {
        launch<rms_norm_backward_bf16>(dim3(slabs), THREADS, norm_backward_shared<bf16>(h), back);
        launch<rms_norm_backward_weight_bf16>(dim3(norm_weight_blocks(h)), THREADS,
                                              NORM_WEIGHT_SHARED, back);
    });
}

inline bool check(const cudaDeviceProp &) {
    Suite suite;
    check_rms_norm(suite);
    return suite.good;
}

inline void time(const cudaDeviceProp &) {
    time_rows(16384, 2048);
    time_rows(16384, 8192);
    time_rows(16384 * 16, 128);
}

} // namespace norms
