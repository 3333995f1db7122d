// Divides rows by their root mean square. A group of THREADS threads takes one row, and adds squares in the same order
// whatever the other rows are; all arithmetic is f32.

#include <metal_stdlib>
using namespace metal;

constant uint THREADS = 256;
constant uint LANES = 32;

template <typename T>
void norm(device const T *x, device const T *weight, device T *y, uint h, float eps,
          threadgroup float *partial, uint row, uint thread, uint lane, uint simd) {
    x += ulong(row) * h;
    y += ulong(row) * h;
    float squares = 0;
    for (uint i = thread; i < h; i += THREADS) {
        float value = float(x[i]);
        squares = fma(value, value, squares);
    }
    squares = simd_sum(squares);
    if (lane == 0) partial[simd] = squares;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0;
    for (uint i = 0; i < THREADS / LANES; i++) sum += partial[i];
    float scale = precise::rsqrt(sum / float(h) + eps);
    for (uint i = thread; i < h; i += THREADS) y[i] = T(float(x[i]) * scale * float(weight[i]));
}

#define KERNEL(name, T)                                                                                         \
    kernel void name(device const T *x [[buffer(0)]], device const T *weight [[buffer(1)]],                    \
                     device T *y [[buffer(2)]], constant uint &h [[buffer(3)]], constant float &eps [[buffer(4)]], \
                     uint row [[threadgroup_position_in_grid]], uint thread [[thread_position_in_threadgroup]], \
                     uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {   \
        threadgroup float partial[THREADS / LANES];                                                             \
        norm<T>(x, weight, y, h, eps, partial, row, thread, lane, simd);                                        \
    }

KERNEL(rms_norm_f32, float)
KERNEL(rms_norm_f16, half)
#if __METAL_VERSION__ >= 310
KERNEL(rms_norm_bf16, bfloat)
#endif
