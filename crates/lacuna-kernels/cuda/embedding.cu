// Embedding: rows of a table by their tokens, and the table's gradient, deterministic and without
// atomics: each token that occurs sums the rows of its places in ascending order.
#include "vectors.cuh"

template <class T> struct EmbeddingArgs {
    const T *table;      ///< `[v, h]`
    const unsigned *ids; ///< `[rows]`
    T *out;              ///< `[rows, h]`
    int rows, v, h;
};

/// A block copies a row; that of an id beyond the table becomes NaNs.
template <class T, bool WHOLE> __device__ __forceinline__ void copy_row(const EmbeddingArgs<T> &p) {
    constexpr int N = VECTOR<T>;
    const unsigned id = p.ids[blockIdx.x];
    const T *from = p.table + (long long)id * p.h;
    T *to = p.out + (long long)blockIdx.x * p.h;
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

template <class T> struct EmbeddingBackwardArgs {
    const T *d_out;         ///< `[rows, h]`
    const unsigned *tokens; ///< `[n]`: ids that occur, each once
    const int *starts;      ///< `[n + 1]`: where each one's places begin
    const int *places;      ///< `[rows]`: rows, those of a token together and ascending
    T *d_table;             ///< `[v, h]`: added to
    int h;
};

/// A block takes a token, its threads a vector of columns each.
template <class T, bool WHOLE>
__device__ __forceinline__ void add_rows(const EmbeddingBackwardArgs<T> &p) {
    constexpr int N = VECTOR<T>;
    const int i = (blockIdx.y * THREADS + threadIdx.x) * N, left = p.h - i,
              end = p.starts[blockIdx.x + 1];
    if (left <= 0) return;
    T *to = p.d_table + (long long)p.tokens[blockIdx.x] * p.h + i;
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

template <class T> __device__ __forceinline__ void embedding(const EmbeddingArgs<T> &p) {
    if (p.h % VECTOR<T> == 0)
        copy_row<T, true>(p);
    else
        copy_row<T, false>(p);
}
template <class T>
__device__ __forceinline__ void embedding_backward(const EmbeddingBackwardArgs<T> &p) {
    if (p.h % VECTOR<T> == 0)
        add_rows<T, true>(p);
    else
        add_rows<T, false>(p);
}

/// Blocks beside each other that take the columns of a token.
template <class T> constexpr int embedding_slices(int h) {
    return (h + THREADS * VECTOR<T> - 1) / (THREADS * VECTOR<T>);
}

extern "C" {
__global__ void __launch_bounds__(THREADS) embedding_bf16(EmbeddingArgs<bf16> p) { embedding(p); }
__global__ void __launch_bounds__(THREADS) embedding_f32(EmbeddingArgs<float> p) { embedding(p); }
__global__ void __launch_bounds__(THREADS) embedding_backward_bf16(EmbeddingBackwardArgs<bf16> p) {
    embedding_backward(p);
}
__global__ void __launch_bounds__(THREADS) embedding_backward_f32(EmbeddingBackwardArgs<float> p) {
    embedding_backward(p);
}
}
