// The primitives of ../tensor_core.h and the words of CUDA C++ that kernels use, for the emulated
// machine. Which lane holds what is laid out as in the tables of the PTX ISA ("Matrix Fragments for
// mma.m16n8k16", "ldmatrix").
#pragma once
#include <cstring>

#include <math.h>

#include "machine.h"

#define __global__ [[maybe_unused]] static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) unsigned char *name = emulation::shared_memory

struct bf16 {
    unsigned short bits;
};
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct int2 {
    int x, y;
};
struct int4 {
    int x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

inline int min(int a, int b) { return a < b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
// Steps that are rounded one by one, as the compiler's flags make all of them here.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
/// Of integers alone: a sum of floats would depend on its order.
template <class T> void atomicAdd(T *to, T value) {
    static_assert(static_cast<T>(0.5) == 0);
    *to += value;
}
inline void atomicMin(int *to, int value) { *to = min(*to, value); }
inline float __int_as_float(int bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline int __float_as_int(float x) {
    int bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

/// Bytes of two words, numbered from the lowest of `a`, by the nibbles of `selector`.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const auto bytes = static_cast<unsigned long long>(b) << 32 | a;
    unsigned chosen = 0;
    for (int i = 0; i < 4; i++)
        chosen |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return chosen;
}
/// The word that begins `shift` bits, less than 32, above the lowest of two.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> shift);
}

inline void __syncthreads() { emulation::barrier(); }
inline void __syncwarp() {
    emulation::of_the_warp<char>('\0', [](const char *, char *) {});
}

template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulation::of_the_warp<T>(value, [mask](const T *in, T *out) {
        for (int i = 0; i < emulation::WARP; i++) out[i] = in[i ^ mask];
    });
}
template <class T> T __shfl_sync(unsigned, T value, int from) {
    return emulation::of_the_warp<T>(value, [from](const T *in, T *out) {
        for (int i = 0; i < emulation::WARP; i++) out[i] = in[from];
    });
}
inline unsigned __ballot_sync(unsigned, bool value) {
    return emulation::of_the_warp<unsigned>(value, [](const bool *in, unsigned *out) {
        unsigned votes = 0;
        for (int i = 0; i < emulation::WARP; i++) votes |= static_cast<unsigned>(in[i]) << i;
        for (int i = 0; i < emulation::WARP; i++) out[i] = votes;
    });
}

inline int thread_anew() { return static_cast<int>(threadIdx.x); }

// Written in tensor_core.cpp.
void copy_async(void *to, const void *from, bool there);
void copies_commit();
void load_matrices(unsigned (&r)[4], const void *row);
void load_matrices_transposed(unsigned (&r)[4], const void *row);
void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
unsigned pack_bf16(float low, float high);
unsigned add_bf16(unsigned a, unsigned b);
float from_f16(unsigned bits);
float exp2_fast(float x);
unsigned long long describe_tile(const void *tile, int panels = 16);
void publish_copies();
inline void products_begin() {}
void products_commit();

namespace emulation {
/// Ends the program unless the address is a multiple of `bytes`.
void check_global(const void *address, size_t bytes);
void wait_for_copies(size_t pending);
void wait_for_products(size_t pending);
void start_tiles(float *d, int columns, unsigned long long a, unsigned long long b, bool add);
void start_weighted_tile(float *d, int columns, const unsigned (&a)[4], unsigned long long b);
inline void set_thread(int thread) { threadIdx = {static_cast<unsigned>(thread), 0, 0}; }
} // namespace emulation

template <int WORDS> void load_words(unsigned (&w)[WORDS], const void *from) {
    emulation::check_global(from, sizeof w);
    std::memcpy(w, from, sizeof w);
}
template <int WORDS> void store_words(void *to, const unsigned (&w)[WORDS]) {
    emulation::check_global(to, sizeof w);
    std::memcpy(to, w, sizeof w);
}
template <int PENDING> void copies_wait() { emulation::wait_for_copies(PENDING); }
template <int PENDING> void products_wait() { emulation::wait_for_products(PENDING); }
template <int EIGHTS>
void multiply_tiles(float (&d)[EIGHTS][4], unsigned long long a, unsigned long long b, bool add) {
    emulation::start_tiles(&d[0][0], 8 * EIGHTS, a, b, add);
}
template <int EIGHTS>
void add_weighted_tile(float (&d)[EIGHTS][4], const unsigned (&a)[4], unsigned long long b) {
    emulation::start_weighted_tile(&d[0][0], 8 * EIGHTS, a, b);
}

namespace emulation {
/// Runs `kernel` as a card would be asked to.
template <auto KERNEL, class Args>
void launch(dim3 grid, int threads, size_t shared, const Args &args) {
    static Args passed;
    passed = args;
    const auto body = [] { KERNEL(passed); };
    gridDim = grid;
    blockDim = {static_cast<unsigned>(threads), 1, 1};
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                run_block(threads, shared, body, set_thread);
            }
}
} // namespace emulation
