// The loss's kernels as a machine starts them, emulated or real.
#pragma once
#include "../cross_entropy.cu"

#include "../cross_entropy_hopper.cu"

namespace loss {

template <class Args>
using Launch = void (*)(dim3 grid, int threads, size_t shared, const Args &args);

struct Launches {
    const char *name;
    int threads; ///< of a product's block
    Launch<HeadArgs> forward, gradient;
    Launch<LossRows> merge, loss;
    Launch<SumArgs> d_hidden, d_head;
    Launch<ChunkArgs> chunk, chunk_gradient, chunk_gradient_bf16;
};

} // namespace loss
