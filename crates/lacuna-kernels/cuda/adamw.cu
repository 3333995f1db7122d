// AdamW over all parameters in one launch, and the norm of all gradients, which clipping needs and
// no two launches may sum differently.
//
//   g = gradient · min(1, clip / (norm + 1e-6))
//   m ← β₁ m + (1 − β₁) g
//   v ← β₂ v + (1 − β₂) g²
//   p ← p · shrink − step_size · m / (√v · root_scale + eps)
//
// What changes from step to step lies in memory, so that recorded launches can be played again.
#pragma once
#include "vectors.cuh"

/// A parameter of T with a gradient of G, and what AdamW keeps of it.
template <class T, class G = T> struct AdamWParameter {
    T *values;
    const G *gradient;
    float *master; ///< the f32 copy of a bf16 parameter, which small steps add up in
    float *first, *second;
    long long n;
    bool decays;
};

/// What changes from step to step.
struct AdamWStep {
    float step_size, root_scale;
    float shrink; ///< 1 − lr · weight_decay, of parameters that decay
};

/// Numbers of a block.
constexpr int ADAMW_CHUNK = 16384;
/// The part of a parameter that a block takes: its numbers from `index · ADAMW_CHUNK` on.
struct AdamWChunk {
    int parameter, index;
};

template <class T, class G = T> struct AdamWArgs {
    const AdamWParameter<T, G> *parameters;
    const AdamWChunk *chunks; ///< one for each block
    float *squares;           ///< `[chunks]`: the sum of squares of each
    const float *norm;        ///< of all gradients; null: nothing is clipped
    const AdamWStep *step;
    float clip, beta1, beta2;
    float rest1, rest2; ///< 1 − β₁ and 1 − β₂, rounded once
    float eps;
};
struct GradientNormArgs {
    const float *squares;
    int chunks;
    float *norm;
};

/// The sum of squares of each chunk.
template <class T, bool WHOLE>
__device__ __forceinline__ void add_squares(float &sum, const T *gradient, int left) {
    float g[4];
    load<WHOLE>(g, gradient, left);
#pragma unroll
    for (int k = 0; k < 4; k++) sum += g[k] * g[k];
}
template <class T> __device__ __forceinline__ void gradient_squares(const AdamWArgs<T> &p) {
    SHARED_MEMORY(shared);
    const AdamWChunk chunk = p.chunks[blockIdx.x];
    const AdamWParameter<T> of = p.parameters[chunk.parameter];
    const long long begin = (long long)chunk.index * ADAMW_CHUNK;
    float sum[1] = {};
#pragma unroll 4
    for (int i = threadIdx.x * 4; i < ADAMW_CHUNK; i += THREADS * 4) {
        const long long left = of.n - begin - i;
        if (left >= 4)
            add_squares<T, true>(sum[0], of.gradient + begin + i, 4);
        else if (left > 0)
            add_squares<T, false>(sum[0], of.gradient + begin + i, static_cast<int>(left));
    }
    Team(THREADS).sum(sum, reinterpret_cast<float *>(shared));
    if (threadIdx.x == 0) p.squares[blockIdx.x] = sum[0];
}

/// The norm of all gradients, by one block.
__device__ __forceinline__ void norm_of_chunks(const GradientNormArgs &p) {
    SHARED_MEMORY(shared);
    float sum[1] = {};
#pragma unroll 8
    for (int i = threadIdx.x; i < p.chunks; i += blockDim.x) sum[0] += p.squares[i];
    Team(blockDim.x).sum(sum, reinterpret_cast<float *>(shared));
    if (threadIdx.x == 0) *p.norm = sqrtf(sum[0]);
}

/// Four numbers of a parameter step.
template <class T, class G, bool WHOLE>
__device__ __forceinline__ void adamw_step(const AdamWArgs<T, G> &p, const AdamWStep &step,
                                           const AdamWParameter<T, G> &of, float scale,
                                           long long at, int left) {
    float *master = sizeof(T) == 2 ? of.master : reinterpret_cast<float *>(of.values);
    float g[4], x[4], m[4], v[4];
    load<WHOLE>(g, of.gradient + at, left);
    load<WHOLE>(x, master + at, left);
    load<WHOLE>(m, of.first + at, left);
    load<WHOLE>(v, of.second + at, left);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        g[k] *= scale;
        m[k] = p.beta1 * m[k] + p.rest1 * g[k];
        v[k] = p.beta2 * v[k] + p.rest2 * g[k] * g[k];
        x[k] = x[k] * step.shrink - step.step_size * m[k] / (sqrtf(v[k]) * step.root_scale + p.eps);
    }
    store<WHOLE>(master + at, x, left);
    store<WHOLE>(of.first + at, m, left);
    store<WHOLE>(of.second + at, v, left);
    if (sizeof(T) == 2) store<WHOLE>(of.values + at, x, left);
}
template <class T, class G> __device__ __forceinline__ void adamw(const AdamWArgs<T, G> &p) {
    const AdamWChunk chunk = p.chunks[blockIdx.x];
    const AdamWParameter<T, G> of = p.parameters[chunk.parameter];
    AdamWStep step = *p.step;
    if (!of.decays) step.shrink = 1;
    const long long begin = (long long)chunk.index * ADAMW_CHUNK;
    float scale = p.norm ? p.clip / (*p.norm + 1e-6f) : 1;
    if (scale > 1) scale = 1; // a NaN stays one
    for (int i = threadIdx.x * 4; i < ADAMW_CHUNK; i += THREADS * 4) {
        const long long left = of.n - begin - i;
        if (left >= 4)
            adamw_step<T, G, true>(p, step, of, scale, begin + i, 4);
        else if (left > 0)
            adamw_step<T, G, false>(p, step, of, scale, begin + i, static_cast<int>(left));
    }
}

inline constexpr int NORM_THREADS = 1024, GRADIENT_NORM_SHARED = NORM_THREADS / 32 * 4;

extern "C" {
__global__ void __launch_bounds__(THREADS) gradient_squares_bf16(AdamWArgs<bf16> p) {
    gradient_squares(p);
}
__global__ void __launch_bounds__(THREADS) gradient_squares_f32(AdamWArgs<float> p) {
    gradient_squares(p);
}
__global__ void __launch_bounds__(NORM_THREADS) gradient_norm(GradientNormArgs p) {
    norm_of_chunks(p);
}
__global__ void __launch_bounds__(THREADS) adamw_bf16(AdamWArgs<bf16> p) { adamw(p); }
__global__ void __launch_bounds__(THREADS) adamw_f32(AdamWArgs<float> p) { adamw(p); }
/// Parameters in bf16 with gradients in f32, as micro-batches add up.
__global__ void __launch_bounds__(THREADS) adamw_bf16_f32(AdamWArgs<bf16, float> p) { adamw(p); }
}
