// A layer's products on tensor cores: y = x · Wᵀ + b, and the gradients d_x = d_y · W, d_W = d_yᵀ · x
// and d_b = Σ over rows d_y.
//
// Operands are bf16 and sums f32. A gradient that is the sum of several products adds up in f32 and
// is rounded with the last; one that goes over micro-batches stays f32.
#pragma once
#include "product.cuh"
#include "vectors.cuh"

/// The gradient of what is added to each row of y: the sum of the rows of d_y.
struct BiasArgs {
    const bf16 *d_y;         ///< `[rows, columns]`; columns: a multiple of 8
    float *partial;          ///< `[⌈rows / slab⌉, columns]`: the sum of each slab of rows
    int rows, columns, slab; ///< slab: `bias_slab(rows)`
};
constexpr int BIAS_COLUMNS = 64;
constexpr int BIAS_VECTORS = BIAS_COLUMNS / VECTOR<bf16>, BIAS_LINES = THREADS / BIAS_VECTORS;
constexpr int BIAS_SHARED = BIAS_LINES * BIAS_COLUMNS * 4;
/// Rows of a slab: so many that there are at most 256 of them.
constexpr int bias_slab(int rows) { return ((rows + 255) / 256 + 15) / 16 * 16; }

/// A block sums BIAS_COLUMNS columns of a slab, a vector of every sixteenth row to each thread at
/// first; `rms_norm_backward_weight_f32` sums slabs.
__device__ __forceinline__ void sum_rows(const BiasArgs &p) {
    constexpr int N = VECTOR<bf16>;
    SHARED_MEMORY(shared);
    float *sums = reinterpret_cast<float *>(shared);
    const int vector = threadIdx.x % BIAS_VECTORS, line = threadIdx.x / BIAS_VECTORS,
              column = blockIdx.x * BIAS_COLUMNS + vector * N, first = blockIdx.y * p.slab,
              end = column < p.columns ? min(first + p.slab, p.rows) : 0;
    float sum[N] = {}, x[N];
#pragma unroll 4
    for (int row = first + line; row < end; row += BIAS_LINES) {
        load<true>(x, p.d_y + (long long)row * p.columns + column, N);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] += x[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) sums[line * BIAS_COLUMNS + vector * N + k] = sum[k];
    __syncthreads(); // every line's sums are here
    const int mine = blockIdx.x * BIAS_COLUMNS + threadIdx.x;
    if (threadIdx.x >= BIAS_COLUMNS || mine >= p.columns) return;
    float all = 0;
#pragma unroll
    for (int i = 0; i < BIAS_LINES; i++) all += sums[i * BIAS_COLUMNS + threadIdx.x];
    p.partial[(long long)blockIdx.y * p.columns + mine] = all;
}

/// A product whose slices of rows are matrices of their own: their sum.
struct SlicesArgs {
    const float *partial; ///< `[slices, n]`
    float *out;           ///< `[n]`
    long long n;          ///< a multiple of 4
    int slices;
    bool add; ///< to what is in `out`
};

constexpr long long slices_blocks(long long n) {
    return (n / VECTOR<float> + THREADS - 1) / THREADS;
}

/// A thread sums a vector of numbers, slices in their order.
__device__ __forceinline__ void sum_slices(const SlicesArgs &p) {
    constexpr int N = VECTOR<float>;
    const long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * N;
    if (i >= p.n) return;
    float sum[N] = {}, x[N];
    if (p.add) load<true>(sum, p.out + i, N);
#pragma unroll 4
    for (int slice = 0; slice < p.slices; slice++) {
        load<true>(x, p.partial + slice * p.n + i, N);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] += x[k];
    }
    store<true>(p.out + i, sum, N);
}

extern "C" {
__global__ void __launch_bounds__(Quarters::THREADS, 2) linear_forward(SumArgs p) {
    sum_up<Quarters, Along::Rows, Along::Rows>(p);
}
__global__ void __launch_bounds__(Quarters::THREADS, 2) linear_input_gradient(SumArgs p) {
    sum_up<Quarters, Along::Rows, Along::Columns>(p);
}
__global__ void __launch_bounds__(Quarters::THREADS, 2) linear_weight_gradient(SumArgs p) {
    sum_up<Quarters, Along::Columns, Along::Columns>(p);
}
__global__ void __launch_bounds__(THREADS) linear_bias_gradient(BiasArgs p) { sum_rows(p); }
__global__ void __launch_bounds__(THREADS) linear_sum_slices(SlicesArgs p) { sum_slices(p); }
}
