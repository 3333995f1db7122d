// The gated activation: out = gate σ(gate) up, and its gradients, with out once more.
//
//   d_gate = d_out up σ (1 + gate (1 − σ))     d_up = d_out gate σ
#pragma once
#include "vectors.cuh"

/// Tensors of n numbers.
template <class T> struct SwigluArgs {
    const T *gate, *up, *d_out;
    T *out, *d_gate, *d_up;
    long long n;
};

__device__ __forceinline__ float sigmoid(float x) {
    constexpr float LOG2_E = 1.4426950408889634f;
    return 1 / (1 + exp2_fast(-LOG2_E * x));
}

template <class T, bool BACKWARD, bool WHOLE>
__device__ __forceinline__ void activate(const SwigluArgs<T> &p, long long at, int left) {
    constexpr int N = VECTOR<T>;
    float gate[N], up[N], out[N], d_out[N], d_gate[N], d_up[N];
    load<WHOLE>(gate, p.gate + at, left);
    load<WHOLE>(up, p.up + at, left);
    if (BACKWARD) load<WHOLE>(d_out, p.d_out + at, left);
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float sigma = sigmoid(gate[k]), silu = gate[k] * sigma;
        out[k] = silu * up[k];
        if (!BACKWARD) continue;
        d_gate[k] = d_out[k] * up[k] * (sigma + silu * (1 - sigma));
        d_up[k] = d_out[k] * silu;
    }
    store<WHOLE>(p.out + at, out, left);
    if (!BACKWARD) return;
    store<WHOLE>(p.d_gate + at, d_gate, left);
    store<WHOLE>(p.d_up + at, d_up, left);
}

/// A thread takes one vector; the last may be short.
template <class T, bool BACKWARD> __device__ __forceinline__ void swiglu(const SwigluArgs<T> &p) {
    const long long at = ((long long)blockIdx.x * THREADS + threadIdx.x) * VECTOR<T>;
    if (at + VECTOR<T> <= p.n)
        activate<T, BACKWARD, true>(p, at, VECTOR<T>);
    else if (at < p.n)
        activate<T, BACKWARD, false>(p, at, static_cast<int>(p.n - at));
}

template <class T> constexpr int swiglu_blocks(long long n) {
    return static_cast<int>((n + THREADS * VECTOR<T> - 1) / (THREADS * VECTOR<T>));
}

extern "C" {
__global__ void __launch_bounds__(THREADS) swiglu_bf16(SwigluArgs<bf16> p) {
    swiglu<bf16, false>(p);
}
__global__ void __launch_bounds__(THREADS) swiglu_f32(SwigluArgs<float> p) {
    swiglu<float, false>(p);
}
__global__ void __launch_bounds__(THREADS) swiglu_backward_bf16(SwigluArgs<bf16> p) {
    swiglu<bf16, true>(p);
}
__global__ void __launch_bounds__(THREADS) swiglu_backward_f32(SwigluArgs<float> p) {
    swiglu<float, true>(p);
}
}
