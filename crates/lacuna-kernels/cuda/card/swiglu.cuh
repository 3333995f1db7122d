// The gated activation on a card: every case against f64, then times of bf16 against the bytes of
// the tensors that are read and written, once.
#pragma once
#include "device.cuh"

#include "../tests/swiglu.cuh"

namespace swiglus {

inline void time_numbers(size_t n) {
    const auto host = any_numbers(n);
    const Buffer<bf16> gate(host), up(host), d_out(host), out(n), d_gate(n), d_up(n);
    const SwigluArgs<bf16> args{gate.data(),   up.data(),   d_out.data(), out.data(),
                                d_gate.data(), d_up.data(), (long long)n};
    const dim3 blocks(swiglu_blocks<bf16>(n));
    const std::string what = std::to_string(n >> 20) + " Mi numbers";
    time_bytes("swiglu", what, 6. * n, [&] { launch<swiglu_bf16>(blocks, THREADS, 0, args); });
    time_bytes("swiglu_backward", what, 12. * n,
               [&] { launch<swiglu_backward_bf16>(blocks, THREADS, 0, args); });
}

inline bool check(const cudaDeviceProp &) {
    Suite suite;
    check_swiglu(suite);
    return suite.good;
}

inline void time(const cudaDeviceProp &) { time_numbers((size_t)16384 * 5632); }

} // namespace swiglus
