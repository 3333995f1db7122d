// Root-mean-square normalisation, of a row or of the sum of two, and its gradients.
//
//   r = 1 / sqrt(mean(x²) + eps)                normed = x r weight
//   g = d_normed weight                         dx = r g − x r³ mean(g x) + carried
//                                               d_weight = Σ over rows d_normed x r
#pragma once
#include "vectors.cuh"

/// Tensors `[rows, h]`, contiguous; weight `[h]`.
template <class T> struct NormArgs {
    const T *x, *weight;
    T *normed;
    const T *added; ///< to x, by `add_rms_norm`
    T *sum;
    int rows, h, lanes; ///< lanes: `norm_lanes<T>(h)`
    float eps;
};

template <class T, bool ADDS, bool WHOLE>
__device__ __forceinline__ void norm_rows(const NormArgs<T> &p) {
    constexpr int N = VECTOR<T>;
    SHARED_MEMORY(shared);
    const Team team(p.lanes);
    const int row = blockIdx.x * team.count + team.index, h = row < p.rows ? p.h : 0;
    const long long at = (long long)row * p.h;
    const auto read = [&](float (&x)[N], int i) {
        load<WHOLE>(x, p.x + at + i, h - i);
        if constexpr (ADDS) {
            float added[N];
            load<WHOLE>(added, p.added + at + i, h - i);
#pragma unroll
            for (int k = 0; k < N; k++) x[k] = widen(narrow<T>(x[k] + added[k]));
        }
    };
    float squares[1] = {}, x[N], w[N];
#pragma unroll 4
    for (int i = team.lane * N; i < h; i += team.lanes * N) {
        read(x, i);
#pragma unroll
        for (int k = 0; k < N; k++) squares[0] += x[k] * x[k];
    }
    team.sum(squares, reinterpret_cast<float *>(shared));
    const float r = 1 / sqrtf(squares[0] / p.h + p.eps);
#pragma unroll 4
    for (int i = team.lane * N; i < h; i += team.lanes * N) {
        read(x, i); // once more, from the cache
        load<WHOLE>(w, p.weight + i, h - i);
        if (ADDS) store<WHOLE>(p.sum + at + i, x, h - i);
#pragma unroll
        for (int k = 0; k < N; k++) x[k] *= r * w[k];
        store<WHOLE>(p.normed + at + i, x, h - i);
    }
}

template <class T, bool ADDS> __device__ __forceinline__ void rms_norm(const NormArgs<T> &p) {
    if (p.h % VECTOR<T> == 0)
        norm_rows<T, ADDS, true>(p);
    else
        norm_rows<T, ADDS, false>(p);
}

template <class T> struct NormBackwardArgs {
    const T *x, *weight, *d_normed;
    const T *carried; ///< added to dx, if it is not null: what reaches x by another way
    T *dx, *d_weight;
    float *partial;           ///< `[blocks, h]`: each block's share of d_weight
    int rows, h, lanes, slab; ///< slab: rows of a block, as many for each team
    float eps;
    bool add = false; ///< to what is in `d_weight`
};

/// dx, and the share of `slab` rows in d_weight, which teams collect in shared memory.
template <class T, bool WHOLE>
__device__ __forceinline__ void norm_rows_backward(const NormBackwardArgs<T> &p) {
    constexpr int N = VECTOR<T>;
    SHARED_MEMORY(shared);
    float *scratch = reinterpret_cast<float *>(shared), *shares = scratch + SCRATCH / 4;
    const Team team(p.lanes);
    // Number k of vector v lies at k · vectors + v, so that lanes meet in no bank.
    const int vectors = (p.h + N - 1) / N;
    float *share = shares + team.index * vectors * N;
    for (int v = team.lane; v < vectors; v += team.lanes)
#pragma unroll
        for (int k = 0; k < N; k++) share[k * vectors + v] = 0;
    const int first = blockIdx.x * p.slab;
    for (int row = first + team.index; row < first + team.index + p.slab; row += team.count) {
        const int h = row < p.rows ? p.h : 0;
        const long long at = (long long)row * p.h;
        float sums[2] = {}, x[N], w[N], dy[N];
#pragma unroll 2
        for (int i = team.lane * N; i < h; i += team.lanes * N) {
            load<WHOLE>(x, p.x + at + i, h - i);
            load<WHOLE>(dy, p.d_normed + at + i, h - i);
            load<WHOLE>(w, p.weight + i, h - i);
#pragma unroll
            for (int k = 0; k < N; k++) sums[0] += x[k] * x[k], sums[1] += dy[k] * w[k] * x[k];
        }
        team.sum(sums, scratch);
        const float r = 1 / sqrtf(sums[0] / p.h + p.eps), back = r * r * r * sums[1] / p.h;
        for (int i = team.lane * N; i < h; i += team.lanes * N) {
            load<WHOLE>(x, p.x + at + i, h - i);
            load<WHOLE>(dy, p.d_normed + at + i, h - i);
            load<WHOLE>(w, p.weight + i, h - i);
            float dx[N] = {};
            if (p.carried) load<WHOLE>(dx, p.carried + at + i, h - i);
#pragma unroll
            for (int k = 0; k < N; k++) {
                share[k * vectors + i / N] += dy[k] * x[k] * r;
                dx[k] += r * dy[k] * w[k] - back * x[k];
            }
            store<WHOLE>(p.dx + at + i, dx, h - i);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.h; i += blockDim.x) {
        float sum = 0;
        for (int t = 0; t < team.count; t++)
            sum += shares[t * vectors * N + i % N * vectors + i / N];
        p.partial[(long long)blockIdx.x * p.h + i] = sum;
    }
}

template <class T> __device__ __forceinline__ void rms_norm_backward(const NormBackwardArgs<T> &p) {
    if (p.h % VECTOR<T> == 0)
        norm_rows_backward<T, true>(p);
    else
        norm_rows_backward<T, false>(p);
}

/// d_weight: a block sums the blocks' shares in NORM_COLUMNS columns, a part to each thread at
/// first.
constexpr int NORM_COLUMNS = 8;
template <class T>
__device__ __forceinline__ void rms_norm_backward_weight(const NormBackwardArgs<T> &p) {
    constexpr int PARTS = THREADS / NORM_COLUMNS;
    SHARED_MEMORY(shared);
    float *sums = reinterpret_cast<float *>(shared);
    const int i = blockIdx.x * NORM_COLUMNS + threadIdx.x % NORM_COLUMNS,
              blocks = i < p.h ? (p.rows + p.slab - 1) / p.slab : 0;
    float sum = 0;
#pragma unroll 8
    for (int b = threadIdx.x / NORM_COLUMNS; b < blocks; b += PARTS)
        sum += p.partial[(long long)b * p.h + i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= NORM_COLUMNS || i >= p.h) return;
    for (int part = 1; part < PARTS; part++) sum += sums[part * NORM_COLUMNS + threadIdx.x];
    p.d_weight[i] = narrow<T>(p.add ? widen(p.d_weight[i]) + sum : sum);
}

/// Threads of a block that norms long rows of f32. A decoder has so few rows that a block takes as
/// long as its threads' loads: of more threads each has fewer.
constexpr int WIDE = 512;

// The blocks of each kernel, their threads, THREADS but for long rows of f32, and their bytes of
// shared memory.
template <class T> constexpr int norm_lanes(int h) {
    const int lanes = lanes_for<T>(h);
    return lanes == THREADS && sizeof(T) == 4 ? WIDE : lanes;
}
template <class T> constexpr int norm_threads(int h) {
    return norm_lanes<T>(h) > THREADS ? norm_lanes<T>(h) : THREADS;
}
inline constexpr int NORM_SHARED = WIDE / 32 * 4, NORM_WEIGHT_SHARED = THREADS * 4;
template <class T> constexpr int norm_blocks(int rows, int h) {
    const int teams = norm_threads<T>(h) / norm_lanes<T>(h);
    return (rows + teams - 1) / teams;
}
/// Rows of a block of the gradient: a whole number for each team, and at most 512 blocks.
template <class T> constexpr int norm_slab(int rows, int h) {
    const int teams = THREADS / lanes_for<T>(h);
    return ((rows + teams - 1) / teams + 511) / 512 * teams;
}
template <class T> constexpr int norm_backward_shared(int h) {
    return SCRATCH + THREADS / lanes_for<T>(h) * ((h + VECTOR<T> - 1) / VECTOR<T> * VECTOR<T>)*4;
}
constexpr int norm_weight_blocks(int h) { return (h + NORM_COLUMNS - 1) / NORM_COLUMNS; }

extern "C" {
__global__ void __launch_bounds__(THREADS) rms_norm_bf16(NormArgs<bf16> p) {
    rms_norm<bf16, false>(p);
}
__global__ void __launch_bounds__(WIDE) rms_norm_f32(NormArgs<float> p) {
    rms_norm<float, false>(p);
}
__global__ void __launch_bounds__(THREADS) add_rms_norm_bf16(NormArgs<bf16> p) {
    rms_norm<bf16, true>(p);
}
__global__ void __launch_bounds__(WIDE) add_rms_norm_f32(NormArgs<float> p) {
    rms_norm<float, true>(p);
}
__global__ void __launch_bounds__(THREADS) rms_norm_backward_bf16(NormBackwardArgs<bf16> p) {
    rms_norm_backward(p);
}
__global__ void __launch_bounds__(THREADS) rms_norm_backward_f32(NormBackwardArgs<float> p) {
    rms_norm_backward(p);
}
__global__ void __launch_bounds__(THREADS) rms_norm_backward_weight_bf16(NormBackwardArgs<bf16> p) {
    rms_norm_backward_weight(p);
}
__global__ void __launch_bounds__(THREADS) rms_norm_backward_weight_f32(NormBackwardArgs<float> p) {
    rms_norm_backward_weight(p);
}
}
