// The head and its loss: Σ weight · (log Σ exp z − z_target) with z = hidden · headᵀ, and
// gradients.
//
// Logits of all rows and the whole vocabulary never exist. Forward, tiles of them live in registers
// and leave a maximum and a sum behind. Backward, a chunk of the vocabulary at a time, they are
// formed anew and become their own gradient, d_z = weight · (softmax − onehot), in bf16; from that
// two products make the gradients of hidden and head:
//
//   cross_entropy_forward, _merge, _loss
//   for each chunk: cross_entropy_gradient, cross_entropy_d_hidden, cross_entropy_d_head
//
// Chunks of logits that a library's product made go through cross_entropy_chunk, then
// cross_entropy_chunk_gradient (in place) or _chunk_gradient_bf16. No atomics; the order of every
// sum depends on shapes alone.
#pragma once
#include "product.cuh"

/// What the loss wants to know of each row, and what it leaves.
struct LossRows {
    const int *targets;
    const float *weights;
    float2 *parts; ///< `[n_parts, rows]`: maximum and Σ exp(z − maximum) over a part of the tokens
    float *target_logits; ///< `[rows]`
    float *log_sums;      ///< `[rows]`, log Σ exp z: gradients start from it
    float *nll;           ///< `[rows]`, not weighted
    double *loss;
    int rows, n_parts;
};

struct HeadArgs {
    LossRows loss;
    Matrix hidden;  ///< `[rows, h]`
    Matrix head;    ///< `[vocab, h]`
    int part_tiles; ///< tiles of the vocabulary in one part
    bf16 *d_logits; ///< `[rows, columns]`, a chunk's; columns beyond the vocabulary become 0
    int first;      ///< the chunk's first token, a multiple of TILE
    int columns;    ///< a multiple of 8
};

/// A chunk of logits in f32. Rows begin at multiples of 16 bytes, `stride` is a multiple of 8.
struct ChunkArgs {
    LossRows loss;
    float *logits;
    bf16 *d_logits; ///< same stride; columns become 0 from the chunk's last to a multiple of 8
    int stride, first, columns, part;
};

/// A maximum and Σ exp(z − maximum): the log-sum-exp of what was seen so far. A NaN stays one.
struct Online {
    float most = NOTHING, sum = 0;
    /// Prepares for values of at most `max`.
    __device__ __forceinline__ void raise(float max) {
        if (!(max > most)) return;
        sum *= exp2_fast((most - max) * LOG2_E);
        most = max;
    }
    __device__ __forceinline__ void add(float z) {
        sum += exp2_fast((z - (most == NOTHING ? 0.f : most)) * LOG2_E);
    }
    /// Adds what another has seen.
    __device__ __forceinline__ void add_part(float2 part) {
        raise(part.x);
        sum += part.y * (part.x == NOTHING ? 1.f : exp2_fast((part.x - most) * LOG2_E));
    }
};

/// A block takes TILE rows and one part of the vocabulary.
template <class Warps> __device__ __forceinline__ void head_forward(const HeadArgs &p) {
    constexpr int BANDS = Warps::BANDS, EIGHTS = Warps::EIGHTS;
    const LossRows &loss = p.loss;
    const int row0 = blockIdx.x * TILE, part = blockIdx.y, first = part * p.part_tiles,
              end = min(first + p.part_tiles, (p.head.rows + TILE - 1) / TILE);
    Online seen[BANDS][2];
    int target[BANDS][2];
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = row0 + Warps::row() + m * 16 + half * 8;
            target[m][half] = row < loss.rows ? loss.targets[row] : -1;
        }
    multiply<Warps, Along::Rows, Along::Rows>(
        p.hidden, p.head, row0, first, end, [&](int tile, typename Warps::Part &z) {
            const int column = tile * TILE + Warps::column(), left = p.head.rows - column;
            if (left < EIGHTS * 8) {
#pragma unroll
                for (int m = 0; m < BANDS; m++)
#pragma unroll
                    for (int n = 0; n < EIGHTS; n++)
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            if (n * 8 + i % 2 >= left) z[m][n][i] = NOTHING;
            }
#pragma unroll
            for (int m = 0; m < BANDS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    Online &row = seen[m][half];
                    const int at = target[m][half] - column;
                    float max = NOTHING;
#pragma unroll
                    for (int n = 0; n < EIGHTS; n++)
                        max = fmaxf(max, fmaxf(z[m][n][2 * half], z[m][n][2 * half + 1]));
                    row.raise(max_of_four(max));
#pragma unroll
                    for (int n = 0; n < EIGHTS; n++)
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            row.add(z[m][n][2 * half + i]);
                            if (at == n * 8 + i)
                                loss.target_logits[row0 + Warps::row() + m * 16 + half * 8] =
                                    z[m][n][2 * half + i];
                        }
                }
        });
    SHARED_MEMORY(shared);
    float2 *sides = reinterpret_cast<float2 *>(shared); // what warps side by side have of a row
#pragma unroll
    for (int m = 0; m < BANDS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float sum = sum_of_four(seen[m][half].sum);
            if (lane_column() == 0)
                sides[Warps::side() * TILE + Warps::row() + m * 16 + half * 8] =
                    make_float2(seen[m][half].most, sum);
        }
    __syncthreads();
    const int row = row0 + threadIdx.x;
    if (threadIdx.x >= TILE || row >= loss.rows) return;
    Online whole;
#pragma unroll
    for (int side = 0; side < Warps::SIDES; side++)
        whole.add_part(sides[side * TILE + threadIdx.x]);
    loss.parts[(long long)part * loss.rows + row] = make_float2(whole.most, whole.sum);
}

/// log Σ exp and the loss of each row, from its parts in their order. One thread takes one row.
__device__ __forceinline__ void merge_parts(const LossRows &p) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= p.rows) return;
    Online whole;
    for (int part = 0; part < p.n_parts; part++)
        whole.add_part(p.parts[(long long)part * p.rows + row]);
    const float log_sum = whole.most + logf(whole.sum);
    p.log_sums[row] = log_sum;
    p.nll[row] = log_sum - p.target_logits[row];
}

constexpr int LOSS_SHARED = 128 / 32 * 8;

/// Σ weight · nll, in f64. One block takes all rows.
__device__ __forceinline__ void total_loss(const LossRows &p) {
    SHARED_MEMORY(shared);
    double *sums = reinterpret_cast<double *>(shared);
    double sum = 0;
    for (int row = threadIdx.x; row < p.rows; row += blockDim.x)
        sum += static_cast<double>(p.weights[row]) * p.nll[row];
#pragma unroll
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int warp = 1; warp < (int)blockDim.x / 32; warp++) sum += sums[warp];
    *p.loss = sum;
}

/// weight · (softmax − onehot) of one logit.
struct RowGradient {
    float log_sum, weight;
    int target;
    __device__ __forceinline__ RowGradient(const LossRows &p, int row)
        : log_sum(p.log_sums[row]), weight(p.weights[row]), target(p.targets[row]) {}
    __device__ __forceinline__ float of(float z, int token) const {
        return (exp2_fast((z - log_sum) * LOG2_E) - (token == target ? 1.f : 0.f)) * weight;
    }
};

/// A block takes one tile of the chunk.
template <class Warps> __device__ __forceinline__ void head_gradient(const HeadArgs &p) {
    const int row0 = blockIdx.x * TILE, tile = p.first / TILE + blockIdx.y;
    multiply<Warps, Along::Rows, Along::Rows>(
        p.hidden, p.head, row0, tile, tile + 1, [&](int, typename Warps::Part &z) {
            const int token = tile * TILE + Warps::column();
#pragma unroll
            for (int m = 0; m < Warps::BANDS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = row0 + Warps::row() + m * 16 + half * 8;
                    if (row >= p.loss.rows) continue;
                    const RowGradient d(p.loss, row);
                    bf16 *to = p.d_logits + (long long)row * p.columns + (token - p.first);
#pragma unroll
                    for (int n = 0; n < Warps::EIGHTS; n++) {
                        if (token - p.first + n * 8 >= p.columns) continue;
                        float pair[2];
#pragma unroll
                        for (int i = 0; i < 2; i++)
                            pair[i] = token + n * 8 + i < p.head.rows
                                          ? d.of(z[m][n][2 * half + i], token + n * 8 + i)
                                          : 0.f;
                        *reinterpret_cast<unsigned *>(to + n * 8) = pack_bf16(pair[0], pair[1]);
                    }
                }
        });
}

/// Four logits of a row from `column` on; −∞ beyond the chunk.
struct Four {
    float z[4];
    __device__ __forceinline__ Four(const ChunkArgs &p, const float *row, int column) {
        const int4 bits = *reinterpret_cast<const int4 *>(row + column);
        z[0] = __int_as_float(bits.x), z[1] = __int_as_float(bits.y);
        z[2] = __int_as_float(bits.z), z[3] = __int_as_float(bits.w);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (column + i >= p.columns) z[i] = NOTHING;
    }
};

/// The chunk's part of log Σ exp, and the target's logit if it is here. A warp takes a row.
__device__ __forceinline__ void chunk_part(const ChunkArgs &p) {
    const int row = blockIdx.x * (blockDim.x / 32) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= p.loss.rows) return;
    const float *logits = p.logits + (long long)row * p.stride;
    Online seen;
#pragma unroll 4
    for (int column = lane * 4; column < p.columns; column += 128) {
        const Four four(p, logits, column);
        seen.raise(fmaxf(fmaxf(four.z[0], four.z[1]), fmaxf(four.z[2], four.z[3])));
#pragma unroll
        for (int i = 0; i < 4; i++) seen.add(four.z[i]);
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        const float most = __shfl_xor_sync(~0u, seen.most, step),
                    sum = __shfl_xor_sync(~0u, seen.sum, step);
        seen.add_part(make_float2(most, sum));
    }
    if (lane) return;
    p.loss.parts[(long long)p.part * p.loss.rows + row] = make_float2(seen.most, seen.sum);
    const int at = p.loss.targets[row] - p.first;
    if (at >= 0 && at < p.columns) p.loss.target_logits[row] = logits[at];
}

/// The chunk's logits become their gradient, in place or in bf16. A warp takes a row.
template <bool BF16> __device__ __forceinline__ void chunk_gradient(const ChunkArgs &p) {
    const int row = blockIdx.x * (blockDim.x / 32) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= p.loss.rows) return;
    float *logits = p.logits + (long long)row * p.stride;
    bf16 *d_logits = p.d_logits + (long long)row * p.stride;
    const RowGradient d(p.loss, row);
#pragma unroll 4
    for (int column = lane * 4; column < (p.columns + 7) / 8 * 8; column += 128) {
        Four four(p, logits, column);
#pragma unroll
        for (int i = 0; i < 4; i++)
            four.z[i] = column + i < p.columns ? d.of(four.z[i], p.first + column + i) : 0.f;
        if (BF16)
            *reinterpret_cast<int2 *>(d_logits + column) =
                make_int2(pack_bf16(four.z[0], four.z[1]), pack_bf16(four.z[2], four.z[3]));
        else
            *reinterpret_cast<int4 *>(logits + column) =
                make_int4(__float_as_int(four.z[0]), __float_as_int(four.z[1]),
                          __float_as_int(four.z[2]), __float_as_int(four.z[3]));
    }
}
