// The kernels of head and loss for every card, but for the products of sm_90a, which
// cross_entropy_hopper.cu has.
#pragma once
#include "cross_entropy.cuh"

extern "C" {
__global__ void __launch_bounds__(Quarters::THREADS, 2) cross_entropy_forward(HeadArgs p) {
    head_forward<Quarters>(p);
}
__global__ void __launch_bounds__(128) cross_entropy_merge(LossRows p) { merge_parts(p); }
__global__ void __launch_bounds__(128) cross_entropy_loss(LossRows p) { total_loss(p); }
__global__ void __launch_bounds__(Quarters::THREADS, 2) cross_entropy_gradient(HeadArgs p) {
    head_gradient<Quarters>(p);
}
__global__ void __launch_bounds__(Quarters::THREADS, 2) cross_entropy_d_hidden(SumArgs p) {
    sum_up<Quarters, Along::Rows, Along::Columns>(p);
}
__global__ void __launch_bounds__(Quarters::THREADS, 2) cross_entropy_d_head(SumArgs p) {
    sum_up<Quarters, Along::Columns, Along::Columns>(p);
}
__global__ void __launch_bounds__(128) cross_entropy_chunk(ChunkArgs p) { chunk_part(p); }
__global__ void __launch_bounds__(128) cross_entropy_chunk_gradient(ChunkArgs p) {
    chunk_gradient<false>(p);
}
__global__ void __launch_bounds__(128) cross_entropy_chunk_gradient_bf16(ChunkArgs p) {
    chunk_gradient<true>(p);
}
}
