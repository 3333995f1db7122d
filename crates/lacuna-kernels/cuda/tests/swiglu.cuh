// The gated activation's kernels on a machine, which names `Buffer` and `launch`: one pass.
#pragma once
#include "../swiglu.cu"
#include "swiglu.h"
#include "typed.h"

template <class T> void run(const SwigluCase &c, SwigluPass<T> &pass) {
    using E = Element<T>;
    const size_t n = pass.gate.size();
    const Buffer<E> gate(pass.gate), up(pass.up), d_out(pass.d_out), out(n), again(n), d_gate(n),
        d_up(n);
    const int blocks = swiglu_blocks<E>(c.n);
    SwigluArgs<E> args{gate.data(),   up.data(),   d_out.data(), out.data(),
                       d_gate.data(), d_up.data(), c.n};
    launch_typed<T, swiglu_bf16, swiglu_f32>(blocks, 0, args);
    args.out = again.data();
    launch_typed<T, swiglu_backward_bf16, swiglu_backward_f32>(blocks, 0, args);
    out.read(pass.out), again.read(pass.again), d_gate.read(pass.d_gate), d_up.read(pass.d_up);
}
