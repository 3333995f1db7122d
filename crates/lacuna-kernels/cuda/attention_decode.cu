// Attention of a few queries on a long cache, as a decoder asks for it: every sequence brings a few
// rows and has keys of its own, of any number. The keys are split into pieces, so that one sequence
// keeps the whole card busy; a second kernel joins the pieces' results in their order. A sequence's
// result has the same bits whatever sequences are beside it.
//
// All heads that read a key head and all rows of a sequence stand in the rows of one product, so
// each key is loaded once for them. A product of 16 rows by 16 keys of 128 and back takes 48
// instructions of a warp, also where one row is real; plain multiplications would take 256 for that
// one row.
#pragma once
#include "attention.cuh"

/// Keys of a tile and of a stage; warps of a block; rows, each a query's head, that a block takes
/// at most.
constexpr int DECODE_KEYS = 64, DECODE_STAGES = 3, DECODE_WARPS = 4, DECODE_ROWS = 64;

/// One sequence of a launch.
struct Sequence {
    Rows k, v;          ///< its cache
    int query, rows;    ///< its rows among the queries: the first, and how many, at most SIGHT
    int kv_len, prefix; ///< its keys, and those at the front that all of its queries see
    int split, pieces; ///< keys of a piece, as `decode_split` has it, and how many pieces there are
    long long part;    ///< its first partial result; there are `pieces` · `rows`
};

struct DecodeArgs {
    Rows q, out;        ///< all sequences' rows, end to end
    float *log_sums;    ///< `[rows, heads]`
    const int4 *ranges; ///< `[rows]`: what each sees beyond the prefix, as in `Mask`
    const Sequence *sequences;
    const int2 *pieces; ///< the work: a sequence and which of its pieces; nothing if it is below 0
    float *parts;       ///< `[parts, heads, d]`: Σ weight · value over a piece's keys
    float2 *part_sums; ///< `[parts, heads]`: the largest exponent of 2, and Σ weight relative to it
    int heads, kv_heads;
    int blocks;       ///< for each piece and key head, DECODE_ROWS rows to each
    float scale_log2; ///< scale · log2 e
};

/// Keys of a piece, by the length of the cache alone: enough pieces to fill a card, few enough that
/// their results are little beside the keys.
constexpr int decode_split(int kv_len) {
    const int of_64 = ((kv_len + 63) / 64 + DECODE_KEYS - 1) / DECODE_KEYS * DECODE_KEYS;
    return of_64 < 256 ? 256 : of_64;
}

template <int D> constexpr int decode_shared() { return DECODE_STAGES * 2 * DECODE_KEYS * D * 2; }

/// A sequence's rows of one key head: row i is query i / group and head i % group.
struct HeadRows {
    const DecodeArgs &p;
    const Sequence &s;
    int kv_head;

    __device__ __forceinline__ int group() const { return p.heads / p.kv_heads; }
    __device__ __forceinline__ int count() const { return s.rows * group(); }
    __device__ __forceinline__ int head(int row) const { return kv_head * group() + row % group(); }
    __device__ __forceinline__ int query(int row) const { return row / group(); }
    __device__ __forceinline__ const bf16 *q(int row) const {
        return p.q.at(0, head(row)) + (long long)(s.query + query(row)) * p.q.row;
    }
    __device__ __forceinline__ int4 range(int row) const {
        return row < count() ? p.ranges[s.query + query(row)] : make_int4(0, 0, 0, 0);
    }
    /// The number of a piece's partial result for a row.
    __device__ __forceinline__ long long part(int piece, int row) const {
        return (s.part + (long long)piece * s.rows + query(row)) * p.heads + head(row);
    }
};

/// Reads 16 rows of queries as `multiply_add` takes them; rows that are none become zeros.
template <int D>
__device__ __forceinline__ void load_queries(unsigned (&q)[D / 16][4], const HeadRows &rows,
                                             int first) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + half * 8 + (lane >> 2);
        const bool there = row < rows.count();
        const unsigned *from =
            reinterpret_cast<const unsigned *>(rows.q(there ? row : 0)) + (lane & 3);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            q[k][half] = there ? from[k * 8] : 0;
            q[k][2 + half] = there ? from[k * 8 + 4] : 0;
        }
    }
}

/// Puts together the sums of a block's warps, each over keys of its own, and writes them: SHARE
/// warps one after the other have the same 16 rows. The shared memory must be free.
template <int D, int SHARE>
__device__ __forceinline__ void store_piece(const float (&out)[1][D / 8][4],
                                            const float (&most)[1][2], const float (&sum)[1][2],
                                            const HeadRows &rows, int piece, int first) {
    // Eight floats more to a row spread the rows over the banks.
    constexpr int STRIDE = D + 8, ROWS = DECODE_WARPS * 16;
    SHARED_MEMORY(shared);
    float *sums = reinterpret_cast<float *>(shared);
    float2 *totals = reinterpret_cast<float2 *>(sums + ROWS * STRIDE);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = warp * 16 + half * 8 + (lane >> 2);
        const float total = sum_of_four(sum[0][half]);
        if (lane % 4 == 0)
            totals[row] =
                make_float2(total == 0 ? NOTHING : most[0][half] * rows.p.scale_log2, total);
        float2 *to = reinterpret_cast<float2 *>(sums + row * STRIDE) + (lane & 3);
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            to[d * 4] = make_float2(out[0][d][2 * half], out[0][d][2 * half + 1]);
    }
    __syncthreads(); // every warp's sums are here
    for (int i = threadIdx.x; i < ROWS / SHARE * (D / 2); i += DECODE_WARPS * 32) {
        const int own = i / (D / 2), column = i % (D / 2), row = first + own;
        if (row >= rows.count()) break;
        const int band = own / 16 * SHARE * 16 + own % 16;
        float largest = NOTHING;
#pragma unroll
        for (int w = 0; w < SHARE; w++) largest = fmaxf(largest, totals[band + w * 16].x);
        float2 all = make_float2(0, 0);
        float total = 0;
#pragma unroll
        for (int w = 0; w < SHARE; w++) {
            const float2 of_warp = totals[band + w * 16];
            const float weight = of_warp.y == 0 ? 0.f : exp2_fast(of_warp.x - largest);
            const float2 one =
                reinterpret_cast<const float2 *>(sums + (band + w * 16) * STRIDE)[column];
            all.x += weight * one.x, all.y += weight * one.y;
            total += weight * of_warp.y;
        }
        const long long part = rows.part(piece, row);
        reinterpret_cast<float2 *>(rows.p.parts + part * D)[column] = all;
        if (column == 0) rows.p.part_sums[part] = make_float2(largest, total);
    }
}

/// A block's part of a piece: BANDS bands of 16 rows, whose warps share the keys of each tile.
template <int D, int BANDS>
__device__ __forceinline__ void decode_piece(const HeadRows &rows, int piece, int block) {
    constexpr int SHARE = DECODE_WARPS / BANDS, KEYS = DECODE_KEYS / SHARE, TILE = DECODE_KEYS * D,
                  THREADS = DECODE_WARPS * 32;
    SHARED_MEMORY(shared);
    bf16 *stages = reinterpret_cast<bf16 *>(shared); // a stage: keys, values
    const DecodeArgs &p = rows.p;
    const Sequence &s = rows.s;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, first = block * DECODE_ROWS,
              row = first + warp / SHARE * 16, own_keys = warp % SHARE * KEYS;
    const int begin = piece * s.split, end = min(begin + s.split, s.kv_len),
              tiles = (end - begin + DECODE_KEYS - 1) / DECODE_KEYS;
    const bool there = lane < s.rows;
    const Sight sight = sight_of(there ? p.ranges[s.query + lane] : make_int4(0, 0, 0, 0), there);
    Walk walk;
    const auto next_tile = [&] {
        return walk.next(tiles, [&](int i) {
            const int key = begin + i * DECODE_KEYS;
            return sees_some(sight.some, s.prefix, key, key + DECODE_KEYS);
        });
    };
    const auto load = [&](int tile, int stage) {
        const int key = begin + tile * DECODE_KEYS;
        bf16 *to = stages + stage * 2 * TILE;
        load_tile<D, DECODE_KEYS, THREADS>(to, s.k.at(0, rows.kv_head), s.k.row, key, s.kv_len);
        load_tile<D, DECODE_KEYS, THREADS>(to + TILE, s.v.at(0, rows.kv_head), s.v.row, key,
                                           s.kv_len);
    };
    int tile = next_tile();
    if (tile >= 0) load(tile, 0);
    copies_commit();
    int next = next_tile();
    if (next >= 0) load(next, 1);
    copies_commit();

    unsigned q[D / 16][4];
    load_queries<D>(q, rows, row);
    float out[1][D / 8][4] = {}, most[1][2] = {{NOTHING, NOTHING}}, sum[1][2] = {};
    const auto left = [&](int k, unsigned (&a)[1][4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) a[0][i] = q[k][i];
    };
    for (int stage = 0; tile >= 0; stage = stage == DECODE_STAGES - 1 ? 0 : stage + 1) {
        copies_wait<1>();
        __syncthreads(); // this tile is here for all, and nobody reads the one before any more
        const int after = next_tile();
        if (after >= 0) load(after, stage == 0 ? DECODE_STAGES - 1 : stage - 1);
        copies_commit();
        const bf16 *k_tile = stages + stage * 2 * TILE + own_keys * D;
        const int key = begin + tile * DECODE_KEYS + own_keys;
        float weights[1][KEYS / 8][4];
        multiply_bands<D, 1, KEYS>(weights, left, k_tile);
        if (!sees_all(sight.all, s.prefix, key, key + KEYS))
            hide_beyond<1, KEYS>(
                weights, [&](int i) { return rows.range(row + i); }, s.prefix, key);
        weigh<D, 1, KEYS>(weights, out, most, sum, p.scale_log2);
        add_weighted_rows<D, 1, KEYS>(out, weights, k_tile + TILE);
        tile = next;
        next = after;
    }
    copies_wait<0>();
    __syncthreads(); // nobody reads a tile any more
    store_piece<D, SHARE>(out, most, sum, rows, piece, first);
}

/// Results of one piece of one sequence for the heads that read one key head.
template <int D> __device__ __forceinline__ void attention_decode(const DecodeArgs &p) {
    const int block = blockIdx.x % p.blocks, kv_head = blockIdx.x / p.blocks % p.kv_heads;
    const int2 work = p.pieces[blockIdx.x / p.blocks / p.kv_heads];
    if (work.x < 0) return;
    const HeadRows rows{p, p.sequences[work.x], kv_head};
    const int count = rows.count();
    if (block * DECODE_ROWS >= count) return;
    // The choice depends on the sequence's own rows alone, and so do its bits.
    if (count <= 16)
        decode_piece<D, 1>(rows, work.y, block);
    else if (count <= 32)
        decode_piece<D, 2>(rows, work.y, block);
    else
        decode_piece<D, 4>(rows, work.y, block);
}

/// Joins the pieces of each sequence: a warp takes 64 columns of one row's head. Blocks go over the
/// rows in x, over sequences in y.
template <int D> __device__ __forceinline__ void attention_decode_merge(const DecodeArgs &p) {
    const Sequence &s = p.sequences[blockIdx.y];
    const int lane = threadIdx.x & 31, index = blockIdx.x * (blockDim.x / 32) + (threadIdx.x >> 5),
              column = index % (D / 64) * 32 + lane, head = index / (D / 64) % p.heads,
              row = index / (D / 64) / p.heads;
    if (row >= s.rows) return;
    const auto part = [&](int piece) {
        return (s.part + (long long)piece * s.rows + row) * p.heads + head;
    };
    float most = NOTHING, total = 0;
    for (int i = lane; i < s.pieces; i += 32) most = fmaxf(most, p.part_sums[part(i)].x);
#pragma unroll
    for (int step = 16; step; step >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    float2 sum = make_float2(0, 0);
    for (int first = 0; first < s.pieces; first += 32) {
        float weight = 0;
        if (first + lane < s.pieces) {
            const float2 sums = p.part_sums[part(first + lane)];
            weight = sums.y == 0 ? 0.f : exp2_fast(sums.x - most);
            total += weight * sums.y;
        }
        const int count = min(32, s.pieces - first);
#pragma unroll 8
        for (int i = 0; i < count; i++) {
            const float by = __shfl_sync(~0u, weight, i);
            const float2 one =
                reinterpret_cast<const float2 *>(p.parts + part(first + i) * D)[column];
            sum.x += by * one.x, sum.y += by * one.y;
        }
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) total += __shfl_xor_sync(~0u, total, step);
    const float inverse = total == 0 ? 0.f : 1 / total;
    bf16 *out = p.out.at(0, head) + (long long)(s.query + row) * p.out.row;
    reinterpret_cast<unsigned *>(out)[column] = pack_bf16(sum.x * inverse, sum.y * inverse);
    if (lane == 0 && index % (D / 64) == 0)
        p.log_sums[(long long)(s.query + row) * p.heads + head] =
            total == 0 ? NOTHING : most * LN_2 + logf(total);
}

extern "C" {
__global__ void __launch_bounds__(128, 3) attention_decode_64(DecodeArgs p) {
    attention_decode<64>(p);
}
__global__ void __launch_bounds__(128, 2) attention_decode_128(DecodeArgs p) {
    attention_decode<128>(p);
}
__global__ void __launch_bounds__(128) attention_decode_merge_64(DecodeArgs p) {
    attention_decode_merge<64>(p);
}
__global__ void __launch_bounds__(128) attention_decode_merge_128(DecodeArgs p) {
    attention_decode_merge<128>(p);
}
}
