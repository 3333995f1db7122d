// Tiles and products of warp groups, for sm_90a.
#pragma once
#include "attention.cuh"

// Code for other architectures, and for sm_90 without its own instructions, is empty.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER(code) code
#else
#define HOPPER(code)
#endif

/// This thread's warp, known to be the same for all its lanes: so what is made of it, descriptions
/// of tiles above all, takes no registers of threads.
__device__ __forceinline__ int this_warp() {
    return __shfl_sync(~0u, static_cast<int>(threadIdx.x) >> 5, 0);
}

/// A tile of rows of D in panels of 64 columns, as products of warp groups read it.
template <int D, int ROWS> struct Panels {
    static constexpr int ELEMENTS = ROWS * D, PANEL = ROWS * 64;
    bf16 *data;

    /// Starts to copy rows `first..`; rows from `count` on become zeros.
    template <int THREADS>
    __device__ __forceinline__ void load(const bf16 *rows, int stride, int first, int count) const {
        constexpr int CHUNKS = D / 8, STEP = THREADS / CHUNKS;
        static_assert(STEP % 8 == 0);
        const int thread = threadIdx.x, row = thread / CHUNKS, chunk = thread % CHUNKS;
        bf16 *to = data + chunk / 8 * PANEL + place<64>(row, chunk % 8);
        int from = (first + row) * stride + chunk * 8;
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP, from += STEP * stride)
            if (ROWS % STEP == 0 || row + i < ROWS)
                copy_async(to + i * 64, rows + from, first + row + i < count);
    }
    /// Rows from `row` on, 16 columns from the k-th 16 on.
    __device__ __forceinline__ unsigned long long rows(int row, int k) const {
        return describe_tile(data + k / 4 * PANEL + row * 64 + k % 4 * 16);
    }
    /// The k-th 16 rows, to be read down their columns.
    __device__ __forceinline__ unsigned long long columns(int k) const {
        return describe_tile(data + k * 16 * 64, PANEL * 2);
    }
};

/// Starts sums = a · bᵀ: 64 rows of a from `row` on by all N rows of b.
template <int D, int ROWS, int N>
__device__ __forceinline__ void start_rows(float (&sums)[1][N / 8][4], Panels<D, ROWS> a, int row,
                                           Panels<D, N> b) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) multiply_tiles(sums[0], a.rows(row, k), b.rows(0, k), k > 0);
    products_commit();
}

/// Weights as left operands.
template <int N>
__device__ __forceinline__ void pack(unsigned (&packed)[N / 16][4], const float (&w)[1][N / 8][4]) {
#pragma unroll
    for (int k = 0; k < N / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            packed[k][i] =
                pack_bf16(w[0][2 * k + i / 2][i % 2 * 2], w[0][2 * k + i / 2][i % 2 * 2 + 1]);
}

/// Starts sums += weights · b, b's rows in the order of the weights' columns.
template <int D, int N>
__device__ __forceinline__ void start_weighted_rows(float (&sums)[1][D / 8][4],
                                                    const unsigned (&weights)[N / 16][4],
                                                    Panels<D, N> b) {
#pragma unroll
    for (int k = 0; k < N / 16; k++) add_weighted_tile(sums[0], weights[k], b.columns(k));
    products_commit();
}

template <int N> __device__ __forceinline__ void zero(float (&x)[1][N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[0][n][i] = 0;
}
