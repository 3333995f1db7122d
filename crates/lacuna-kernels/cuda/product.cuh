// Products of matrices of bf16, sums in f32, by tiles of 128 × 128: while one slab of both operands
// is multiplied, two more come, over the border of a tile too. What becomes of a tile is up to the
// kernel: it may go to memory or, as the logits of cross_entropy.cuh, nowhere.
#pragma once
#include "attention.cuh"

constexpr int TILE = 128, DEPTH = 64, STAGES = 3;
constexpr int SLAB = TILE * DEPTH;
constexpr int PRODUCT_SHARED = STAGES * 2 * SLAB * 2;

/// A matrix with contiguous rows that begin at multiples of 16 bytes: stride and columns are
/// multiples of 8.
struct Matrix {
    const bf16 *data;
    int stride, rows, columns;
};

/// The way in which a product reads an operand: its sums run along the matrix's rows or columns.
enum class Along { Rows, Columns };

/// Starts to copy HEIGHT rows of WIDTH numbers from (row, column) on; what lies outside becomes
/// zeros.
template <int THREADS, int HEIGHT, int WIDTH>
__device__ __forceinline__ void load_slab(bf16 *slab, const Matrix &m, int row, int column) {
    constexpr int CHUNKS = WIDTH / 8, STEP = THREADS / CHUNKS;
    static_assert(HEIGHT % STEP == 0 && STEP % 8 == 0);
    const int thread = thread_anew(), first = thread / CHUNKS, chunk = thread % CHUNKS;
    const bool inside = column + chunk * 8 < m.columns;
    const bf16 *from = m.data + (long long)(row + first) * m.stride + column + chunk * 8;
    bf16 *to = slab + place<WIDTH>(first, chunk);
#pragma unroll
    for (int i = 0; i < HEIGHT; i += STEP)
        copy_async(to + i * WIDTH, from + (long long)i * m.stride,
                   inside && row + first + i < m.rows);
}
/// The part of an operand that a tile from `line` on needs of the sums from `k` on. Read down its
/// columns it lies in panels of WIDTH.
template <Along SUMS, int THREADS, int WIDTH>
__device__ __forceinline__ void load_operand(bf16 *slab, const Matrix &m, int line, int k) {
    if (SUMS == Along::Rows)
        load_slab<THREADS, TILE, DEPTH>(slab, m, line, k);
    else
#pragma unroll
        for (int i = 0; i < TILE; i += WIDTH)
            load_slab<THREADS, DEPTH, WIDTH>(slab + i * DEPTH, m, k, line + i);
}

/// Positions of left operands of 16 × 16, those of a warp's first line: `left_on` leads to others.
template <Along LEFT> __device__ __forceinline__ int left_place(int line) {
    const int lane = threadIdx.x & 31;
    return LEFT == Along::Rows
               ? place<DEPTH>(line + (lane & 15), lane >> 4)
               : chunk_on(place<TILE>((lane & 7) + (lane >> 4) * 8, lane >> 3 & 1), line / 8);
}
/// Loads the operand of the m-th 16 lines and the k-th 16 summands.
template <Along LEFT>
__device__ __forceinline__ void load_left(unsigned (&left)[4], const bf16 *a, int at, int m,
                                          int k) {
    if (LEFT == Along::Rows)
        load_matrices(left, a + chunk_on(at, 2 * k) + m * 16 * DEPTH);
    else
        load_matrices_transposed(left, a + chunk_on(at, 2 * m) + k * 16 * TILE);
}

/// This lane's place in what a warp has of a tile: entry (m, n, i) lies 16 m + 8 (i / 2) rows below
/// it and 8 n + i % 2 columns to the right, as `multiply_add` lays them out.
__device__ __forceinline__ int lane_row() { return thread_anew() >> 2 & 7; }
__device__ __forceinline__ int lane_column() { return 2 * (thread_anew() & 3); }

/// Four warps share a tile as quarters of 64 × 64.
struct Quarters {
    static constexpr int THREADS = 128, BANDS = 4, EIGHTS = 8, SIDES = 2, PANEL = TILE;
    using Part = float[BANDS][EIGHTS][4];
    static __device__ __forceinline__ int side() { return thread_anew() >> 5 & 1; }
    static __device__ __forceinline__ int first_row() { return thread_anew() >> 6 << 6; }
    static __device__ __forceinline__ int row() { return first_row() + lane_row(); }
    static __device__ __forceinline__ int column() { return 64 * side() + lane_column(); }
    static __device__ __forceinline__ void publish() {}

    /// sums += left · right over one slab.
    template <Along LEFT, Along RIGHT>
    static __device__ __forceinline__ void multiply_slab(Part &sums, const bf16 *a, const bf16 *b) {
        const int lane = threadIdx.x & 31, left_at = left_place<LEFT>(first_row());
        const int right_at =
            RIGHT == Along::Rows
                ? place<DEPTH>(64 * side() + (lane >> 4) * 8 + (lane & 7), lane >> 3 & 1)
                : chunk_on(place<TILE>(lane & 15, lane >> 4), 8 * side());
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            unsigned left[BANDS][4];
#pragma unroll
            for (int m = 0; m < BANDS; m++) load_left<LEFT>(left[m], a, left_at, m, k);
#pragma unroll
            for (int n = 0; n < EIGHTS; n += 2) {
                unsigned right[4];
                if (RIGHT == Along::Rows)
                    load_matrices(right, b + chunk_on(right_at, 2 * k) + n * 8 * DEPTH);
                else
                    load_matrices_transposed(right, b + chunk_on(right_at, n) + k * 16 * TILE);
#pragma unroll
                for (int m = 0; m < BANDS; m++) {
                    multiply_add(sums[m][n], left[m], right[0], right[1]);
                    multiply_add(sums[m][n + 1], left[m], right[2], right[3]);
                }
            }
        }
    }
};

/// The product's tiles of rows from `row` on and columns from TILE · `first` to TILE · `end`, one
/// after the other: `take(tile, part)` gets a warp's part of each. Ends with a barrier: shared
/// memory is free then. `Warps` says how a block's warps share a tile.
template <class Warps, Along LEFT, Along RIGHT, class Take>
__device__ __forceinline__ void multiply(const Matrix &left, const Matrix &right, int row,
                                         int first, int end, Take take) {
    SHARED_MEMORY(shared);
    bf16 *stages = reinterpret_cast<bf16 *>(shared); // a stage: left, right
    const int depth = LEFT == Along::Rows ? left.columns : left.rows;
    int next_tile = first, next_k = 0, stage = 0;
    const auto load = [&](int to) {
        if (next_tile < end) {
            load_operand<LEFT, Warps::THREADS, TILE>(stages + to * 2 * SLAB, left, row, next_k);
            load_operand<RIGHT, Warps::THREADS, Warps::PANEL>(stages + to * 2 * SLAB + SLAB, right,
                                                              next_tile * TILE, next_k);
            next_k += DEPTH;
            if (next_k >= depth) next_k = 0, next_tile++;
        }
        copies_commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) load(i);
    for (int tile = first; tile < end; tile++) {
        typename Warps::Part part;
#pragma unroll
        for (int m = 0; m < Warps::BANDS; m++)
#pragma unroll
            for (int n = 0; n < Warps::EIGHTS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) part[m][n][i] = 0;
        for (int k = 0; k < depth; k += DEPTH) {
            copies_wait<STAGES - 2>();
            Warps::publish();
            __syncthreads(); // this slab is here for all, and nobody reads the oldest any more
            load(stage == 0 ? STAGES - 1 : stage - 1);
            Warps::template multiply_slab<LEFT, RIGHT>(part, stages + stage * 2 * SLAB,
                                                       stages + stage * 2 * SLAB + SLAB);
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        }
        take(tile, part);
    }
    copies_wait<0>();
    __syncthreads();
}

/// A product that goes to memory: in f32, by itself or on top of what is there, in bf16, or both.
struct SumArgs {
    Matrix left, right;
    float *out; ///< `[rows, columns]`; null if it is only wanted in bf16
    int rows;
    bool add;                ///< to what is in `out`
    bf16 *rounded = nullptr; ///< the same numbers in bf16, if it is not null
    const bf16 *bias = nullptr; ///< added to each row, if it is not null
    int slice = 0; ///< rows of both operands that a layer of blocks (blockIdx.z) sums into a matrix
                   ///< of its own in `out`; 0: one layer takes all. For sums along columns alone
};

/// The rows of a slice, as a matrix of their own.
__device__ __forceinline__ Matrix slice_of(const Matrix &m, int first, int rows) {
    return {m.data + (long long)first * m.stride, m.stride, min(rows, m.rows - first), m.columns};
}

/// Two neighbours of a row and of what is added to it.
__device__ __forceinline__ float2 plus_bias(float2 sum, const bf16 *bias) {
    const unsigned two = *reinterpret_cast<const unsigned *>(bias);
    return make_float2(sum.x + bf16_low(two), sum.y + bf16_high(two));
}

/// Sums along rows or columns of both operands; `columns` of the result are then the rows or the
/// columns of the right one, an even number. A block takes one tile.
template <class Warps, Along LEFT, Along RIGHT>
__device__ __forceinline__ void sum_up(const SumArgs &p) {
    const int row0 = blockIdx.x * TILE, tile = blockIdx.y,
              columns = RIGHT == Along::Rows ? p.right.rows : p.right.columns;
    const bool sliced = LEFT == Along::Columns && RIGHT == Along::Columns && p.slice;
    const int first = sliced ? blockIdx.z * p.slice : 0;
    float *out = sliced ? p.out + (long long)blockIdx.z * p.rows * columns : p.out;
    multiply<Warps, LEFT, RIGHT>(
        sliced ? slice_of(p.left, first, p.slice) : p.left,
        sliced ? slice_of(p.right, first, p.slice) : p.right, row0, tile, tile + 1,
        [&](int, typename Warps::Part &sums) {
            const int column = tile * TILE + Warps::column();
#pragma unroll
            for (int m = 0; m < Warps::BANDS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = row0 + Warps::row() + m * 16 + half * 8;
                    if (row >= p.rows) continue;
                    const long long at = (long long)row * columns + column;
#pragma unroll
                    for (int n = 0; n < Warps::EIGHTS; n++) {
                        if (column + n * 8 >= columns) continue;
                        float2 *pair = reinterpret_cast<float2 *>(out + at + n * 8);
                        const float2 old = p.add ? *pair : make_float2(0, 0);
                        float2 sum = make_float2(old.x + sums[m][n][2 * half],
                                                 old.y + sums[m][n][2 * half + 1]);
                        if (p.bias) sum = plus_bias(sum, p.bias + column + n * 8);
                        if (out) *pair = sum;
                        if (p.rounded)
                            *reinterpret_cast<unsigned *>(p.rounded + at + n * 8) =
                                pack_bf16(sum.x, sum.y);
                    }
                }
        });
}
