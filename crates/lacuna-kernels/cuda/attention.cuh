// Block attention: what the forward and the backward kernels share.
//
// A query sees a prefix of the keys and at most two ranges more, as `lacuna_kernels::KeyRanges`
// lays out every mask. Tiles of keys that no query of a tile sees are never touched, and only tiles
// that some see in part are masked.
#pragma once
#include "tensor_core.h"

constexpr float EVERYTHING = __builtin_huge_valf(), NOTHING = -EVERYTHING; // ∞ and −∞
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
constexpr int NEVER = 0x7fffffff;
/// Queries that share a `Sight`.
constexpr int SIGHT = 32;
/// Row statistics are laid out for whole tiles: queries rounded up to this.
constexpr int PADDING = 128;

/// Code of kernels that need more than the 99 KB of shared memory which most cards give a block.
/// They are sm_80's: others take the kernels whose names end in `_small`, sm_90a has its own in
/// attention_hopper.cu.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 800
#define LARGE(code)
#else
#define LARGE(code) code
#endif

/// A tensor of rows of head size, `[batch, heads, len, d]` in any order of the first three. Strides
/// in elements, of whole vectors of 16 bytes; rows are contiguous and begin at multiples of 16 bytes. One head of
/// one sequence spans less than 2³¹ elements.
template <class T> struct RowsOf {
    T *data;
    long long batch, head;
    int row;
    __device__ __forceinline__ T *at(int b, int h) const { return data + b * batch + h * head; }
};
using Rows = RowsOf<bf16>;

/// What two ranges of each of 32 queries have in common.
struct Sight {
    int4 some; ///< hull of the keys that a query sees
    int4 all;  ///< keys that every query sees
};

/// Who sees what.
struct Mask {
    const int4 *ranges;  ///< `[rows, q_len]`: begin and end of the first range, of the second
    const Sight *sights; ///< `[rows, ⌈q_len / SIGHT⌉]`, made by `attention_sights`
    int rows;            ///< 1 if all of the batch see the same
    int prefix;          ///< keys at the front that all queries see
    int q_len, kv_len;

    __device__ __forceinline__ int n_sights() const { return (q_len + SIGHT - 1) / SIGHT; }
    __device__ __forceinline__ const int4 *ranges_of(int b) const {
        return ranges + (rows == 1 ? 0 : (long long)b * q_len);
    }
    __device__ __forceinline__ const Sight *sights_of(int b) const {
        return sights + (rows == 1 ? 0 : (long long)b * n_sights());
    }
};

template <class T> struct ForwardArgsOf {
    RowsOf<T> q, k, v, out;
    float *log_sums; ///< `[batch, heads, q_len]`
    Mask mask;
    int heads, kv_heads;
    float scale_log2; ///< scale · log2 e
};

using ForwardArgs = ForwardArgsOf<bf16>;

template <class T> struct BackwardArgsOf {
    RowsOf<T> q, k, v, out, d_out, d_q, d_k, d_v;
    const float *log_sums; ///< `[batch, heads, q_len]`, of the forward pass
    float2 *rows;          ///< `[batch, heads, padded(q_len)]`, made by `attention_backward_rows`
    Mask mask;
    int heads, kv_heads;
    float scale_log2; ///< scale · log2 e

    __device__ __forceinline__ float2 *rows_of(int b, int head) const {
        const int padded = (mask.q_len + PADDING - 1) / PADDING * PADDING;
        return rows + ((long long)b * heads + head) * padded;
    }
};
using BackwardArgs = BackwardArgsOf<bf16>;

/// Position of a 16-byte chunk in a tile of rows of D: XOR with the row spreads the chunks that one
/// load of matrices reads over all banks.
template <int D> __device__ __forceinline__ int place(int row, int chunk) {
    return row * D + ((chunk ^ (row & 7)) << 3);
}

/// What `place` gives in the same row for another chunk, an even one more: so one position per lane
/// serves all loads.
__device__ __forceinline__ int chunk_on(int place, int chunk) { return place ^ (chunk << 3); }

/// Starts to copy rows `first..` into a tile; rows from `count` on become zeros.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *rows, int stride, int first,
                                          int count) {
    constexpr int CHUNKS = D / 8;
    static_assert(ROWS * CHUNKS % THREADS == 0 && THREADS % (8 * CHUNKS) == 0);
    const int thread = thread_anew(), row = thread / CHUNKS, chunk = thread % CHUNKS;
    int from = (first + row) * stride + chunk * 8;
#pragma unroll
    for (int i = 0; i < ROWS; i += THREADS / CHUNKS, from += THREADS / CHUNKS * stride)
        copy_async(tile + place<D>(row, chunk) + i * D, rows + from, first + row + i < count);
}

/// The sight of a warp's queries, each lane's given by its two ranges; a lane without a
/// query brings `there` = false. All lanes get it.
__device__ __forceinline__ Sight sight_of(int4 ranges, bool there) {
    int4 some = make_int4(NEVER, 0, NEVER, 0), all = make_int4(0, NEVER, 0, NEVER);
    if (there) {
        const bool first = ranges.x < ranges.y, second = ranges.z < ranges.w;
        all = make_int4(first ? ranges.x : NEVER, first ? ranges.y : 0, second ? ranges.z : NEVER,
                        second ? ranges.w : 0);
        some = all;
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        some.x = min(some.x, __shfl_xor_sync(~0u, some.x, step)),
        some.y = max(some.y, __shfl_xor_sync(~0u, some.y, step));
        some.z = min(some.z, __shfl_xor_sync(~0u, some.z, step)),
        some.w = max(some.w, __shfl_xor_sync(~0u, some.w, step));
        all.x = max(all.x, __shfl_xor_sync(~0u, all.x, step)),
        all.y = min(all.y, __shfl_xor_sync(~0u, all.y, step));
        all.z = max(all.z, __shfl_xor_sync(~0u, all.z, step)),
        all.w = min(all.w, __shfl_xor_sync(~0u, all.w, step));
    }
    return Sight{some, all};
}

/// The tiles that `sees` accepts, in ascending order, the same for all lanes of a warp.
struct Walk {
    unsigned found = 0;
    int from = 0;
    template <class Sees> __device__ __forceinline__ int next(int tiles, Sees sees) {
        while (!found) {
            if (from >= tiles) return -1;
            const int tile = from + (threadIdx.x & 31);
            found = __ballot_sync(~0u, tile < tiles && sees(tile));
            from += 32;
        }
        const int bit = __ffs(found) - 1;
        found &= found - 1;
        return from - 32 + bit;
    }
};

/// Whether a query of a tile sees one of the keys `begin..end`, given the hull of what they see.
__device__ __forceinline__ bool sees_some(int4 some, int prefix, int begin, int end) {
    return begin < prefix || (some.x < end && begin < some.y) || (some.z < end && begin < some.w);
}
/// Whether every query sees all of them.
__device__ __forceinline__ bool sees_all(int4 all, int prefix, int begin, int end) {
    return end <= prefix || (all.x <= begin && end <= all.y) || (all.z <= begin && end <= all.w);
}
/// Whether one query sees one key.
__device__ __forceinline__ bool sees(int4 range, int prefix, int key) {
    return key < prefix || (range.x <= key && key < range.y) || (range.z <= key && key < range.w);
}

/// The hull of several tiles of 32 queries.
template <int TILES>
__device__ __forceinline__ int4 hull(const Sight *sights, int first, int count) {
    int4 some = make_int4(NEVER, 0, NEVER, 0);
#pragma unroll
    for (int i = 0; i < TILES; i++)
        if (first + i < count) {
            const int4 one = sights[first + i].some;
            some = make_int4(min(some.x, one.x), max(some.y, one.y), min(some.z, one.z),
                             max(some.w, one.w));
        }
    return some;
}

/// sums = a · bᵀ: bands of 16 rows, of which `left(k, a)` gives columns 16 k and on as
/// `multiply_add` takes them, by the N rows of tile b.
template <int D, int BANDS, int N, class Left>
__device__ __forceinline__ void multiply_bands(float (&sums)[BANDS][N / 8][4], Left left,
                                               const bf16 *b) {
    const int lane = threadIdx.x & 31,
              right_at = place<D>((lane >> 4) * 8 + (lane & 7), lane >> 3 & 1);
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
            sums[m][n][0] = sums[m][n][1] = sums[m][n][2] = sums[m][n][3] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        unsigned a[BANDS][4];
        left(k, a);
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            unsigned right[4];
            load_matrices(right, b + chunk_on(right_at, 2 * k) + n * 8 * D);
#pragma unroll
            for (int m = 0; m < BANDS; m++) {
                multiply_add(sums[m][n], a[m], right[0], right[1]);
                multiply_add(sums[m][n + 1], a[m], right[2], right[3]);
            }
        }
    }
}

/// sums = a · bᵀ: rows `row..` of tile a by all N rows of tile b.
template <int D, int BANDS, int N>
__device__ __forceinline__ void multiply_rows(float (&sums)[BANDS][N / 8][4], const bf16 *a,
                                              int row, const bf16 *b) {
    const int lane = threadIdx.x & 31, left_at = place<D>(row + (lane & 15), lane >> 4);
    const auto left = [&](int k, unsigned (&of)[BANDS][4]) {
#pragma unroll
        for (int m = 0; m < BANDS; m++)
            load_matrices(of[m], a + chunk_on(left_at, 2 * k) + m * 16 * D);
    };
    multiply_bands<D, BANDS, N>(sums, left, b);
}

/// sums += weights · b: weights as `multiply_rows` leaves them, by the N rows of tile b.
template <int D, int BANDS, int N>
__device__ __forceinline__ void add_weighted_rows(float (&sums)[BANDS][D / 8][4],
                                                  const float (&weights)[BANDS][N / 8][4],
                                                  const bf16 *b) {
    const int lane = threadIdx.x & 31, right_at = place<D>(lane & 15, lane >> 4);
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        unsigned left[BANDS][4];
#pragma unroll
        for (int m = 0; m < BANDS; m++) {
            const auto &w = weights[m];
            left[m][0] = pack_bf16(w[2 * k][0], w[2 * k][1]);
            left[m][1] = pack_bf16(w[2 * k][2], w[2 * k][3]);
            left[m][2] = pack_bf16(w[2 * k + 1][0], w[2 * k + 1][1]);
            left[m][3] = pack_bf16(w[2 * k + 1][2], w[2 * k + 1][3]);
        }
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            unsigned right[4];
            load_matrices_transposed(right, b + chunk_on(right_at, d) + k * 16 * D);
#pragma unroll
            for (int m = 0; m < BANDS; m++) {
                multiply_add(sums[m][d], left[m], right[0], right[1]);
                multiply_add(sums[m][d + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/// Scores of keys `key..` that a row does not see, beyond the prefix given its `range_of(row)`,
/// become −∞; rows count from the first band's.
template <int BANDS, int N, class RangeOf>
__device__ __forceinline__ void hide_beyond(float (&s)[BANDS][N / 8][4], RangeOf range_of,
                                            int prefix, int key) {
    const int lane = thread_anew() & 31;
    key += 2 * (lane & 3);
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int4 range = range_of((lane >> 2) + m * 16 + half * 8);
            range = make_int4(range.x - key, range.y - key, range.z - key, range.w - key);
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (!sees(range, prefix - key, n * 8 + i)) s[m][n][2 * half + i] = NOTHING;
        }
}

/// Scores of queries `query..` and keys `key..` that the mask hides become −∞.
template <int BANDS, int N>
__device__ __forceinline__ void hide(float (&s)[BANDS][N / 8][4], const Mask &mask, int b,
                                     int query, int key) {
    const int4 *ranges = mask.ranges_of(b);
    const auto range_of = [&](int row) {
        return query + row < mask.q_len ? ranges[query + row] : make_int4(0, 0, 0, 0);
    };
    hide_beyond<BANDS, N>(s, range_of, mask.prefix, key);
}

/// The same where keys stand in rows.
template <int BANDS, int N>
__device__ __forceinline__ void hide_transposed(float (&s)[BANDS][N / 8][4], const Mask &mask,
                                                int b, int key, int query) {
    const int lane = thread_anew() & 31;
    const int4 *ranges = mask.ranges_of(b);
    query += 2 * (lane & 3);
    key += lane >> 2;
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int column = query + n * 8 + i;
            const int4 range = column < mask.q_len ? ranges[column] : make_int4(0, 0, 0, 0);
#pragma unroll
            for (int m = 0; m < BANDS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    if (!sees(range, mask.prefix, key + m * 16 + half * 8))
                        s[m][n][2 * half + i] = NOTHING;
        }
}

/// Writes sums · scale as rows `first..` of a result, those below `count`.
template <int D, int BANDS>
__device__ __forceinline__ void store_rows(const float (&sums)[BANDS][D / 8][4],
                                           const float (&scale)[BANDS][2], bf16 *rows, int stride,
                                           int first, int count) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first + m * 16 + half * 8 + (lane >> 2);
            if (row >= count) continue;
            unsigned *to = reinterpret_cast<unsigned *>(rows + row * stride) + (lane & 3);
#pragma unroll
            for (int d = 0; d < D / 8; d++)
                to[d * 4] = pack_bf16(sums[m][d][2 * half] * scale[m][half],
                                      sums[m][d][2 * half + 1] * scale[m][half]);
        }
}

/// Sum over the four lanes that share rows of a product.
__device__ __forceinline__ float sum_of_four(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float max_of_four(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/// One step of a softmax over keys that come a tile at a time: scores become weights relative to
/// the largest score so far, and what earlier ones have added up to shrinks with them.
template <int D, int BANDS, int N>
__device__ __forceinline__ void weigh(float (&s)[BANDS][N / 8][4], float (&out)[BANDS][D / 8][4],
                                      float (&most)[BANDS][2], float (&sum)[BANDS][2],
                                      float scale_log2) {
    float fade[BANDS][2];
    bool fades = false;
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float max = most[m][half];
#pragma unroll
            for (int n = 0; n < N / 8; n++)
                max = fmaxf(max, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            max = max_of_four(max);
            fades |= max != most[m][half];
            fade[m][half] = max == NOTHING ? 1 : exp2_fast((most[m][half] - max) * scale_log2);
            most[m][half] = max;
        }
    if (__ballot_sync(~0u, fades)) { // rarely, once most keys have been seen
#pragma unroll
        for (int m = 0; m < BANDS; m++) {
            sum[m][0] *= fade[m][0], sum[m][1] *= fade[m][1];
#pragma unroll
            for (int d = 0; d < D / 8; d++)
#pragma unroll
                for (int i = 0; i < 4; i++) out[m][d][i] *= fade[m][i / 2];
        }
    }
    float base[BANDS][2];
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            base[m][half] = most[m][half] == NOTHING ? 0.f : most[m][half] * scale_log2;
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int m = 0; m < BANDS; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[m][i / 2] += s[m][n][i] = exp2_fast(s[m][n][i] * scale_log2 - base[m][i / 2]);
}

// Bytes of shared memory that a block takes: two stages of whatever it goes over.
constexpr int forward_shared(int d, int queries, int keys) { return (queries + 4 * keys) * d * 2; }
constexpr int backward_queries_shared(int d, int queries, int keys) {
    return (2 * queries + 4 * keys) * d * 2;
}
constexpr int backward_keys_shared(int d, int keys, int queries) {
    return (2 * keys + 4 * queries) * d * 2 + 2 * queries * 8;
}
