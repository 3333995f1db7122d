// The primitives of ../tensor_core.h and the words of CUDA C++ that kernels use, for the emulated
// machine. Which lane holds what is laid out as in the tables of the PTX ISA ("Matrix Fragments for
// mma.m16n8k16", "ldmatrix").
#pragma once
#include <cmath>
#include <cstdint>

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
struct int4 {
    int x, y, z, w;
};
struct float2 {
    float x, y;
};
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
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

inline void __syncthreads() { emulation::barrier(); }

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

inline void copy_async(void *to, const void *from, bool there) {
    emulation::check_shared(to, 16);
    if (there && reinterpret_cast<uintptr_t>(from) % 16)
        emulation::fail("a misaligned address in global memory");
    const emulation::Copy copy{to, there ? from : nullptr};
    if (emulation::schedule.copies_land_at_once) {
        copy.land();
        emulation::fibres[emulation::current].landed.push_back(to);
    } else
        emulation::fibres[emulation::current].open.push_back(copy);
}
inline void copies_commit() {
    auto &fibre = emulation::fibres[emulation::current];
    fibre.groups.push_back(std::move(fibre.open));
    fibre.open.clear();
}
template <int PENDING> void copies_wait() {
    auto &fibre = emulation::fibres[emulation::current];
    auto &groups = fibre.groups;
    for (; groups.size() > PENDING; groups.pop_front())
        for (const auto &copy : groups.front()) {
            copy.land();
            fibre.landed.push_back(copy.to);
        }
}

namespace emulation {
struct Words {
    unsigned w[4];
};
inline unsigned short bits_at(const void *row, int column) {
    unsigned short bits;
    std::memcpy(&bits, static_cast<const unsigned char *>(row) + 2 * column, 2);
    return bits;
}
template <bool TRANSPOSED> Words load_matrices(const void *row) {
    check_shared(row, 16);
    return of_the_warp<Words>(row, [](const void *const *rows, Words *out) {
        counters.matrix_loads++;
        for (int matrix = 0; matrix < 4; matrix++) {
            const void *const *at = rows + 8 * matrix;
            // Eight rows of 16 bytes fill the 32 banks once, if no two share theirs.
            int hits[8] = {}, most = 0;
            for (int i = 0; i < 8; i++) {
                const int chunk =
                    (static_cast<const unsigned char *>(at[i]) - shared_memory) / 16 % 8;
                most = max(most, ++hits[chunk]);
            }
            counters.bank_conflicts += most - 1;
            for (int lane = 0; lane < WARP; lane++) {
                const int i = lane / 4, j = 2 * (lane % 4);
                const unsigned low = TRANSPOSED ? bits_at(at[j], i) : bits_at(at[i], j);
                const unsigned high = TRANSPOSED ? bits_at(at[j + 1], i) : bits_at(at[i], j + 1);
                out[lane].w[matrix] = low | high << 16;
            }
        }
    });
}
inline float low(unsigned word) { return __int_as_float(static_cast<int>(word << 16)); }
inline float high(unsigned word) { return __int_as_float(static_cast<int>(word & 0xffff0000u)); }
} // namespace emulation

inline void load_matrices(unsigned (&r)[4], const void *row) {
    const auto words = emulation::load_matrices<false>(row);
    std::memcpy(r, words.w, sizeof r);
}
inline void load_matrices_transposed(unsigned (&r)[4], const void *row) {
    const auto words = emulation::load_matrices<true>(row);
    std::memcpy(r, words.w, sizeof r);
}

inline void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct In {
        unsigned a[4], b[2];
        float d[4];
    } in{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
    struct Out {
        float d[4];
    };
    const auto out = emulation::of_the_warp<Out>(in, [](const In *in, Out *out) {
        emulation::counters.products++;
        float a[16][16], b[16][8];
        for (int lane = 0; lane < emulation::WARP; lane++) {
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; i++) {
                const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
                a[row][column] = emulation::low(in[lane].a[i]);
                a[row][column + 1] = emulation::high(in[lane].a[i]);
            }
            for (int i = 0; i < 2; i++) {
                b[2 * t + 8 * i][g] = emulation::low(in[lane].b[i]);
                b[2 * t + 8 * i + 1][g] = emulation::high(in[lane].b[i]);
            }
        }
        float sum[16][8] = {};
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < 16; k++)
                for (int j = 0; j < 8; j++) sum[i][j] += a[i][k] * b[k][j];
        for (int lane = 0; lane < emulation::WARP; lane++)
            for (int i = 0; i < 4; i++)
                out[lane].d[i] = in[lane].d[i] + sum[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    });
    std::memcpy(d, out.d, sizeof d);
}

// --- Products of a warp group: read at once where copies land at once, else not before they are
// waited for ---

inline unsigned long long describe_tile(const void *tile, int panels = 16) {
    const auto at = static_cast<unsigned long long>(static_cast<const unsigned char *>(tile) -
                                                    emulation::shared_memory);
    return (at & 0x3ffff) >> 4 | static_cast<unsigned long long>(panels >> 4) << 16 |
           static_cast<unsigned long long>(1024 >> 4) << 32 | 1ull << 62;
}
inline void publish_copies() {
    auto &landed = emulation::fibres[emulation::current].landed;
    for (void *to : landed) {
        const auto at = static_cast<unsigned char *>(to) - emulation::shared_memory;
        std::memcpy(emulation::published + at, to, 16);
    }
    landed.clear();
}
inline void products_begin() {}
inline void products_commit() {
    auto &fibre = emulation::fibres[emulation::current];
    fibre.product_groups.push_back(std::move(fibre.open_products));
    fibre.open_products.clear();
}

namespace emulation {
/// Where element (i, k) of an operand lies: its 16 columns k are contiguous, or its rows i if it is
/// read `by_columns`.
inline const unsigned char *place_in(unsigned long long tile, int i, int k, bool by_columns) {
    const size_t base = (tile & 0x3fff) << 4, panel = (tile >> 16 & 0x3fff) << 4,
                 rows = (tile >> 32 & 0x3fff) << 4;
    size_t at = by_columns ? base + k / 8 * rows + k % 8 * 128 + i / 64 * panel + i % 64 * 2
                           : base + i / 8 * rows + i % 8 * 128 + k * 2;
    at ^= (at >> 7 & 7) << 4;
    if (at + 2 > shared_bytes) fail("an address outside of shared memory");
    return published + at;
}
inline void finish(const Product &p) {
    const int lane = current % WARP, first = current / WARP % 4 * 16 + lane / 4;
    if (lane == 0) counters.products += p.columns / 8;
    // Eight numbers in a row share a chunk of 16 bytes, wherever the swizzle put it.
    const auto eight = [](float *to, const unsigned char *from) {
        for (int i = 0; i < 8; i++) to[i] = low(bits_at(from, i));
    };
    float left[2][16];
    std::memcpy(left, p.rows, sizeof left);
    for (int half = 0; half < 2 && !p.left_in_registers; half++)
        for (int k = 0; k < 16; k += 8)
            eight(left[half] + k, place_in(p.left, first + 8 * half, k, false));
    for (int n = 0; n < p.columns / 8; n++) {
        const int column = n * 8 + lane % 4 * 2;
        float right[2][16];
        for (int k = 0; k < 16; k++)
            if (p.by_columns) {
                const unsigned char *from = place_in(p.right, column, k, true);
                right[0][k] = low(bits_at(from, 0)), right[1][k] = low(bits_at(from, 1));
            } else if (k % 8 == 0) {
                for (int c = 0; c < 2; c++)
                    eight(right[c] + k, place_in(p.right, column + c, k, false));
            }
        for (int half = 0; half < 2; half++)
            for (int c = 0; c < 2; c++) {
                float sum = 0;
                for (int k = 0; k < 16; k++) sum += left[half][k] * right[c][k];
                float &to = p.sums[n * 4 + half * 2 + c];
                to = p.add ? to + sum : sum;
            }
    }
}
inline void start(const Product &p) {
    if (schedule.copies_land_at_once)
        finish(p);
    else
        fibres[current].open_products.push_back(p);
}
} // namespace emulation

template <int PENDING> void products_wait() {
    auto &groups = emulation::fibres[emulation::current].product_groups;
    for (; groups.size() > PENDING; groups.pop_front())
        for (const auto &product : groups.front()) emulation::finish(product);
}
template <int EIGHTS>
void multiply_tiles(float (&d)[EIGHTS][4], unsigned long long a, unsigned long long b, bool add) {
    emulation::start({&d[0][0], 8 * EIGHTS, add, false, false, a, b, {}});
}
template <int EIGHTS>
void add_weighted_tile(float (&d)[EIGHTS][4], const unsigned (&a)[4], unsigned long long b) {
    emulation::Product p{&d[0][0], 8 * EIGHTS, true, true, true, 0, b, {}};
    const emulation::Words words{{a[0], a[1], a[2], a[3]}};
    struct Two {
        unsigned w[2][8];
    };
    const auto rows = emulation::of_the_warp<Two>(words, [](const emulation::Words *in, Two *out) {
        for (int lane = 0; lane < emulation::WARP; lane++)
            for (int half = 0; half < 2; half++)
                for (int i = 0; i < 8; i++)
                    out[lane].w[half][i] = in[lane / 4 * 4 + i % 4].w[i / 4 * 2 + half];
    });
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 8; i++) {
            p.rows[half][2 * i] = emulation::low(rows.w[half][i]);
            p.rows[half][2 * i + 1] = emulation::high(rows.w[half][i]);
        }
    emulation::start(p);
}

/// Rounds to nearest, ties to even; a NaN stays one.
inline unsigned short round_bf16(float x) {
    const auto bits = static_cast<unsigned>(__float_as_int(x));
    if (x != x) return static_cast<unsigned short>(bits >> 16 | 0x40);
    return static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline unsigned pack_bf16(float low, float high) {
    return round_bf16(low) | static_cast<unsigned>(round_bf16(high)) << 16;
}
inline float exp2_fast(float x) {
    const float y = std::exp2(x);
    return y < 1.1754944e-38f ? 0.f : y;
}

namespace emulation {
inline void set_thread(int thread) { threadIdx = {static_cast<unsigned>(thread), 0, 0}; }

/// Runs `kernel` as a card would be asked to.
template <auto KERNEL, class Args>
void launch(dim3 grid, int threads, size_t shared, const Args &args) {
    static Args passed;
    passed = args;
    thread_body = [] { KERNEL(passed); };
    gridDim = grid;
    blockDim = {static_cast<unsigned>(threads), 1, 1};
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                run_block(threads, shared, set_thread);
            }
}
} // namespace emulation
