// Rotary position embedding: each pair (x[i], x[i + d/2]) of a head turns by an angle that its
// row's position and i give. Its gradient is turned back.
#pragma once
#include "vectors.cuh"

template <class T> struct RopeArgs {
    const T *x;                ///< `[rows, heads, d]`
    const T *cos, *sin;        ///< `[positions, d / 2]`
    const unsigned *positions; ///< `[rows]`, each below the tables'
    T *out;                    ///< `[rows, heads, d]`
    int rows, heads, d;
    float direction; ///< 1, or −1 for the gradient
};

/// A thread turns a vector of pairs.
template <class T, bool WHOLE> __device__ __forceinline__ void turn(const RopeArgs<T> &p) {
    constexpr int N = VECTOR<T>;
    const int half = p.d / 2, vectors = (half + N - 1) / N,
              thread = blockIdx.x * THREADS + threadIdx.x, head = thread / vectors,
              i = thread % vectors * N, left = half - i;
    if (head >= p.rows * p.heads) return;
    const long long at = (long long)head * p.d + i,
                    angle = (long long)p.positions[head / p.heads] * half + i;
    float a[N], b[N], cos[N], sin[N];
    load<WHOLE>(a, p.x + at, left);
    load<WHOLE>(b, p.x + at + half, left);
    load<WHOLE>(cos, p.cos + angle, left);
    load<WHOLE>(sin, p.sin + angle, left);
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float x = a[k], y = b[k], s = sin[k] * p.direction;
        a[k] = x * cos[k] - y * s;
        b[k] = y * cos[k] + x * s;
    }
    store<WHOLE>(p.out + at, a, left);
    store<WHOLE>(p.out + at + half, b, left);
}

template <class T> __device__ __forceinline__ void rope(const RopeArgs<T> &p) {
    if (p.d / 2 % VECTOR<T> == 0)
        turn<T, true>(p);
    else
        turn<T, false>(p);
}

/// Blocks of THREADS threads; fewer than 2³¹ threads.
template <class T> constexpr int rope_blocks(int rows, int heads, int d) {
    return (rows * heads * ((d / 2 + VECTOR<T> - 1) / VECTOR<T>)+THREADS - 1) / THREADS;
}

extern "C" {
__global__ void __launch_bounds__(THREADS) rope_bf16(RopeArgs<bf16> p) { rope(p); }
__global__ void __launch_bounds__(THREADS) rope_f32(RopeArgs<float> p) { rope(p); }
}
