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

/// A weight's gradient by as many slices of rows as fill the card once, their sum included.
template <auto KERNEL, int BLOCK>
void time_weight(const char *name, int rows, int in, int out, int at_once) {
    const int tiles = (out + TILE - 1) / TILE * ((in + TILE - 1) / TILE);
    const int most = std::max(1, std::min(at_once / tiles, (rows + 127) / 128)),
              slice = ((rows + most - 1) / most + DEPTH - 1) / DEPTH * DEPTH,
              slices = (rows + slice - 1) / slice;
    const size_t n = (size_t)out * in;
    const Buffer<bf16> x(any_numbers((size_t)rows * in)), d_y(any_numbers((size_t)rows * out));
    const Buffer<float> partial(slices * n), sum(n);
    SumArgs args{{d_y.data(), out, rows, out}, {x.data(), in, rows, in}, sum.data(), out, false,
                 nullptr};
    const dim3 grid((out + TILE - 1) / TILE, (in + TILE - 1) / TILE);
    const double whole = milliseconds([&] { launch<KERNEL>(grid, BLOCK, PRODUCT_SHARED, args); });
    args.out = partial.data(), args.slice = slice;
    const double ms = milliseconds([&] {
        launch<KERNEL>(dim3(grid.x, grid.y, slices), BLOCK, PRODUCT_SHARED, args);
        launch<linear_sum_slices>(dim3(slices_blocks(n)), THREADS, 0,
                                  SlicesArgs{partial.data(), sum.data(), (long long)n, slices, false});
    });
    std::printf("time %-29s %d rows, %d by %d %8.3f ms %7.1f TFLOP/s; in %d slices %8.3f ms %7.1f "
                "TFLOP/s\n",
                name, rows, out, in, whole, 2e-9 * rows * in * out / whole, slices, ms,
                2e-9 * rows * in * out / ms);
    std::fflush(stdout);
}

inline void time(const cudaDeviceProp &card) {
    time_product<linear_forward, Quarters::THREADS>("linear_forward", 16384, 2048, 8192);
    if (card.major != 9) return;
    time_product<linear_forward_hopper, Groups::THREADS>("linear_forward_hopper", 16384, 2048,
                                                         8192);
    time_product<linear_forward_hopper, Groups::THREADS>("linear_forward_hopper", 32768, 576, 1536);
    const int at_once = 2 * card.multiProcessorCount;
    for (const auto &[in, out] : {std::pair{2048, 8192}, {2048, 512}, {576, 1536}, {576, 192}})
        time_weight<linear_weight_gradient_hopper, Groups::THREADS>(
            "linear_weight_gradient_hopper", 32768, in, out, at_once);
}

} // namespace linears
