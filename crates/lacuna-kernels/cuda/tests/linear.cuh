// A layer's products on a machine, which names `Buffer` and `launch`: one pass.
#pragma once
#include "../linear.cu"

#include "../linear_hopper.cu"
#include "../rms_norm.cu"
#include "linear.h"

/// The kernels of one way to multiply, and the threads of their blocks.
template <auto FORWARD, auto INPUT, auto WEIGHT, int BLOCK>
void run(const LinearCase &c, LinearPass &pass) {
    const auto grid = [](int rows, int columns) {
        return dim3{static_cast<unsigned>((rows + TILE - 1) / TILE),
                    static_cast<unsigned>((columns + TILE - 1) / TILE)};
    };
    const Buffer<bf16> x(pass.x), w(pass.w), d_y(pass.d_y), other_w(pass.other_w),
        other_d_y(pass.other_d_y), bias(pass.bias), y((size_t)c.rows * c.out),
        y_biased((size_t)c.rows * c.out), d_x((size_t)c.rows * c.in);
    const int slab = bias_slab(c.rows), slabs = (c.rows + slab - 1) / slab;
    const Buffer<float> sums((size_t)c.rows * c.in), d_w((size_t)c.out * c.in),
        partial((size_t)slabs * c.out), d_bias(c.out);
    const auto by_in = [&](const Buffer<bf16> &m, int rows) {
        return Matrix{m.data(), c.in, rows, c.in};
    };
    const auto by_out = [&](const Buffer<bf16> &m) { return Matrix{m.data(), c.out, c.rows, c.out}; };
    launch<FORWARD>(grid(c.rows, c.out), BLOCK, PRODUCT_SHARED,
                    SumArgs{by_in(x, c.rows), by_in(w, c.out), nullptr, c.rows, false, y.data()});
    launch<FORWARD>(grid(c.rows, c.out), BLOCK, PRODUCT_SHARED,
                    SumArgs{by_in(x, c.rows), by_in(w, c.out), nullptr, c.rows, false,
                            y_biased.data(), bias.data()});
    launch<linear_bias_gradient>(
        dim3{static_cast<unsigned>((c.out + BIAS_COLUMNS - 1) / BIAS_COLUMNS),
             static_cast<unsigned>(slabs)},
        THREADS, BIAS_SHARED, BiasArgs{d_y.data(), partial.data(), c.rows, c.out, slab});
    // The kernel that sums slabs looks at nothing else of a norm.
    NormBackwardArgs<float> norm{};
    norm.d_weight = d_bias.data(), norm.partial = partial.data();
    norm.rows = c.rows, norm.h = c.out, norm.slab = slab;
    launch<rms_norm_backward_weight_f32>(dim3{static_cast<unsigned>(norm_weight_blocks(c.out))},
                                         THREADS, NORM_WEIGHT_SHARED, norm);
    y_biased.read(pass.y_biased), d_bias.read(pass.d_bias);
    launch<INPUT>(grid(c.rows, c.in), BLOCK, PRODUCT_SHARED,
                  SumArgs{by_out(d_y), by_in(w, c.out), sums.data(), c.rows, false, nullptr});
    launch<INPUT>(grid(c.rows, c.in), BLOCK, PRODUCT_SHARED,
                  SumArgs{by_out(other_d_y), by_in(other_w, c.out), sums.data(), c.rows, true,
                          d_x.data()});
    SumArgs weight{by_out(d_y), by_in(x, c.rows), d_w.data(), c.out, false, nullptr};
    launch<WEIGHT>(grid(c.out, c.in), BLOCK, PRODUCT_SHARED, weight);
    d_w.read(pass.d_w);
    weight.add = true;
    launch<WEIGHT>(grid(c.out, c.in), BLOCK, PRODUCT_SHARED, weight);
    const int slices = (c.rows + c.slice - 1) / c.slice;
    const size_t n = (size_t)c.out * c.in;
    const Buffer<float> sliced(slices * n), sum(n);
    weight.out = sliced.data(), weight.slice = c.slice, weight.add = false;
    dim3 layers = grid(c.out, c.in);
    layers.z = static_cast<unsigned>(slices);
    launch<WEIGHT>(layers, BLOCK, PRODUCT_SHARED, weight);
    SlicesArgs all{sliced.data(), sum.data(), (long long)n, slices, false};
    const dim3 blocks{static_cast<unsigned>(slices_blocks(n))};
    launch<linear_sum_slices>(blocks, THREADS, 0, all);
    sum.read(pass.d_w_sliced);
    all.add = true;
    launch<linear_sum_slices>(blocks, THREADS, 0, all);
    sum.read(pass.d_w_sliced_twice);
    d_w.read(pass.d_w_twice), y.read(pass.y), d_x.read(pass.d_x), sums.read(pass.d_x_f32);
}

inline void run_plain(const LinearCase &c, LinearPass &pass) {
    run<linear_forward, linear_input_gradient, linear_weight_gradient, Quarters::THREADS>(c, pass);
}
inline void run_hopper(const LinearCase &c, LinearPass &pass) {
    run<linear_forward_hopper, linear_input_gradient_hopper, linear_weight_gradient_hopper,
        Groups::THREADS>(c, pass);
}
