// What a warp can do beyond plain C++: products on tensor cores, loads of their operands, copies
// that go on by themselves. Each primitive is one function, written twice: here as PTX, in
// emulation/tensor_core.h for the CPU. Kernels call these names alone, so that the same source runs
// on a card and under `cargo xtask cuda emulate`.
#pragma once

#ifdef LACUNA_EMULATION
#include "emulation/tensor_core.h"
#else

/// A bf16 number, as its bits: the upper half of an f32.
struct bf16 {
    unsigned short bits;
};

/// The block's dynamic shared memory.
#define SHARED_MEMORY(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ unsigned shared_address(const void *p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/// This thread's number, read anew: what is made of it in a loop then holds no registers across the
/// loop.
__device__ __forceinline__ int thread_anew() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

/// Starts to copy 16 bytes from global to shared memory; zeros arrive where `there` is false.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool there) {
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
}

/// Ends a group of copies.
__device__ __forceinline__ void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/// Loads four 8×8 matrices of bf16: lane 8 i + j names row j of matrix i, 16 bytes in shared
/// memory. Lane l receives elements (l / 4, 2 (l % 4)) and the one behind it, of each matrix.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// d += a · b on [16, 16] · [16, 8], bf16 with sums in f32. With g = lane / 4 and t = lane % 4:
/// a: rows (g, g + 8, g, g + 8), columns 2 t (+ 8 in the last two); b: column g, rows 2 t and 2 t +
/// 8; d: rows (g, g, g + 8, g + 8), columns 2 t and 2 t + 1.
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                             unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two numbers rounded to bf16, `low` in the lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

/// 2^x within two units in the last place; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

__device__ __forceinline__ float bf16_low(unsigned word) {
    return __int_as_float(static_cast<int>(word << 16));
}
__device__ __forceinline__ float bf16_high(unsigned word) {
    return __int_as_float(static_cast<int>(word & 0xffff0000u));
}
