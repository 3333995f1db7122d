// Attention forward: out = softmax(scale · q kᵀ over visible keys) v, and log Σ exp of each query,
// kept for the gradients. A query that sees nothing yields zeros and −∞.
#pragma once
#include "attention.cuh"

struct SightArgs {
    Mask mask;
    Sight *sights;
};

/// Sums up what 32 queries see, once for all layers of a pass. One warp makes one sight.
__device__ __forceinline__ void make_sight(const SightArgs &p) {
    const int lane = threadIdx.x & 31, sight = blockIdx.x * (blockDim.x / 32) + (threadIdx.x >> 5),
              row = sight * SIGHT + lane;
    const bool there = row < p.mask.q_len;
    const Sight made =
        sight_of(there ? p.mask.ranges_of(blockIdx.y)[row] : make_int4(0, 0, 0, 0), there);
    if (lane == 0 && sight < p.mask.n_sights())
        p.sights[(long long)blockIdx.y * p.mask.n_sights() + sight] = made;
}

/// A block takes ROWS · WARPS queries of one head and goes over tiles of KEYS keys: while one is
/// computed, the next comes.
template <int D, int ROWS, int WARPS, int KEYS>
__device__ __forceinline__ void attention_forward(const ForwardArgs &p) {
    constexpr int QUERIES = ROWS * WARPS, BANDS = ROWS / 16, THREADS = WARPS * 32, TILE = KEYS * D;
    SHARED_MEMORY(shared);
    bf16 *q_tile = reinterpret_cast<bf16 *>(shared),
         *stages = q_tile + QUERIES * D; // a stage: keys, values
    const int warp = threadIdx.x >> 5;
    // Later queries see more under most masks: they begin first, so that no long block begins last.
    const int q0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, b = blockIdx.z,
              kv_head = head / (p.heads / p.kv_heads);
    const Mask &mask = p.mask;
    const int row = q0 + warp * ROWS;

    const int tiles = (mask.kv_len + KEYS - 1) / KEYS;
    Walk walk;
    const auto next_tile = [&] {
        return walk.next(tiles, [&](int i) {
            const int4 some = hull<QUERIES / SIGHT>(mask.sights_of(b), q0 / SIGHT, mask.n_sights());
            return sees_some(some, mask.prefix, i * KEYS, (i + 1) * KEYS);
        });
    };
    const auto load = [&](int tile, int stage) {
        load_tile<D, KEYS, THREADS>(stages + stage, p.k.at(b, kv_head), p.k.row, tile * KEYS,
                                    mask.kv_len);
        load_tile<D, KEYS, THREADS>(stages + stage + TILE, p.v.at(b, kv_head), p.v.row, tile * KEYS,
                                    mask.kv_len);
    };
    load_tile<D, QUERIES, THREADS>(q_tile, p.q.at(b, head), p.q.row, q0, mask.q_len);
    int tile = next_tile();
    if (tile >= 0) load(tile, 0);
    copies_commit();

    float out[BANDS][D / 8][4], most[BANDS][2], sum[BANDS][2];
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
        most[m][0] = most[m][1] = NOTHING;
        sum[m][0] = sum[m][1] = 0;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            out[m][d][0] = out[m][d][1] = out[m][d][2] = out[m][d][3] = 0;
    }
    for (int stage = 0; tile >= 0; stage ^= 2 * TILE) {
        const int key0 = tile * KEYS;
        copies_wait<0>();
        __syncthreads(); // this tile is here for all, and nobody reads the other stage any more
        tile = next_tile();
        if (tile >= 0) load(tile, stage ^ 2 * TILE);
        copies_commit();
        const bf16 *k_tile = stages + stage;
        float s[BANDS][KEYS / 8][4];
        multiply_rows<D, BANDS, KEYS>(s, q_tile, warp * ROWS, k_tile);
        if (row < mask.q_len &&
            !sees_all(mask.sights_of(b)[row / SIGHT].all, mask.prefix, key0, key0 + KEYS))
            hide<BANDS, KEYS>(s, mask, b, row, key0);
        weigh<D, BANDS, KEYS>(s, out, most, sum, p.scale_log2);
        add_weighted_rows<D, BANDS, KEYS>(out, s, k_tile + TILE);
    }
    copies_wait<0>();
    float inverse[BANDS][2];
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float total = sum_of_four(sum[m][half]);
            inverse[m][half] = total == 0 ? 0.f : 1 / total;
            const int query = row + m * 16 + half * 8 + (lane >> 2);
            if (lane % 4 == 0 && query < mask.q_len)
                p.log_sums[((long long)b * p.heads + head) * mask.q_len + query] =
                    total == 0 ? NOTHING : most[m][half] * p.scale_log2 * LN_2 + logf(total);
        }
    store_rows<D, BANDS>(out, inverse, p.out.at(b, head), p.out.row, row, mask.q_len);
}

extern "C" {
__global__ void __launch_bounds__(128) attention_sights(SightArgs p) { make_sight(p); }
__global__ void __launch_bounds__(128, 2) attention_forward_64(ForwardArgs p) {
    attention_forward<64, 32, 4, 64>(p);
}
__global__ void __launch_bounds__(128, 2) attention_forward_128(ForwardArgs p) {
    LARGE((attention_forward<128, 32, 4, 64>(p)));
}
__global__ void __launch_bounds__(128, 2) attention_forward_128_small(ForwardArgs p) {
    attention_forward<128, 16, 4, 32>(p);
}
}
