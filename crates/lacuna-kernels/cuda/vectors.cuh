// Vectors and sums of the kernels that memory bounds: numbers of bf16 or f32 are read and written
// sixteen bytes at a time, and summed over the threads that share a row. All arithmetic is in f32.
#pragma once
#include "tensor_core.h"

/// Numbers of T in sixteen bytes.
template <class T> constexpr int VECTOR = 16 / sizeof(T);
/// Threads of a block.
constexpr int THREADS = 128;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return bf16_low(x.bits); }
template <class T> __device__ __forceinline__ T narrow(float x) {
    if constexpr (sizeof(T) == 4)
        return x;
    else
        return {static_cast<unsigned short>(pack_bf16(x, 0))};
}

/// N numbers: at once if they are WHOLE, all there and at a multiple of their size, else the `left`
/// that are there one by one, and zeros. Through a pointer to const: numbers that nobody writes
/// while the kernel runs.
template <bool WHOLE, class T, int N>
__device__ __forceinline__ void load(float (&x)[N], T *from, int left) {
    if constexpr (WHOLE) {
        unsigned w[N * sizeof(T) / 4];
        load_words(w, from);
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = sizeof(T) == 4 ? __int_as_float(static_cast<int>(w[i]))
                   : i % 2        ? bf16_high(w[i / 2])
                                  : bf16_low(w[i / 2]);
    } else
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = i < left ? widen(from[i]) : 0;
}
template <bool WHOLE, class T, int N>
__device__ __forceinline__ void store(T *to, const float (&x)[N], int left) {
    if constexpr (WHOLE) {
        unsigned w[N * sizeof(T) / 4];
#pragma unroll
        for (int i = 0; i < N * (int)sizeof(T) / 4; i++)
            w[i] = sizeof(T) == 4 ? static_cast<unsigned>(__float_as_int(x[i]))
                                  : pack_bf16(x[2 * i % N], x[(2 * i + 1) % N]);
        store_words(to, w);
    } else
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < left) to[i] = narrow<T>(x[i]);
}

/// The threads that share a row: `lanes` neighbours of a warp, a power of two, or all of the block.
struct Team {
    int lanes, index, lane, count;
    __device__ __forceinline__ explicit Team(int lanes)
        : lanes(lanes), index(threadIdx.x / lanes), lane(threadIdx.x % lanes),
          count(blockDim.x / lanes) {}

    /// Sums over the team, the same for each of its threads. All threads of the block call it;
    /// `scratch`: shared memory of SCRATCH bytes.
    template <int K> __device__ __forceinline__ void sum(float (&x)[K], float *scratch) const {
        for (int step = 1; step < lanes && step < 32; step *= 2)
#pragma unroll
            for (int k = 0; k < K; k++) x[k] += __shfl_xor_sync(~0u, x[k], step);
        if (lanes <= 32) return;
        const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
        if (threadIdx.x % 32 == 0)
            for (int k = 0; k < K; k++) scratch[warp * K + k] = x[k];
        __syncthreads();
#pragma unroll
        for (int k = 0; k < K; k++) {
            x[k] = 0;
            for (int w = 0; w < warps; w++) x[k] += scratch[w * K + k];
        }
        __syncthreads(); // before the next sum is written over this
    }
};
/// Shared memory of a sum of at most two values.
constexpr int SCRATCH = THREADS / 32 * 2 * 4;

/// Threads that should share a row of `n` numbers of T: none of a warp idle where rows are short,
/// a block where a warp would take long. It depends on nothing else, so a row's bits don't either.
template <class T> constexpr int lanes_for(int n) {
    const int vectors = (n + VECTOR<T> - 1) / VECTOR<T>;
    if (vectors > 8 * 32) return THREADS;
    int lanes = 1;
    while (lanes < vectors && lanes < 32) lanes *= 2;
    return lanes;
}
