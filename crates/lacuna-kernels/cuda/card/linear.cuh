// A layer's products on a card: every case against f64, then times.
#pragma once
#include "device.cuh"

#include "../tests/linear.cuh"

namespace linears {

using Way = void (*)(const LinearCase &, LinearPass &);

inline bool check_way(const char *name, Way way) {
    bool good = true;
    for (const LinearCase &c : LINEAR_CASES) {
        const LinearPass inputs = draw(c);
        LinearPass first = inputs, second = inputs;
        way(c, first), way(c, second);
        const Verdict verdict = compare(c, inputs, first);
        const bool same = same_bits(first, second);
        good &= verdict.good && same;
        std::printf("check %-20s %-40s %s%s%s\n", name, c.name, verdict.text.c_str(),
                    same ? "" : "  a second run gave other bits",
                    verdict.good && same ? "" : "  FAILED");
    }
    return good;
}

inline bool check(const cudaDeviceProp &card) {
    const bool good = check_way("linear", run_plain);
    return card.major == 9 ? check_way("linear_hopper", run_hopper) && good : good;
}

template <auto KERNEL, int BLOCK> void time_product(const char *name, int rows, int in, int out) {
    const Buffer<bf16> x(any_numbers((size_t)rows * in)), w(any_numbers((size_t)out * in)),
        y((size_t)rows * out);
    const dim3 grid((rows + TILE - 1) / TILE, (out + TILE - 1) / TILE);
    const SumArgs args{{x.data(), in, rows, in}, {w.data(), in, out, in}, nullptr, rows, false,
                       y.data()};
    const double ms = milliseconds([&] { launch<KERNEL>(grid, BLOCK, PRODUCT_SHARED, args); });
    std::printf("time %-20s %d rows, %d by %d %8.3f ms %7.1f TFLOP/s\n", name, rows, out, in, ms,
                2e-9 * rows * in * out / ms);
    std::fflush(stdout);
}

inline void time(const cudaDeviceProp &card) {
    time_product<linear_forward, Quarters::THREADS>("linear_forward", 16384, 2048, 8192);
    if (card.major == 9)
        time_product<linear_forward_hopper, Groups::THREADS>("linear_forward_hopper", 16384, 2048,
                                                             8192);
}

} // namespace linears
