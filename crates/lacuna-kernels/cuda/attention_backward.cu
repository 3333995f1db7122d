// Attention backward, deterministic and without atomics: one kernel goes over keys for each tile of
// queries and makes their gradient, another goes over queries for each tile of keys and makes the
// gradients of keys and values.
//
//   p = exp(scale · q kᵀ − log_sum)     dv = pᵀ d_out     ds = p ∘ (d_out vᵀ − delta)     delta = Σ
//   out ∘ d_out dq = scale · ds k                   dk = scale · dsᵀ q
#pragma once
#include "attention.cuh"

/// log2 Σ exp and delta of each query; +∞, so that no weight is left, where nothing is seen and
/// beyond the last query. One warp takes one query.
template <int D> __device__ __forceinline__ void backward_rows(const BackwardArgs &p) {
    const int lane = threadIdx.x & 31, query = blockIdx.x * (blockDim.x / 32) + (threadIdx.x >> 5),
              head = blockIdx.y, b = blockIdx.z;
    const int q_len = p.mask.q_len;
    float delta = 0, log_sum = EVERYTHING;
    if (query < q_len) {
        const auto *out = reinterpret_cast<const unsigned *>(p.out.at(b, head) + query * p.out.row);
        const auto *d_out =
            reinterpret_cast<const unsigned *>(p.d_out.at(b, head) + query * p.d_out.row);
#pragma unroll
        for (int i = lane; i < D / 2; i += 32)
            delta +=
                bf16_low(out[i]) * bf16_low(d_out[i]) + bf16_high(out[i]) * bf16_high(d_out[i]);
        log_sum = p.log_sums[((long long)b * p.heads + head) * q_len + query] * LOG2_E;
        if (log_sum == NOTHING) log_sum = EVERYTHING;
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) delta += __shfl_xor_sync(~0u, delta, step);
    if (lane == 0) p.rows_of(b, head)[query] = make_float2(log_sum, delta);
}

/// dq: a block takes ROWS · WARPS queries of one head and goes over tiles of KEYS keys.
template <int D, int ROWS, int WARPS, int KEYS>
__device__ __forceinline__ void backward_queries(const BackwardArgs &p) {
    constexpr int QUERIES = ROWS * WARPS, BANDS = ROWS / 16, THREADS = WARPS * 32, TILE = KEYS * D;
    SHARED_MEMORY(shared);
    bf16 *q_tile = reinterpret_cast<bf16 *>(shared), *d_out_tile = q_tile + QUERIES * D,
         *stages = d_out_tile + QUERIES * D;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
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
        load_tile<D, KEYS, THREADS>(stages + stage * 2 * TILE, p.k.at(b, kv_head), p.k.row,
                                    tile * KEYS, mask.kv_len);
        load_tile<D, KEYS, THREADS>(stages + stage * 2 * TILE + TILE, p.v.at(b, kv_head), p.v.row,
                                    tile * KEYS, mask.kv_len);
    };
    load_tile<D, QUERIES, THREADS>(q_tile, p.q.at(b, head), p.q.row, q0, mask.q_len);
    load_tile<D, QUERIES, THREADS>(d_out_tile, p.d_out.at(b, head), p.d_out.row, q0, mask.q_len);
    int tile = next_tile();
    if (tile >= 0) load(tile, 0);
    copies_commit();

    float2 stats[BANDS][2];
    float d_q[BANDS][D / 8][4];
#pragma unroll
    for (int m = 0; m < BANDS; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++)
            stats[m][half] = p.rows_of(b, head)[row + m * 16 + half * 8 + (lane >> 2)];
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            d_q[m][d][0] = d_q[m][d][1] = d_q[m][d][2] = d_q[m][d][3] = 0;
    }
    for (int stage = 0; tile >= 0; stage ^= 1) {
        const int key0 = tile * KEYS;
        copies_wait<0>();
        __syncthreads(); // this tile is here for all, and nobody reads the other stage any more
        tile = next_tile();
        if (tile >= 0) load(tile, stage ^ 1);
        copies_commit();
        const bf16 *k_tile = stages + stage * 2 * TILE, *v_tile = k_tile + TILE;
        float s[BANDS][KEYS / 8][4], d_p[BANDS][KEYS / 8][4];
        multiply_rows<D, BANDS, KEYS>(s, q_tile, warp * ROWS, k_tile);
        if (row < mask.q_len &&
            !sees_all(mask.sights_of(b)[row / SIGHT].all, mask.prefix, key0, key0 + KEYS))
            hide<BANDS, KEYS>(s, mask, b, row, key0);
#pragma unroll
        for (int m = 0; m < BANDS; m++)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[m][n][i] = exp2_fast(s[m][n][i] * p.scale_log2 - stats[m][i / 2].x);
        multiply_rows<D, BANDS, KEYS>(d_p, d_out_tile, warp * ROWS, v_tile);
#pragma unroll
        for (int m = 0; m < BANDS; m++)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[m][n][i] *= d_p[m][n][i] - stats[m][i / 2].y;
        add_weighted_rows<D, BANDS, KEYS>(d_q, s, k_tile);
    }
    copies_wait<0>();
    float scale[BANDS][2];
#pragma unroll
    for (int m = 0; m < BANDS; m++) scale[m][0] = scale[m][1] = p.scale_log2 * LN_2;
    store_rows<D, BANDS>(d_q, scale, p.d_q.at(b, head), p.d_q.row, row, mask.q_len);
}

/// dk and dv: a block takes ROWS · WARPS keys of one head and goes over tiles of QUERIES queries of
/// all heads that read it. Products stand on their side, keys in rows: so weights and their
/// gradients are left operands as they come.
template <int D, int ROWS, int WARPS, int QUERIES>
__device__ __forceinline__ void backward_keys(const BackwardArgs &p) {
    constexpr int KEYS = ROWS * WARPS, BANDS = ROWS / 16, THREADS = WARPS * 32, TILE = QUERIES * D;
    SHARED_MEMORY(shared);
    bf16 *k_tile = reinterpret_cast<bf16 *>(shared), *v_tile = k_tile + KEYS * D,
         *stages = v_tile + KEYS * D;
    float2 *row_stages = reinterpret_cast<float2 *>(stages + 4 * TILE);
    const int warp = threadIdx.x >> 5, t = threadIdx.x & 3;
    const int key0 = blockIdx.x * KEYS, kv_head = blockIdx.y, b = blockIdx.z,
              group = p.heads / p.kv_heads;
    const Mask &mask = p.mask;
    const int row = key0 + warp * ROWS; // this warp's first key

    const int tiles = (mask.q_len + QUERIES - 1) / QUERIES;
    Walk walk;
    int head = kv_head * group;
    const auto next_tile = [&] {
        for (; head < (kv_head + 1) * group; head++, walk = Walk{}) {
            const int next = walk.next(tiles, [&](int i) {
                const int4 some = hull<QUERIES / SIGHT>(mask.sights_of(b), i * (QUERIES / SIGHT),
                                                        mask.n_sights());
                return sees_some(some, mask.prefix, key0, key0 + KEYS);
            });
            if (next >= 0) return next;
        }
        return -1;
    };
    const auto load = [&](int tile, int stage) {
        const int q0 = tile * QUERIES;
        load_tile<D, QUERIES, THREADS>(stages + stage * 2 * TILE, p.q.at(b, head), p.q.row, q0,
                                       mask.q_len);
        load_tile<D, QUERIES, THREADS>(stages + stage * 2 * TILE + TILE, p.d_out.at(b, head),
                                       p.d_out.row, q0, mask.q_len);
        if (threadIdx.x < QUERIES / 2)
            copy_async(row_stages + stage * QUERIES + threadIdx.x * 2,
                       p.rows_of(b, head) + q0 + threadIdx.x * 2, true);
    };
    load_tile<D, KEYS, THREADS>(k_tile, p.k.at(b, kv_head), p.k.row, key0, mask.kv_len);
    load_tile<D, KEYS, THREADS>(v_tile, p.v.at(b, kv_head), p.v.row, key0, mask.kv_len);
    int tile = next_tile();
    if (tile >= 0) load(tile, 0);
    copies_commit();

    float d_k[BANDS][D / 8][4], d_v[BANDS][D / 8][4];
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int d = 0; d < D / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++) d_k[m][d][i] = d_v[m][d][i] = 0;
    for (int stage = 0; tile >= 0; stage ^= 1) {
        const int q0 = tile * QUERIES;
        copies_wait<0>();
        __syncthreads(); // this tile is here for all, and nobody reads the other stage any more
        tile = next_tile();
        if (tile >= 0) load(tile, stage ^ 1);
        copies_commit();
        const bf16 *q_tile = stages + stage * 2 * TILE, *d_out_tile = q_tile + TILE;
        const float2 *stats = row_stages + stage * QUERIES;
        float p_t[BANDS][QUERIES / 8][4], d_p[BANDS][QUERIES / 8][4];
        multiply_rows<D, BANDS, QUERIES>(p_t, k_tile, warp * ROWS, q_tile);
        bool whole = true;
#pragma unroll
        for (int i = 0; i < QUERIES / SIGHT; i++)
            if (q0 / SIGHT + i < mask.n_sights())
                whole &=
                    sees_all(mask.sights_of(b)[q0 / SIGHT + i].all, mask.prefix, row, row + ROWS);
        if (!whole) hide_transposed<BANDS, QUERIES>(p_t, mask, b, row, q0);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float log_sum = stats[n * 8 + 2 * t + (i & 1)].x;
#pragma unroll
                for (int m = 0; m < BANDS; m++)
                    p_t[m][n][i] = exp2_fast(p_t[m][n][i] * p.scale_log2 - log_sum);
            }
        add_weighted_rows<D, BANDS, QUERIES>(d_v, p_t, d_out_tile);
        multiply_rows<D, BANDS, QUERIES>(d_p, v_tile, warp * ROWS, d_out_tile);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float delta = stats[n * 8 + 2 * t + (i & 1)].y;
#pragma unroll
                for (int m = 0; m < BANDS; m++) p_t[m][n][i] *= d_p[m][n][i] - delta;
            }
        add_weighted_rows<D, BANDS, QUERIES>(d_k, p_t, q_tile);
    }
    copies_wait<0>();
    float scale[BANDS][2], one[BANDS][2];
#pragma unroll
    for (int m = 0; m < BANDS; m++)
        scale[m][0] = scale[m][1] = p.scale_log2 * LN_2, one[m][0] = one[m][1] = 1;
    store_rows<D, BANDS>(d_k, scale, p.d_k.at(b, kv_head), p.d_k.row, row, mask.kv_len);
    store_rows<D, BANDS>(d_v, one, p.d_v.at(b, kv_head), p.d_v.row, row, mask.kv_len);
}

extern "C" {
__global__ void __launch_bounds__(128) attention_backward_rows_64(BackwardArgs p) {
    backward_rows<64>(p);
}
__global__ void __launch_bounds__(128) attention_backward_rows_128(BackwardArgs p) {
    backward_rows<128>(p);
}
__global__ void __launch_bounds__(128, 2) attention_backward_queries_64(BackwardArgs p) {
    backward_queries<64, 32, 4, 64>(p);
}
__global__ void __launch_bounds__(128, 2) attention_backward_queries_64_small(BackwardArgs p) {
    backward_queries<64, 32, 4, 32>(p);
}
__global__ void __launch_bounds__(128, 2) attention_backward_queries_128(BackwardArgs p) {
    LARGE((backward_queries<128, 32, 4, 32>(p)));
}
__global__ void __launch_bounds__(128, 2) attention_backward_queries_128_small(BackwardArgs p) {
    backward_queries<128, 16, 4, 32>(p);
}
__global__ void __launch_bounds__(128, 2) attention_backward_keys_64(BackwardArgs p) {
    backward_keys<64, 32, 4, 32>(p);
}
__global__ void __launch_bounds__(128, 2) attention_backward_keys_128(BackwardArgs p) {
    LARGE((backward_keys<128, 16, 4, 64>(p)));
}
__global__ void __launch_bounds__(128, 2) attention_backward_keys_128_small(BackwardArgs p) {
    backward_keys<128, 16, 4, 32>(p);
}
}
