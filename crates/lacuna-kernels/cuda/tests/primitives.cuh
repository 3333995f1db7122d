// Each primitive on given bits, so that a card and the emulation can be compared: where they agree,
// the emulation is evidence. One warp to a block.
#pragma once
#include "../hopper.cuh"

constexpr int TILE_WORDS = 512, LANE_WORDS = 24, RESULT_WORDS = 32;
constexpr int PRIMITIVE_INPUT = TILE_WORDS + 32 * LANE_WORDS, PRIMITIVE_OUTPUT = 32 * RESULT_WORDS;

struct PrimitiveArgs {
    const unsigned *in; ///< of each block: a tile of shared memory, then the words of each lane
    unsigned *out; ///< of each block and lane: words 0..8 loads, 8..12 copies, 12 rounding, 13..17
                   ///< products, 17 exp2, 18 ballot, 19 sums in bf16, 20 f16, 21 shuffle, 24..32
                   ///< vectors
};

__device__ __forceinline__ void run_primitives(const PrimitiveArgs &p) {
    SHARED_MEMORY(shared);
    const int lane = threadIdx.x & 31;
    unsigned *tile = reinterpret_cast<unsigned *>(shared), *copied = tile + TILE_WORDS;
    const unsigned *in = p.in + blockIdx.x * PRIMITIVE_INPUT,
                   *mine = in + TILE_WORDS + lane * LANE_WORDS;
    unsigned *out = p.out + blockIdx.x * PRIMITIVE_OUTPUT + lane * RESULT_WORDS;
    for (int i = lane; i < TILE_WORDS; i += 32) tile[i] = in[i];
    copy_async(copied + lane * 4, in + lane * 4, mine[0] & 1);
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    unsigned plain[4], transposed[4];
    load_matrices(plain, tile + mine[1] % (TILE_WORDS / 4) * 4);
    load_matrices_transposed(transposed, tile + mine[1] % (TILE_WORDS / 4) * 4);
    for (int i = 0; i < 4; i++) {
        out[i] = plain[i];
        out[4 + i] = transposed[i];
        out[8 + i] = copied[lane * 4 + i];
    }
    out[12] = pack_bf16(__int_as_float(static_cast<int>(mine[2])),
                        __int_as_float(static_cast<int>(mine[3])));
    float d[4];
    unsigned a[4];
    for (int i = 0; i < 4; i++) {
        d[i] = bf16_low(mine[8 + i]);
        a[i] = mine[12 + i];
    }
    multiply_add(d, a, mine[16], mine[17]);
    for (int i = 0; i < 4; i++) out[13 + i] = static_cast<unsigned>(__float_as_int(d[i]));
    out[17] = static_cast<unsigned>(__float_as_int(exp2_fast(bf16_high(mine[18]) * 8)));
    out[18] = __ballot_sync(~0u, mine[4] & 1);
    out[19] = add_bf16(mine[19], mine[20]);
    out[20] = static_cast<unsigned>(__float_as_int(from_f16(mine[3] & 0xffffbfff))); // below 2
    out[21] = __shfl_xor_sync(~0u, mine[0], 8);
    out[22] = out[23] = 0;
    unsigned four[4], two[2];
    load_words(four, mine + 4);
    store_words(out + 24, four);
    for (int i = 0; i < 2; i++) {
        load_words(two, mine + 2 * i);
        store_words(out + 28 + 2 * i, two);
    }
}

/// Words of a block's input for products of a warp group: tiles [64, D] and [D, D], and D / 16 · 4
/// words of a left operand for each of 128 threads. Results: [64, D] twice, D numbers to a thread.
template <int D> constexpr int GROUP_INPUT = (64 * D + D * D) / 2 + 128 * D / 4;
template <int D> constexpr int GROUP_OUTPUT = 128 * D;
template <int D> constexpr int GROUP_SHARED = (64 * D + D * D) * 2;

/// a · bᵀ from shared memory, then weights in registers · b.
template <int D> __device__ __forceinline__ void run_group_products(const PrimitiveArgs &p) {
    SHARED_MEMORY(shared);
    const Panels<D, 64> a{reinterpret_cast<bf16 *>(shared)};
    const Panels<D, D> b{a.data + a.ELEMENTS};
    const unsigned *in = p.in + blockIdx.x * GROUP_INPUT<D>;
    const bf16 *rows = reinterpret_cast<const bf16 *>(in);
    a.template load<128>(rows, D, 0, 64);
    b.template load<128>(rows + 64 * D, D, 0, D);
    copies_commit();
    copies_wait<0>();
    publish_copies();
    __syncthreads();
    unsigned weights[D / 16][4];
    for (int k = 0; k < D / 16; k++)
        for (int i = 0; i < 4; i++)
            weights[k][i] = in[(64 * D + D * D) / 2 + (k * 4 + i) * 128 + threadIdx.x];
    float scores[1][D / 8][4], sums[1][D / 8][4];
    zero(sums);
    products_begin();
    start_rows<D, 64, D>(scores, a, 0, b);
    start_weighted_rows<D, D>(sums, weights, b);
    products_wait<0>();
    unsigned *out = p.out + blockIdx.x * GROUP_OUTPUT<D> + threadIdx.x * D;
    for (int n = 0; n < D / 8; n++)
        for (int i = 0; i < 4; i++) {
            out[n * 4 + i] = static_cast<unsigned>(__float_as_int(scores[0][n][i]));
            out[D / 2 + n * 4 + i] = static_cast<unsigned>(__float_as_int(sums[0][n][i]));
        }
}

extern "C" {
__global__ void check_primitives(PrimitiveArgs p) { run_primitives(p); }
__global__ void check_group_products_64(PrimitiveArgs p) { HOPPER((run_group_products<64>(p))); }
__global__ void check_group_products_128(PrimitiveArgs p) { HOPPER((run_group_products<128>(p))); }
}
