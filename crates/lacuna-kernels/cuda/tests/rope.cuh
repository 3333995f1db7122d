// Rotary position embedding's kernels on a machine, which names `Buffer` and `launch`: one pass.
#pragma once
#include "../rope.cu"
#include "rope.h"
#include "typed.h"

template <class T> void run(const RopeCase &c, RopePass<T> &pass) {
    using E = Element<T>;
    const Buffer<E> x(pass.x), cos(pass.cos), sin(pass.sin), out(pass.x.size()),
        back(pass.x.size());
    const Buffer<unsigned> positions(pass.positions);
    const int blocks = rope_blocks<E>(c.rows, c.heads, c.d);
    RopeArgs<E> args{x.data(), cos.data(), sin.data(), positions.data(), out.data(), c.rows,
                     c.heads,  c.d,        1};
    launch_typed<T, rope_bf16, rope_f32>(blocks, 0, args);
    args.out = back.data(), args.direction = -1;
    launch_typed<T, rope_bf16, rope_f32>(blocks, 0, args);
    out.read(pass.out), back.read(pass.back);
}
