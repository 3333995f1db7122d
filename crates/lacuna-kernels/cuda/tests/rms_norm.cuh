// One pass of root-mean-square normalisation on a machine, which names `Buffer` and `launch`.
#pragma once
#include "../rms_norm.cu"
#include "rms_norm.h"
#include "typed.h"

template <class T> void run(const NormCase &c, NormPass<T> &pass) {
    using E = Element<T>;
    const int lanes = lanes_for<E>(c.h), slab = c.slabs * (THREADS / lanes);
    const int blocks = norm_blocks<E>(c.rows, c.h), slabs = (c.rows + slab - 1) / slab;
    const size_t n = pass.x.size();
    const Buffer<E> x(pass.x), added(pass.added), weight(pass.weight), d_normed(pass.d_normed),
        carried(pass.carried), normed(n), sum(n), normed_sum(n), dx(n), d_weight(c.h);
    const Buffer<float> partial((size_t)slabs * c.h);
    const dim3 grid{static_cast<unsigned>(blocks)};
    const int threads = norm_threads<E>(c.h);
    NormArgs<E> args{x.data(), weight.data(), normed.data(),      nullptr, nullptr,
                     c.rows,   c.h,           norm_lanes<E>(c.h), NORM_EPS};
    launch_typed<T, rms_norm_bf16, rms_norm_f32>(grid, threads, NORM_SHARED, args);
    args.normed = normed_sum.data(), args.added = added.data(), args.sum = sum.data();
    launch_typed<T, add_rms_norm_bf16, add_rms_norm_f32>(grid, threads, NORM_SHARED, args);
    NormBackwardArgs<E> back{x.data(),
                                   weight.data(),
                                   d_normed.data(),
                                   c.carried ? carried.data() : nullptr,
                                   dx.data(),
                                   d_weight.data(),
                                   partial.data(),
                                   c.rows,
                                   c.h,
                                   lanes,
                                   slab,
                                   NORM_EPS};
    launch_typed<T, rms_norm_backward_bf16, rms_norm_backward_f32>(
        slabs, norm_backward_shared<E>(c.h), back);
    launch_typed<T, rms_norm_backward_weight_bf16, rms_norm_backward_weight_f32>(
        norm_weight_blocks(c.h), NORM_WEIGHT_SHARED, back);
    d_weight.read(pass.d_weight);
    back.add = true;
    launch_typed<T, rms_norm_backward_weight_bf16, rms_norm_backward_weight_f32>(
        norm_weight_blocks(c.h), NORM_WEIGHT_SHARED, back);
    normed.read(pass.normed), sum.read(pass.sum), normed_sum.read(pass.normed_sum),
        dx.read(pass.dx), d_weight.read(pass.d_weight_twice);
}
