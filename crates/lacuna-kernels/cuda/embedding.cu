// Embedding: rows of a table by their tokens, and the table's gradient, deterministic and without
// atomics: each token that occurs sums the rows of its places in ascending order.
#pragma once
#include "vectors.cuh"

/// A table of T, its rows as numbers of D.
template <class T, class D = T> struct EmbeddingArgs {
    const T *table;      ///< `[v, h]`
    const unsigned *ids; ///< `[rows]`
    D *out;              ///< `[rows, h]`
    int rows, v, h;
};

/// A block copies a row; that of an id beyond the table becomes NaNs.
template <class T, class D, bool WHOLE>
__device__ __forceinline__ void copy_row(const EmbeddingArgs<T, D> &p) {
    constexpr int N = VECTOR<D>;
    const unsigned id = p.ids[blockIdx.x];
    const T *from = p.table + (long long)id * p.h;
    D *to = p.out + (long long)blockIdx.x * p.h;
    for (int i = threadIdx.x * N; i < p.h; i += THREADS * N) {
        float x[N];
        if (id < static_cast<unsigned>(p.v))
            load<WHOLE>(x, from + i, p.h - i);
        else
#pragma unroll
            for (int k = 0; k < N; k++) x[k] = __int_as_float(0x7fffffff);
        store<WHOLE>(to + i, x, p.h - i);
    }
}

/// Gradients of T, the table's of D.
template <class T, class D = T> struct EmbeddingBackwardArgs {
    const T *d_out;         ///< `[rows, h]`
    const unsigned *tokens; ///< `[n]`: ids that occur, each once; of one without places anything
    const int *starts;      ///< `[n + 1]`: where each one's places begin; one may have none
    const int *places;      ///< `[rows]`: rows, those of a token together and ascending
    D *d_table;             ///< `[v, h]`: added to
    int h;
};

/// A block takes a token, its threads a vector of columns each.
template <class T, class D, bool WHOLE>
__device__ __forceinline__ void add_rows(const EmbeddingBackwardArgs<T, D> &p) {
    constexpr int N = VECTOR<D>;
    const int i = (blockIdx.y * THREADS + threadIdx.x) * N, left = p.h - i,
              end = p.starts[blockIdx.x + 1];
    if (left <= 0) return;
    if (p.starts[blockIdx.x] == end) return;
    D *to = p.d_table + (long long)p.tokens[blockIdx.x] * p.h + i;
    float sum[N], x[N];
    load<WHOLE>(sum, to, left);
#pragma unroll 4
    for (int place = p.starts[blockIdx.x]; place < end; place++) {
        load<WHOLE>(x, p.d_out + (long long)p.places[place] * p.h + i, left);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] += x[k];
    }
    store<WHOLE>(to, sum, left);
}

template <class T, class D>
__device__ __forceinline__ void embedding(const EmbeddingArgs<T, D> &p) {
    if (p.h % VECTOR<D> == 0)
        copy_row<T, D, true>(p);
    else
        copy_row<T, D, false>(p);
}

/// Rows of f32 to their places among rows of bf16, as new keys and values go into a cache.
struct PlacedArgs {
    const float *x;    ///< `[rows, h]`
    const int *places; ///< `[rows]`: a row of `out` each, no two the same; below 0 it goes nowhere
    bf16 *out;
    int rows, h;
};

/// A block rounds a row.
template <bool WHOLE> __device__ __forceinline__ void place_row(const PlacedArgs &p) {
    constexpr int N = VECTOR<float>;
    const float *from = p.x + (long long)blockIdx.x * p.h;
    if (p.places[blockIdx.x] < 0) return;
    bf16 *to = p.out + (long long)p.places[blockIdx.x] * p.h;
    for (int i = threadIdx.x * N; i < p.h; i += THREADS * N) {
        float x[N];
        load<WHOLE>(x, from + i, p.h - i);
        store<WHOLE>(to + i, x, p.h - i);
    }
}
template <class T, class D>
__device__ __forceinline__ void embedding_backward(const EmbeddingBackwardArgs<T, D> &p) {
    if (p.h % VECTOR<D> == 0)
        add_rows<T, D, true>(p);
    else
        add_rows<T, D, false>(p);
}

/// Blocks beside each other that take the columns of a token; T: the table's gradient's.
template <class T> constexpr int embedding_slices(int h) {
    return (h + THREADS * VECTOR<T> - 1) / (THREADS * VECTOR<T>);
}

extern "C" {
__global__ void __launch_bounds__(THREADS) embedding_bf16(EmbeddingArgs<bf16> p) { embedding(p); }
__global__ void __launch_bounds__(THREADS) embedding_f32(EmbeddingArgs<float> p) { embedding(p); }
__global__ void __launch_bounds__(THREADS) embedding_bf16_f32(EmbeddingArgs<bf16, float> p) {
    embedding(p);
}
__global__ void __launch_bounds__(THREADS) place_rows_f32_bf16(PlacedArgs p) {
    if (p.h % VECTOR<float> == 0)
        place_row<true>(p);
    else
        place_row<false>(p);
}
__global__ void __launch_bounds__(THREADS) embedding_backward_bf16(EmbeddingBackwardArgs<bf16> p) {
    embedding_backward(p);
}
__global__ void __launch_bounds__(THREADS) embedding_backward_f32(EmbeddingBackwardArgs<float> p) {
    embedding_backward(p);
}
__global__ void __launch_bounds__(THREADS)
    embedding_backward_bf16_f32(EmbeddingBackwardArgs<bf16, float> p) {
    embedding_backward(p);
}
}
