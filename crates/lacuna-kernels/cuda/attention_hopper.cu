// Attention for sm_90a: the kernels of attention_forward.cu and attention_backward.cu again, with
// products of warp groups, which read both operands from shared memory and go on while the group
// computes.
#pragma once
#include "hopper.cuh"

/// A block takes 64 queries of one head for each of its GROUPS warp groups and goes over tiles of
/// KEYS keys. The scores of a tile are formed while the weights of the one before meet their
/// values; so keys are loaded a tile ahead of values.
template <int D, int GROUPS, int KEYS>
__device__ __forceinline__ void hopper_forward(const ForwardArgs &p) {
    constexpr int QUERIES = 64 * GROUPS, THREADS = 128 * GROUPS;
    using Queries = Panels<D, QUERIES>;
    using Keys = Panels<D, KEYS>;
    SHARED_MEMORY(shared);
    const Queries q{reinterpret_cast<bf16 *>(shared)};
    bf16 *stages = q.data + Queries::ELEMENTS;
    const auto k = [&](int stage) { return Keys{stages + stage * Keys::ELEMENTS}; };
    const auto v = [&](int stage) { return Keys{stages + (2 + stage) * Keys::ELEMENTS}; };
    const int warp = this_warp(), group_row = warp / 4 * 64;
    const int q0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, b = blockIdx.z,
              kv_head = head / (p.heads / p.kv_heads);
    const Mask &mask = p.mask;
    const int row = q0 + warp * 16;

    const int tiles = (mask.kv_len + KEYS - 1) / KEYS;
    Walk walk;
    const auto next_tile = [&] {
        return walk.next(tiles, [&](int i) {
            const int4 some = hull<QUERIES / SIGHT>(mask.sights_of(b), q0 / SIGHT, mask.n_sights());
            return sees_some(some, mask.prefix, i * KEYS, (i + 1) * KEYS);
        });
    };
    const auto load_keys = [&](int tile, int stage) {
        k(stage).template load<THREADS>(p.k.at(b, kv_head), p.k.row, tile * KEYS, mask.kv_len);
    };
    const auto load_values = [&](int tile, int stage) {
        v(stage).template load<THREADS>(p.v.at(b, kv_head), p.v.row, tile * KEYS, mask.kv_len);
    };

    float out[1][D / 8][4], s[1][KEYS / 8][4], most[2] = {NOTHING, NOTHING}, sum[2] = {0, 0},
                                               fade[2];
    unsigned weights[KEYS / 16][4];
    zero(out);
    // Scores become weights relative to the largest score so far; `fade` is what earlier ones
    // shrink by.
    const auto weigh = [&](int key0) {
        if (row < mask.q_len &&
            !sees_all(mask.sights_of(b)[row / SIGHT].all, mask.prefix, key0, key0 + KEYS))
            hide<1, KEYS>(s, mask, b, row, key0);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float max = most[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                max = fmaxf(max, fmaxf(s[0][n][2 * half], s[0][n][2 * half + 1]));
            max = max_of_four(max);
            fade[half] = max == NOTHING ? 1 : exp2_fast((most[half] - max) * p.scale_log2);
            most[half] = max;
            sum[half] *= fade[half];
        }
        float base[2];
#pragma unroll
        for (int half = 0; half < 2; half++)
            base[half] = most[half] == NOTHING ? 0.f : most[half] * p.scale_log2;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[i / 2] += s[0][n][i] = exp2_fast(s[0][n][i] * p.scale_log2 - base[i / 2]);
    };

    q.template load<THREADS>(p.q.at(b, head), p.q.row, q0, mask.q_len);
    int tile = next_tile(), stage = 0;
    if (tile >= 0) {
        load_keys(tile, 0);
        load_values(tile, 0);
    }
    copies_commit();
    copies_wait<0>();
    publish_copies();
    __syncthreads(); // the first tile is here for all
    if (tile >= 0) {
        int next = next_tile();
        if (next >= 0) load_keys(next, 1);
        copies_commit();
        products_begin();
        start_rows<D, QUERIES, KEYS>(s, q, group_row, k(0));
        products_wait<0>();
        weigh(tile * KEYS);
        pack<KEYS>(weights, s);
        for (; next >= 0; stage ^= 1) {
            copies_wait<0>();
            publish_copies();
            __syncthreads(); // the next keys are here for all; nobody reads these keys or the last
                             // values any more
            const int now = next;
            load_values(now, stage ^ 1);
            next = next_tile();
            if (next >= 0) load_keys(next, stage);
            copies_commit();
            products_begin();
            start_rows<D, QUERIES, KEYS>(s, q, group_row, k(stage ^ 1));
            start_weighted_rows<D, KEYS>(out, weights, v(stage));
            products_wait<1>();
            weigh(now * KEYS);
            products_wait<0>();
#pragma unroll
            for (int d = 0; d < D / 8; d++)
#pragma unroll
                for (int i = 0; i < 4; i++) out[0][d][i] *= fade[i / 2];
            pack<KEYS>(weights, s);
        }
        copies_wait<0>();
        publish_copies();
        __syncthreads(); // the last values are here for all
        products_begin();
        start_weighted_rows<D, KEYS>(out, weights, v(stage));
        products_wait<0>();
    }
    float inverse[1][2];
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = sum_of_four(sum[half]);
        inverse[0][half] = total == 0 ? 0.f : 1 / total;
        const int query = row + half * 8 + (lane >> 2);
        if (lane % 4 == 0 && query < mask.q_len)
            p.log_sums[((long long)b * p.heads + head) * mask.q_len + query] =
                total == 0 ? NOTHING : most[half] * p.scale_log2 * LN_2 + logf(total);
    }
    store_rows<D, 1>(out, inverse, p.out.at(b, head), p.out.row, row, mask.q_len);
}

/// dq: a block takes 64 queries of one head for each warp group and goes over tiles of KEYS keys.
template <int D, int GROUPS, int KEYS>
__device__ __forceinline__ void hopper_backward_queries(const BackwardArgs &p) {
    constexpr int QUERIES = 64 * GROUPS, THREADS = 128 * GROUPS;
    using Queries = Panels<D, QUERIES>;
    using Keys = Panels<D, KEYS>;
    SHARED_MEMORY(shared);
    const Queries q{reinterpret_cast<bf16 *>(shared)}, d_out{q.data + Queries::ELEMENTS};
    bf16 *stages = d_out.data + Queries::ELEMENTS;
    const auto k = [&](int stage) { return Keys{stages + stage * 2 * Keys::ELEMENTS}; };
    const auto v = [&](int stage) { return Keys{stages + (stage * 2 + 1) * Keys::ELEMENTS}; };
    const int warp = this_warp(), group_row = warp / 4 * 64;
    const int q0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, b = blockIdx.z,
              kv_head = head / (p.heads / p.kv_heads);
    const Mask &mask = p.mask;
    const int row = q0 + warp * 16;

    const int tiles = (mask.kv_len + KEYS - 1) / KEYS;
    Walk walk;
    const auto next_tile = [&] {
        return walk.next(tiles, [&](int i) {
            const int4 some = hull<QUERIES / SIGHT>(mask.sights_of(b), q0 / SIGHT, mask.n_sights());
            return sees_some(some, mask.prefix, i * KEYS, (i + 1) * KEYS);
        });
    };
    const auto load = [&](int tile, int stage) {
        k(stage).template load<THREADS>(p.k.at(b, kv_head), p.k.row, tile * KEYS, mask.kv_len);
        v(stage).template load<THREADS>(p.v.at(b, kv_head), p.v.row, tile * KEYS, mask.kv_len);
    };
    q.template load<THREADS>(p.q.at(b, head), p.q.row, q0, mask.q_len);
    d_out.template load<THREADS>(p.d_out.at(b, head), p.d_out.row, q0, mask.q_len);
    int tile = next_tile();
    if (tile >= 0) load(tile, 0);
    copies_commit();

    float2 stats[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
        stats[half] = p.rows_of(b, head)[row + half * 8 + (threadIdx.x & 31) / 4];
    float d_q[1][D / 8][4];
    zero(d_q);
    for (int stage = 0; tile >= 0;) {
        const int key0 = tile * KEYS, now = stage;
        copies_wait<0>();
        publish_copies();
        __syncthreads(); // this tile is here for all, and nobody reads the next stage any more
        tile = next_tile();
        stage ^= 1;
        if (tile >= 0) load(tile, stage);
        copies_commit();
        float s[1][KEYS / 8][4], d_p[1][KEYS / 8][4];
        products_begin();
        start_rows<D, QUERIES, KEYS>(s, q, group_row, k(now));
        start_rows<D, QUERIES, KEYS>(d_p, d_out, group_row, v(now));
        products_wait<1>();
        if (row < mask.q_len &&
            !sees_all(mask.sights_of(b)[row / SIGHT].all, mask.prefix, key0, key0 + KEYS))
            hide<1, KEYS>(s, mask, b, row, key0);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[0][n][i] = exp2_fast(s[0][n][i] * p.scale_log2 - stats[i / 2].x);
        products_wait<0>();
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[0][n][i] *= d_p[0][n][i] - stats[i / 2].y;
        unsigned weights[KEYS / 16][4];
        pack<KEYS>(weights, s);
        products_begin();
        start_weighted_rows<D, KEYS>(d_q, weights, k(now));
        products_wait<0>();
    }
    copies_wait<0>();
    products_wait<0>();
    const float scale[1][2] = {{p.scale_log2 * LN_2, p.scale_log2 * LN_2}};
    store_rows<D, 1>(d_q, scale, p.d_q.at(b, head), p.d_q.row, row, mask.q_len);
}

/// dk and dv: a block takes 64 keys of one head for each warp group and goes over tiles of QUERIES
/// queries of all heads that read it; keys stand in rows.
template <int D, int GROUPS, int QUERIES>
__device__ __forceinline__ void hopper_backward_keys(const BackwardArgs &p) {
    constexpr int KEYS = 64 * GROUPS, THREADS = 128 * GROUPS;
    using Queries = Panels<D, QUERIES>;
    using Keys = Panels<D, KEYS>;
    SHARED_MEMORY(shared);
    const Keys k{reinterpret_cast<bf16 *>(shared)}, v{k.data + Keys::ELEMENTS};
    bf16 *stages = v.data + Keys::ELEMENTS;
    float2 *row_stages = reinterpret_cast<float2 *>(stages + 4 * Queries::ELEMENTS);
    const auto q = [&](int stage) { return Queries{stages + stage * 2 * Queries::ELEMENTS}; };
    const auto d_out = [&](int stage) {
        return Queries{stages + (stage * 2 + 1) * Queries::ELEMENTS};
    };
    const int warp = this_warp(), group_row = warp / 4 * 64, t = threadIdx.x & 3;
    const int key0 = blockIdx.x * KEYS, kv_head = blockIdx.y, b = blockIdx.z,
              group = p.heads / p.kv_heads;
    const Mask &mask = p.mask;
    const int row = key0 + warp * 16; // this warp's first key

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
        q(stage).template load<THREADS>(p.q.at(b, head), p.q.row, q0, mask.q_len);
        d_out(stage).template load<THREADS>(p.d_out.at(b, head), p.d_out.row, q0, mask.q_len);
        if (threadIdx.x < QUERIES / 2)
            copy_async(row_stages + stage * QUERIES + threadIdx.x * 2,
                       p.rows_of(b, head) + q0 + threadIdx.x * 2, true);
    };
    k.template load<THREADS>(p.k.at(b, kv_head), p.k.row, key0, mask.kv_len);
    v.template load<THREADS>(p.v.at(b, kv_head), p.v.row, key0, mask.kv_len);
    int tile = next_tile();
    if (tile >= 0) load(tile, 0);
    copies_commit();

    float d_k[1][D / 8][4], d_v[1][D / 8][4];
    zero(d_k), zero(d_v);
    for (int stage = 0; tile >= 0;) {
        const int q0 = tile * QUERIES, now = stage;
        copies_wait<0>();
        publish_copies();
        __syncthreads(); // this tile is here for all, and nobody reads the next stage any more
        tile = next_tile();
        stage ^= 1;
        if (tile >= 0) load(tile, stage);
        copies_commit();
        const float2 *stats = row_stages + now * QUERIES;
        float p_t[1][QUERIES / 8][4], d_p[1][QUERIES / 8][4];
        products_begin();
        start_rows<D, KEYS, QUERIES>(p_t, k, group_row, q(now));
        start_rows<D, KEYS, QUERIES>(d_p, v, group_row, d_out(now));
        bool whole = true;
#pragma unroll
        for (int i = 0; i < QUERIES / SIGHT; i++)
            if (q0 / SIGHT + i < mask.n_sights())
                whole &=
                    sees_all(mask.sights_of(b)[q0 / SIGHT + i].all, mask.prefix, row, row + 16);
        products_wait<1>();
        if (!whole) hide_transposed<1, QUERIES>(p_t, mask, b, row, q0);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p_t[0][n][i] =
                    exp2_fast(p_t[0][n][i] * p.scale_log2 - stats[n * 8 + 2 * t + (i & 1)].x);
        unsigned weights[QUERIES / 16][4], d_weights[QUERIES / 16][4];
        pack<QUERIES>(weights, p_t);
        products_begin();
        start_weighted_rows<D, QUERIES>(d_v, weights, d_out(now));
        products_wait<1>();
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p_t[0][n][i] *= d_p[0][n][i] - stats[n * 8 + 2 * t + (i & 1)].y;
        pack<QUERIES>(d_weights, p_t);
        products_begin();
        start_weighted_rows<D, QUERIES>(d_k, d_weights, q(now));
        products_wait<0>();
    }
    copies_wait<0>();
    products_wait<0>();
    const float scale[1][2] = {{p.scale_log2 * LN_2, p.scale_log2 * LN_2}}, one[1][2] = {{1, 1}};
    store_rows<D, 1>(d_k, scale, p.d_k.at(b, kv_head), p.d_k.row, row, mask.kv_len);
    store_rows<D, 1>(d_v, one, p.d_v.at(b, kv_head), p.d_v.row, row, mask.kv_len);
}

extern "C" {
__global__ void __launch_bounds__(128, 4) attention_forward_64_hopper(ForwardArgs p) {
    HOPPER((hopper_forward<64, 1, 64>(p)));
}
__global__ void __launch_bounds__(256, 1) attention_forward_128_hopper(ForwardArgs p) {
    HOPPER((hopper_forward<128, 2, 128>(p)));
}
__global__ void __launch_bounds__(128, 4) attention_backward_queries_64_hopper(BackwardArgs p) {
    HOPPER((hopper_backward_queries<64, 1, 64>(p)));
}
__global__ void __launch_bounds__(256, 1) attention_backward_queries_128_hopper(BackwardArgs p) {
    HOPPER((hopper_backward_queries<128, 2, 128>(p)));
}
__global__ void __launch_bounds__(128, 3) attention_backward_keys_64_hopper(BackwardArgs p) {
    HOPPER((hopper_backward_keys<64, 1, 64>(p)));
}
__global__ void __launch_bounds__(128, 2) attention_backward_keys_128_hopper(BackwardArgs p) {
    HOPPER((hopper_backward_keys<128, 1, 64>(p)));
}
}
