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

/// Loads four or two words of global memory at once, from a multiple of their size. Behind a pointer
/// to const, nobody may write them while the kernel runs: they can be loaded ahead of any store.
__device__ __forceinline__ void load_words(unsigned (&w)[4], const void *from) {
    const uint4 v = __ldg(static_cast<const uint4 *>(from));
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}
__device__ __forceinline__ void load_words(unsigned (&w)[2], const void *from) {
    const uint2 v = __ldg(static_cast<const uint2 *>(from));
    w[0] = v.x, w[1] = v.y;
}
__device__ __forceinline__ void load_words(unsigned (&w)[4], void *from) {
    const uint4 v = *static_cast<uint4 *>(from);
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}
__device__ __forceinline__ void load_words(unsigned (&w)[2], void *from) {
    const uint2 v = *static_cast<uint2 *>(from);
    w[0] = v.x, w[1] = v.y;
}

/// Stores four or two words at once.
__device__ __forceinline__ void store_words(void *to, const unsigned (&w)[4]) {
    *static_cast<uint4 *>(to) = make_uint4(w[0], w[1], w[2], w[3]);
}
__device__ __forceinline__ void store_words(void *to, const unsigned (&w)[2]) {
    *static_cast<uint2 *>(to) = make_uint2(w[0], w[1]);
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

/// Sums of two pairs of numbers, rounded to bf16.
__device__ __forceinline__ unsigned add_bf16(unsigned a, unsigned b) {
    unsigned sums;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(sums)
        : "r"(a), "r"(0x3f803f80), "r"(b)); // a · 1 + b
    return sums;
}

/// The number whose bits as an f16 are the lower half of `bits`.
__device__ __forceinline__ float from_f16(unsigned bits) {
    float x;
    asm("{ .reg .b16 half; cvt.u16.u32 half, %1; cvt.f32.f16 %0, half; }" : "=f"(x) : "r"(bits));
    return x;
}

/// 2^x within two units in the last place; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What a warp group, four warps in a row, can do on sm_90a: products of whole tiles of shared
// memory that go on by themselves.

/// A tile of rows of 64 numbers, 128 bytes, whose 16-byte chunks are spread by XOR with the row; as
/// products of a warp group read it. `panels`: bytes from one tile of 64 columns to the next, where
/// columns are more than 64 and the tile is read down its columns.
__device__ __forceinline__ unsigned long long describe_tile(const void *tile, int panels = 16) {
    return (unsigned long long)((shared_address(tile) & 0x3ffff) >> 4) |
           (unsigned long long)(panels >> 4) << 16 | (unsigned long long)(1024 >> 4) << 32 |
           1ull << 62;
}

/// Makes this thread's finished copies visible to products of warp groups; a barrier must follow.
__device__ __forceinline__ void publish_copies() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Orders what this thread did with registers before products that use them.
__device__ __forceinline__ void products_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/// Ends a group of products.
__device__ __forceinline__ void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most PENDING groups are under way.
template <int PENDING> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define LACUNA_FOUR(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define LACUNA_SIXTEEN(d, i)                                                                       \
    LACUNA_FOUR(d, i), LACUNA_FOUR(d, i + 1), LACUNA_FOUR(d, i + 2), LACUNA_FOUR(d, i + 3)

/// d = a · bᵀ, or d += a · bᵀ: [64, 16] · [16, 64], both in shared memory with their 16 columns
/// contiguous. Warp w of the group holds rows 16 w to 16 w + 15 of d, eight columns to an entry, as
/// `multiply_add` lays them out.
__device__ __forceinline__ void multiply_tiles(float (&d)[8][4], unsigned long long a,
                                               unsigned long long b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; "
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, %32, %33, p, 1, 1, 0, 0; }"
                 : LACUNA_SIXTEEN(d, 0), LACUNA_SIXTEEN(d, 4)
                 : "l"(a), "l"(b), "r"((int)add));
}

/// d += a · b: [64, 16] in registers, as `multiply_add` has them, times [16, 64] in shared memory,
/// rows contiguous.
__device__ __forceinline__ void add_weighted_tile(float (&d)[8][4], const unsigned (&a)[4],
                                                  unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : LACUNA_SIXTEEN(d, 0), LACUNA_SIXTEEN(d, 4)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// d = a · bᵀ, or d += a · bᵀ: [64, 16] · [16, 128], both in shared memory with their 16 columns
/// contiguous. Warp w of the group holds rows 16 w to 16 w + 15 of d, eight columns to an entry, as
/// `multiply_add` lays them out.
__device__ __forceinline__ void multiply_tiles(float (&d)[16][4], unsigned long long a,
                                               unsigned long long b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; "
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1, 0, 0; }"
                 : LACUNA_SIXTEEN(d, 0), LACUNA_SIXTEEN(d, 4), LACUNA_SIXTEEN(d, 8),
                   LACUNA_SIXTEEN(d, 12)
                 : "l"(a), "l"(b), "r"((int)add));
}

/// d += a · b: [64, 16] in registers, as `multiply_add` has them, times [16, 128] in shared memory,
/// rows contiguous.
__device__ __forceinline__ void add_weighted_tile(float (&d)[16][4], const unsigned (&a)[4],
                                                  unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : LACUNA_SIXTEEN(d, 0), LACUNA_SIXTEEN(d, 4), LACUNA_SIXTEEN(d, 8),
                   LACUNA_SIXTEEN(d, 12)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef LACUNA_FOUR
#undef LACUNA_SIXTEEN

#endif

__device__ __forceinline__ float bf16_low(unsigned word) {
    return __int_as_float(static_cast<int>(word << 16));
}
__device__ __forceinline__ float bf16_high(unsigned word) {
    return __int_as_float(static_cast<int>(word & 0xffff0000u));
}
