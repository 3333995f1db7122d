// Products of matrices by warp groups, for sm_90a.
#pragma once
#include "hopper.cuh"
#include "product.cuh"

/// Two warp groups share a tile as halves of 64 rows; a warp has 16 of them.
struct Groups {
    static constexpr int THREADS = 256, BANDS = 1, EIGHTS = 16, SIDES = 1, PANEL = 64;
    using Part = float[BANDS][EIGHTS][4];
    static __device__ __forceinline__ int side() { return 0; }
    static __device__ __forceinline__ int first_row() { return this_warp() * 16; }
    static __device__ __forceinline__ int row() { return (thread_anew() >> 5) * 16 + lane_row(); }
    static __device__ __forceinline__ int column() { return lane_column(); }
    static __device__ __forceinline__ void publish() { publish_copies(); }

    /// sums += left · right over one slab. A right operand that is read down its columns wants its
    /// left one in registers.
    template <Along LEFT, Along RIGHT>
    static __device__ __forceinline__ void multiply_slab(Part &sums, const bf16 *a, const bf16 *b) {
        constexpr int STEPS = DEPTH / 16;
        if (RIGHT == Along::Rows) {
            static_assert(LEFT == Along::Rows || RIGHT == Along::Columns);
            const bf16 *rows = a + this_warp() / 4 * 64 * DEPTH;
            products_begin();
#pragma unroll
            for (int k = 0; k < STEPS; k++)
                multiply_tiles(sums[0], describe_tile(rows + k * 16), describe_tile(b + k * 16),
                               true);
        } else {
            unsigned left[STEPS][4];
            const int left_at = left_place<LEFT>(first_row());
#pragma unroll
            for (int k = 0; k < STEPS; k++) load_left<LEFT>(left[k], a, left_at, 0, k);
            products_begin();
#pragma unroll
            for (int k = 0; k < STEPS; k++)
                add_weighted_tile(sums[0], left[k],
                                  describe_tile(b + k * 16 * PANEL, DEPTH * PANEL * 2));
        }
        products_commit();
        products_wait<0>();
    }
};
