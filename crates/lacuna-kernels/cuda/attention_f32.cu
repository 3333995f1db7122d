// Attention on numbers of f32, forward and backward, for runs that bf16 is too coarse for: who sees
// what, which tiles are skipped, the order of sums and the two kernels of the way back are those of
// attention_forward.cu and attention_backward.cu. Tensor cores have no product of f32, so these are
// plain multiplications, and operands come from shared memory four numbers at a time.
//
// A block's 128 threads are 16 groups of eight lanes. A group has ROWS rows of the block's own
// tile; of a tile that the block goes over, a lane has every eighth row, and of a row of results
// every eighth vector of four.
#pragma once
#include "attention.cuh"

constexpr int GROUP_LANES = 8, GROUPS = 16, F32_THREADS = GROUP_LANES * GROUPS;
/// Rows of a tile that a block goes over, and how many of them a lane has.
constexpr int OVER = 32, OF_LANE = OVER / GROUP_LANES;
/// Rows of a group: forward, where sums of one kind are kept, and backward, where there are two.
constexpr int FORWARD_ROWS = 4, BACKWARD_ROWS = 2;

/// Numbers from one row of a tile to the next: four more than a row has, so that the eight rows
/// which lanes read at a time lie in other banks.
template <int D> constexpr int ROW_STRIDE = D + 4;
/// The same where a tile's weights are kept, a row for each row of the tile that is gone over.
template <int ROWS> constexpr int WEIGHT_STRIDE = GROUPS * ROWS + 4;

// Bytes of shared memory that a block takes.
constexpr int forward_f32_shared(int d) {
    return ((GROUPS * FORWARD_ROWS + 2 * OVER) * (d + 4) + OVER * WEIGHT_STRIDE<FORWARD_ROWS>)*4;
}
constexpr int backward_f32_shared(int d) {
    return ((2 * GROUPS * BACKWARD_ROWS + 2 * OVER) * (d + 4) +
            OVER * WEIGHT_STRIDE<BACKWARD_ROWS>)*4;
}

__device__ __forceinline__ int lane_of_eight() { return threadIdx.x % GROUP_LANES; }
/// The first row of this thread's group.
template <int ROWS> __device__ __forceinline__ int group_row() {
    return threadIdx.x / GROUP_LANES * ROWS;
}
/// The first row of its warp's.
template <int ROWS> __device__ __forceinline__ int warp_row() {
    return threadIdx.x / 32 * (32 / GROUP_LANES * ROWS);
}
__device__ __forceinline__ float4 four(const float *at) {
    return *reinterpret_cast<const float4 *>(at);
}
/// Over the lanes of a group.
__device__ __forceinline__ float sum_of_group(float x) {
    x = sum_of_four(x);
    return x + __shfl_xor_sync(~0u, x, 4);
}
__device__ __forceinline__ float max_of_group(float x) {
    x = max_of_four(x);
    return fmaxf(x, __shfl_xor_sync(~0u, x, 4));
}

/// Starts to copy rows `first..` into a tile; rows from `count` on become zeros.
template <int D, int ROWS>
__device__ __forceinline__ void load_floats(float *tile, const float *rows, int stride, int first,
                                            int count) {
    constexpr int CHUNKS = D / 4, STEP = F32_THREADS / CHUNKS;
    static_assert(ROWS % STEP == 0);
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS * 4;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP)
        copy_async(tile + (row + i) * ROW_STRIDE<D> + chunk,
                   rows + (long long)(first + row + i) * stride + chunk, first + row + i < count);
}

/// sums = a · bᵀ: the group's rows of its own tile by the lane's rows of the tile that is gone over.
template <int D, int ROWS>
__device__ __forceinline__ void multiply_floats(float (&sums)[ROWS][OF_LANE], const float *a,
                                                const float *b) {
    a += group_row<ROWS>() * ROW_STRIDE<D>, b += lane_of_eight() * ROW_STRIDE<D>;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < OF_LANE; j++) sums[i][j] = 0;
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
        float4 left[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) left[i] = four(a + i * ROW_STRIDE<D> + d);
#pragma unroll
        for (int j = 0; j < OF_LANE; j++) {
            const float4 right = four(b + j * GROUP_LANES * ROW_STRIDE<D> + d);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                sums[i][j] = fmaf(left[i].x, right.x, sums[i][j]);
                sums[i][j] = fmaf(left[i].y, right.y, sums[i][j]);
                sums[i][j] = fmaf(left[i].z, right.z, sums[i][j]);
                sums[i][j] = fmaf(left[i].w, right.w, sums[i][j]);
            }
        }
    }
}

/// Hands a tile's weights to the other lanes of the group.
template <int ROWS>
__device__ __forceinline__ void share_weights(float *weights, const float (&w)[ROWS][OF_LANE]) {
#pragma unroll
    for (int j = 0; j < OF_LANE; j++)
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            weights[(lane_of_eight() + j * GROUP_LANES) * WEIGHT_STRIDE<ROWS> +
                    group_row<ROWS>() + i] = w[i][j];
}

/// Sums of rows of D numbers, the lane's vectors of them.
template <int D, int ROWS> using RowSums = float[ROWS][D / 4 / GROUP_LANES][4];

template <int D, int ROWS> __device__ __forceinline__ void clear(RowSums<D, ROWS> &sums) {
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int c = 0; c < D / 4 / GROUP_LANES; c++)
#pragma unroll
            for (int n = 0; n < 4; n++) sums[i][c][n] = 0;
}

/// sums += weights · b, by the rows of a tile.
template <int D, int ROWS>
__device__ __forceinline__ void add_weighted_floats(RowSums<D, ROWS> &sums, const float *weights,
                                                    const float *b) {
    weights += group_row<ROWS>(), b += lane_of_eight() * 4;
#pragma unroll 4
    for (int j = 0; j < OVER; j++) {
        float w[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) w[i] = weights[j * WEIGHT_STRIDE<ROWS> + i];
#pragma unroll
        for (int c = 0; c < D / 4 / GROUP_LANES; c++) {
            const float4 right = four(b + j * ROW_STRIDE<D> + c * GROUP_LANES * 4);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                sums[i][c][0] = fmaf(w[i], right.x, sums[i][c][0]);
                sums[i][c][1] = fmaf(w[i], right.y, sums[i][c][1]);
                sums[i][c][2] = fmaf(w[i], right.z, sums[i][c][2]);
                sums[i][c][3] = fmaf(w[i], right.w, sums[i][c][3]);
            }
        }
    }
}

/// Writes sums · scale as rows of a result, those below `count`; `first` is the block's first.
template <int D, int ROWS>
__device__ __forceinline__ void store_floats(const RowSums<D, ROWS> &sums,
                                             const float (&scale)[ROWS], float *rows, int stride,
                                             int first, int count) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int row = first + group_row<ROWS>() + i;
        if (row >= count) continue;
        float *to = rows + (long long)row * stride + lane_of_eight() * 4;
#pragma unroll
        for (int c = 0; c < D / 4 / GROUP_LANES; c++)
            *reinterpret_cast<float4 *>(to + c * GROUP_LANES * 4) =
                make_float4(sums[i][c][0] * scale[i], sums[i][c][1] * scale[i],
                            sums[i][c][2] * scale[i], sums[i][c][3] * scale[i]);
    }
}

/// Scores of queries `query..`, the group's first, and keys `key..` that the mask hides become −∞.
template <int ROWS>
__device__ __forceinline__ void hide_floats(float (&s)[ROWS][OF_LANE], const Mask &mask, int b,
                                            int query, int key) {
    const int4 *ranges = mask.ranges_of(b);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int4 range = query + i < mask.q_len ? ranges[query + i] : make_int4(0, 0, 0, 0);
#pragma unroll
        for (int j = 0; j < OF_LANE; j++)
            if (!sees(range, mask.prefix, key + lane_of_eight() + j * GROUP_LANES))
                s[i][j] = NOTHING;
    }
}
/// The same where keys stand in rows.
template <int ROWS>
__device__ __forceinline__ void hide_floats_transposed(float (&s)[ROWS][OF_LANE], const Mask &mask,
                                                       int b, int key, int query) {
    const int4 *ranges = mask.ranges_of(b);
#pragma unroll
    for (int j = 0; j < OF_LANE; j++) {
        const int column = query + lane_of_eight() + j * GROUP_LANES;
        const int4 range = column < mask.q_len ? ranges[column] : make_int4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (!sees(range, mask.prefix, key + i)) s[i][j] = NOTHING;
    }
}

/// The next tile of keys that one of a block's QUERIES sees, or −1.
template <int QUERIES>
__device__ __forceinline__ int next_keys(Walk &walk, const Mask &mask, int b, int query) {
    return walk.next((mask.kv_len + OVER - 1) / OVER, [&](int i) {
        const int4 some = hull<QUERIES / SIGHT>(mask.sights_of(b), query / SIGHT, mask.n_sights());
        return sees_some(some, mask.prefix, i * OVER, (i + 1) * OVER);
    });
}
/// Whether all queries of this thread's warp see all of a tile of keys.
template <int ROWS>
__device__ __forceinline__ bool sees_tile(const Mask &mask, int b, int query, int key) {
    const int row = query + warp_row<ROWS>();
    return row >= mask.q_len ||
           sees_all(mask.sights_of(b)[row / SIGHT].all, mask.prefix, key, key + OVER);
}

/// One step of a softmax over keys that come a tile at a time, as `weigh` in attention.cuh.
template <int D, int ROWS>
__device__ __forceinline__ void weigh_floats(float (&s)[ROWS][OF_LANE], RowSums<D, ROWS> &out,
                                             float (&most)[ROWS], float (&sum)[ROWS],
                                             float scale_log2) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        float max = most[i];
#pragma unroll
        for (int j = 0; j < OF_LANE; j++) max = fmaxf(max, s[i][j]);
        max = max_of_group(max);
        const float fade = max == NOTHING ? 1 : exp2_fast((most[i] - max) * scale_log2),
                    base = max == NOTHING ? 0 : max * scale_log2;
        most[i] = max;
        sum[i] *= fade;
#pragma unroll
        for (int c = 0; c < D / 4 / GROUP_LANES; c++)
#pragma unroll
            for (int n = 0; n < 4; n++) out[i][c][n] *= fade;
#pragma unroll
        for (int j = 0; j < OF_LANE; j++)
            sum[i] += s[i][j] = exp2_fast(s[i][j] * scale_log2 - base);
    }
}

/// A block takes 16 · ROWS queries of one head. While scores are formed the values come, while
/// these are added up the next keys do.
template <int D, int ROWS>
__device__ __forceinline__ void attention_forward_f32(const ForwardArgsOf<float> &p) {
    constexpr int QUERIES = GROUPS * ROWS;
    SHARED_MEMORY(shared);
    float *q_tile = reinterpret_cast<float *>(shared), *k_tile = q_tile + QUERIES * ROW_STRIDE<D>,
          *v_tile = k_tile + OVER * ROW_STRIDE<D>, *weights = v_tile + OVER * ROW_STRIDE<D>;
    const int q0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, b = blockIdx.z,
              kv_head = head / (p.heads / p.kv_heads);
    const Mask &mask = p.mask;
    Walk walk;
    const auto load = [&](float *to, const RowsOf<float> &rows, int tile) {
        if (tile >= 0)
            load_floats<D, OVER>(to, rows.at(b, kv_head), rows.row, tile * OVER, mask.kv_len);
        copies_commit();
    };
    load_floats<D, QUERIES>(q_tile, p.q.at(b, head), p.q.row, q0, mask.q_len);
    int tile = next_keys<QUERIES>(walk, mask, b, q0);
    load(k_tile, p.k, tile);
    RowSums<D, ROWS> out;
    clear<D, ROWS>(out);
    float most[ROWS], sum[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) most[i] = NOTHING, sum[i] = 0;
    while (tile >= 0) {
        const int key0 = tile * OVER;
        copies_wait<0>();
        __syncthreads(); // these keys are here for all, and nobody reads the values before any more
        load(v_tile, p.v, tile);
        float s[ROWS][OF_LANE];
        multiply_floats<D, ROWS>(s, q_tile, k_tile);
        if (!sees_tile<ROWS>(mask, b, q0, key0))
            hide_floats<ROWS>(s, mask, b, q0 + group_row<ROWS>(), key0);
        weigh_floats<D, ROWS>(s, out, most, sum, p.scale_log2);
        share_weights<ROWS>(weights, s);
        tile = next_keys<QUERIES>(walk, mask, b, q0);
        copies_wait<0>();
        __syncthreads(); // these values are here for all, and nobody reads the keys any more
        load(k_tile, p.k, tile);
        add_weighted_floats<D, ROWS>(out, weights, v_tile);
    }
    copies_wait<0>();
    float inverse[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const float total = sum_of_group(sum[i]);
        inverse[i] = total == 0 ? 0 : 1 / total;
        const int query = q0 + group_row<ROWS>() + i;
        if (lane_of_eight() == 0 && query < mask.q_len)
            p.log_sums[((long long)b * p.heads + head) * mask.q_len + query] =
                total == 0 ? NOTHING : most[i] * p.scale_log2 * LN_2 + logf(total);
    }
    store_floats<D, ROWS>(out, inverse, p.out.at(b, head), p.out.row, q0, mask.q_len);
}

/// `backward_rows` of attention_backward.cu.
template <int D>
__device__ __forceinline__ void backward_rows_f32(const BackwardArgsOf<float> &p) {
    const int lane = threadIdx.x & 31, query = blockIdx.x * (blockDim.x / 32) + (threadIdx.x >> 5),
              head = blockIdx.y, b = blockIdx.z, q_len = p.mask.q_len;
    float delta = 0, log_sum = EVERYTHING;
    if (query < q_len) {
        const float *out = p.out.at(b, head) + (long long)query * p.out.row,
                    *d_out = p.d_out.at(b, head) + (long long)query * p.d_out.row;
#pragma unroll
        for (int i = lane; i < D; i += 32) delta = fmaf(out[i], d_out[i], delta);
        log_sum = p.log_sums[((long long)b * p.heads + head) * q_len + query] * LOG2_E;
        if (log_sum == NOTHING) log_sum = EVERYTHING;
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) delta += __shfl_xor_sync(~0u, delta, step);
    if (lane == 0) p.rows_of(b, head)[query] = make_float2(log_sum, delta);
}

/// dq: a block takes 16 · ROWS queries of one head and goes over tiles of keys.
template <int D, int ROWS>
__device__ __forceinline__ void backward_queries_f32(const BackwardArgsOf<float> &p) {
    constexpr int QUERIES = GROUPS * ROWS;
    SHARED_MEMORY(shared);
    float *q_tile = reinterpret_cast<float *>(shared),
          *d_out_tile = q_tile + QUERIES * ROW_STRIDE<D>,
          *k_tile = d_out_tile + QUERIES * ROW_STRIDE<D>, *v_tile = k_tile + OVER * ROW_STRIDE<D>,
          *weights = v_tile + OVER * ROW_STRIDE<D>;
    const int q0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, b = blockIdx.z,
              kv_head = head / (p.heads / p.kv_heads);
    const Mask &mask = p.mask;
    load_floats<D, QUERIES>(q_tile, p.q.at(b, head), p.q.row, q0, mask.q_len);
    load_floats<D, QUERIES>(d_out_tile, p.d_out.at(b, head), p.d_out.row, q0, mask.q_len);
    copies_commit();
    float2 stats[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) stats[i] = p.rows_of(b, head)[q0 + group_row<ROWS>() + i];
    RowSums<D, ROWS> d_q;
    clear<D, ROWS>(d_q);
    Walk walk;
    for (int tile; (tile = next_keys<QUERIES>(walk, mask, b, q0)) >= 0;) {
        const int key0 = tile * OVER;
        __syncthreads(); // nobody reads the tile before any more
        load_floats<D, OVER>(k_tile, p.k.at(b, kv_head), p.k.row, key0, mask.kv_len);
        load_floats<D, OVER>(v_tile, p.v.at(b, kv_head), p.v.row, key0, mask.kv_len);
        copies_commit();
        copies_wait<0>();
        __syncthreads(); // this tile is here for all
        float s[ROWS][OF_LANE], d_p[ROWS][OF_LANE];
        multiply_floats<D, ROWS>(s, q_tile, k_tile);
        if (!sees_tile<ROWS>(mask, b, q0, key0))
            hide_floats<ROWS>(s, mask, b, q0 + group_row<ROWS>(), key0);
        multiply_floats<D, ROWS>(d_p, d_out_tile, v_tile);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < OF_LANE; j++)
                s[i][j] = exp2_fast(s[i][j] * p.scale_log2 - stats[i].x) * (d_p[i][j] - stats[i].y);
        share_weights<ROWS>(weights, s);
        __syncwarp(); // the group's weights are here
        add_weighted_floats<D, ROWS>(d_q, weights, k_tile);
    }
    copies_wait<0>();
    float scale[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) scale[i] = p.scale_log2 * LN_2;
    store_floats<D, ROWS>(d_q, scale, p.d_q.at(b, head), p.d_q.row, q0, mask.q_len);
}

/// dk and dv: a block takes 16 · ROWS keys of one head and goes over tiles of queries of all heads
/// that read it.
template <int D, int ROWS>
__device__ __forceinline__ void backward_keys_f32(const BackwardArgsOf<float> &p) {
    constexpr int KEYS = GROUPS * ROWS;
    static_assert(OVER == SIGHT);
    SHARED_MEMORY(shared);
    float *k_tile = reinterpret_cast<float *>(shared), *v_tile = k_tile + KEYS * ROW_STRIDE<D>,
          *q_tile = v_tile + KEYS * ROW_STRIDE<D>, *d_out_tile = q_tile + OVER * ROW_STRIDE<D>,
          *weights = d_out_tile + OVER * ROW_STRIDE<D>;
    const int key0 = blockIdx.x * KEYS, kv_head = blockIdx.y, b = blockIdx.z,
              group = p.heads / p.kv_heads;
    const int row = key0 + warp_row<ROWS>(), row_end = row + 32 / GROUP_LANES * ROWS; // a warp's
    const Mask &mask = p.mask;
    load_floats<D, KEYS>(k_tile, p.k.at(b, kv_head), p.k.row, key0, mask.kv_len);
    load_floats<D, KEYS>(v_tile, p.v.at(b, kv_head), p.v.row, key0, mask.kv_len);
    copies_commit();
    RowSums<D, ROWS> d_k, d_v;
    clear<D, ROWS>(d_k), clear<D, ROWS>(d_v);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        Walk walk;
        const auto next_queries = [&] {
            return walk.next(mask.n_sights(), [&](int i) {
                return sees_some(mask.sights_of(b)[i].some, mask.prefix, key0, key0 + KEYS);
            });
        };
        for (int tile; (tile = next_queries()) >= 0;) {
            const int q0 = tile * OVER;
            __syncthreads(); // nobody reads the tile before any more
            load_floats<D, OVER>(q_tile, p.q.at(b, head), p.q.row, q0, mask.q_len);
            load_floats<D, OVER>(d_out_tile, p.d_out.at(b, head), p.d_out.row, q0, mask.q_len);
            copies_commit();
            copies_wait<0>();
            __syncthreads(); // this tile is here for all
            float2 stats[OF_LANE];
#pragma unroll
            for (int j = 0; j < OF_LANE; j++)
                stats[j] = p.rows_of(b, head)[q0 + lane_of_eight() + j * GROUP_LANES];
            float p_t[ROWS][OF_LANE], d_p[ROWS][OF_LANE];
            multiply_floats<D, ROWS>(p_t, k_tile, q_tile);
            if (!sees_all(mask.sights_of(b)[tile].all, mask.prefix, row, row_end))
                hide_floats_transposed<ROWS>(p_t, mask, b, key0 + group_row<ROWS>(), q0);
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < OF_LANE; j++)
                    p_t[i][j] = exp2_fast(p_t[i][j] * p.scale_log2 - stats[j].x);
            share_weights<ROWS>(weights, p_t);
            __syncwarp(); // the group's weights are here
            add_weighted_floats<D, ROWS>(d_v, weights, d_out_tile);
            multiply_floats<D, ROWS>(d_p, v_tile, d_out_tile);
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < OF_LANE; j++) p_t[i][j] *= d_p[i][j] - stats[j].y;
            __syncwarp(); // nobody reads the weights any more
            share_weights<ROWS>(weights, p_t);
            __syncwarp(); // their gradients are here
            add_weighted_floats<D, ROWS>(d_k, weights, q_tile);
        }
    }
    copies_wait<0>();
    float scale[ROWS], one[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) scale[i] = p.scale_log2 * LN_2, one[i] = 1;
    store_floats<D, ROWS>(d_k, scale, p.d_k.at(b, kv_head), p.d_k.row, key0, mask.kv_len);
    store_floats<D, ROWS>(d_v, one, p.d_v.at(b, kv_head), p.d_v.row, key0, mask.kv_len);
}

extern "C" {
#define ATTENTION_F32(D)                                                                           \
    __global__ void __launch_bounds__(F32_THREADS, 2)                                              \
        attention_forward_##D##_f32(ForwardArgsOf<float> p) {                                      \
        attention_forward_f32<D, FORWARD_ROWS>(p);                                                 \
    }                                                                                              \
    __global__ void __launch_bounds__(F32_THREADS)                                                 \
        attention_backward_rows_##D##_f32(BackwardArgsOf<float> p) {                               \
        backward_rows_f32<D>(p);                                                                   \
    }                                                                                              \
    __global__ void __launch_bounds__(F32_THREADS, 2)                                              \
        attention_backward_queries_##D##_f32(BackwardArgsOf<float> p) {                            \
        backward_queries_f32<D, BACKWARD_ROWS>(p);                                                 \
    }                                                                                              \
    __global__ void __launch_bounds__(F32_THREADS, 2)                                              \
        attention_backward_keys_##D##_f32(BackwardArgsOf<float> p) {                               \
        backward_keys_f32<D, BACKWARD_ROWS>(p);                                                    \
    }
ATTENTION_F32(64)
ATTENTION_F32(128)
#undef ATTENTION_F32
}
