// Rotary position embedding on a card: every case against f64, then times of bf16 against the bytes
// of the tensors that are read and written, once.
#pragma once
#include "device.cuh"

#include "../tests/rope.cuh"

namespace ropes {

inline void time_heads(int rows, int heads, int d) {
    const size_t n = (size_t)rows * heads * d;
    const Buffer<bf16> x(any_numbers(n)), out(n), cos(any_numbers((size_t)rows * d / 2)),
        sin(any_numbers((size_t)rows * d / 2));
    std::vector<uint32_t> each(rows);
    for (int i = 0; i < rows; i++) each[i] = i;
    const Buffer<unsigned> positions(each);
    const RopeArgs<bf16> args{x.data(), cos.data(), sin.data(), positions.data(), out.data(), rows,
                              heads,    d,          1};
    time_bytes(
        "rope",
        std::to_string(rows) + " rows, " + std::to_string(heads) + " heads of " + std::to_string(d),
        4. * n + 2. * rows * d,
        [&] { launch<rope_bf16>(dim3(rope_blocks<bf16>(rows, heads, d)), THREADS, 0, args); });
}

inline bool check(const cudaDeviceProp &) {
    Suite suite;
    check_rope(suite);
    return suite.good;
}

inline void time(const cudaDeviceProp &) {
    time_heads(16384, 16, 128);
    time_heads(16384, 32, 64);
}

} // namespace ropes
