// Products of one to sixteen rows with weights as they are stored: y = x · Wᵀ, x in bf16 or f32,
// sums in f32. Every weight is read from memory once for all rows, and the time is that of reading
// them.
//
// The small integers of quantized weights are exact in bf16: they are what tensor cores multiply x
// with, a sum for each part of 32 columns, which then meets the part's scale in f32. Numbers of x
// in f32 are cut into three of bf16, exactly. So products lose nothing but in their sums.
//
// A result's bits depend on its row of x, its row of W and the number of columns, on nothing else:
// warp w of a block takes the slices of columns w, w + 8, …, and the eight sums are added in order.
#pragma once
#include "weights.cuh"

/// Warps of a block, slices of columns on their way to each, and rows of weights that a block
/// takes.
constexpr int PRODUCT_WARPS = 8, PRODUCT_STAGES = 2, PRODUCT_OUTPUTS = 32;

struct FewRowsArgs {
    /// `[outputs, columns]` as stored, from a multiple of 16 bytes on; read to the next multiple.
    const unsigned char *weights;
    const void *x;              ///< `[rows, columns]`, from a multiple of 16 bytes on
    float *y;                   ///< `[rows, outputs]`
    int rows, outputs, columns; ///< rows: at most 16; columns: a multiple of 32, of 256 for q4_k
    const float *bias = nullptr; ///< `[outputs]`, added to each row, if it is not null
};

/// Rows of a table, by their ids, as numbers: what an embedding reads.
struct StoredRowsArgs {
    const unsigned char *table; ///< `[v, columns]`, read as weights are
    const unsigned *ids;        ///< `[rows]`
    float *out;                 ///< `[rows, columns]`
    int rows, v, columns;       ///< columns: as for a product
};

/// Numbers of x in bf16, four as they are read.
struct InBf16 {
    using Four = uint2;
    static constexpr int TERMS = 1, BYTES = 2;
    /// Two to a word, the first with the third if they are CROSSED.
    template <bool CROSSED>
    static __device__ __forceinline__ void split(unsigned (&words)[TERMS][2], const Four &four) {
        words[0][0] = CROSSED ? __byte_perm(four.x, four.y, 0x5410) : four.x;
        words[0][1] = CROSSED ? __byte_perm(four.x, four.y, 0x7632) : four.y;
    }
};

/// Numbers of x in f32, each the sum of three in bf16.
struct InF32 {
    using Four = uint4;
    static constexpr int TERMS = 3, BYTES = 4;
    template <bool CROSSED>
    static __device__ __forceinline__ void split(unsigned (&words)[TERMS][2], const Four &four) {
        unsigned pairs[2][2] = {{four.x, CROSSED ? four.z : four.y},
                                {CROSSED ? four.y : four.z, four.w}};
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int term = 0; term < TERMS; term++) {
                words[term][i] = __byte_perm(pairs[i][0], pairs[i][1], 0x7632);
#pragma unroll
                for (int j = 0; j < 2; j++) pairs[i][j] = without_upper_half(pairs[i][j]);
            }
    }
    /// A number less the bf16 that its upper half is.
    static __device__ __forceinline__ unsigned without_upper_half(unsigned bits) {
        return static_cast<unsigned>(
            __float_as_int(__int_as_float(static_cast<int>(bits)) - bf16_high(bits)));
    }
};

/// The byte that a row of weights begins at, and bytes from a slice of it to the next.
template <class W>
__device__ __forceinline__ long long row_begin(const FewRowsArgs &p, long long row) {
    return row * (p.columns / PART) * W::OF_PART;
}
template <class W> constexpr int SLICE_BYTES = W::COLUMNS / PART * W::OF_PART;

/// Bytes of shared memory that a block takes.
template <class W> constexpr int few_rows_shared() {
    return PRODUCT_STAGES * PRODUCT_WARPS * PRODUCT_OUTPUTS * W::STRIDE;
}

/// A block's rows of weights, counted in bytes from a multiple of 16 at or before the first one's
/// begin: so few that they fit in an int, which is what a copy's place is cheap to find with.
struct RowsOfBlock {
    const unsigned char *data;
    int first, stride, end; ///< end: that of the matrix

    template <class W> static __device__ __forceinline__ RowsOfBlock of(const FewRowsArgs &p) {
        const long long begin = row_begin<W>(p, (long long)blockIdx.x * PRODUCT_OUTPUTS),
                        whole = begin & ~15ll, end = row_begin<W>(p, p.outputs) - whole;
        return {p.weights + whole, static_cast<int>(begin & 15), p.columns / PART * W::OF_PART,
                static_cast<int>(min(end, 0x7fffffffll))};
    }
    template <class W> __device__ __forceinline__ int begin(int row, int slice) const {
        return first + row * stride + slice * SLICE_BYTES<W>;
    }
};

/// Starts to copy a slice of columns of the block's rows of weights, in whole chunks of 16 bytes;
/// what lies beyond the slice or the matrix becomes zeros.
template <class W>
__device__ __forceinline__ void load_slice(unsigned char *to, const RowsOfBlock &rows, int slice) {
    constexpr int CHUNKS = (SLICE_BYTES<W> + 15 + 16 - W::ALIGNED) / 16;
    static_assert(CHUNKS * 16 <= W::STRIDE);
    const int lane = thread_anew() & 31;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        const int index = i * 32 + lane, row = index / CHUNKS, chunk = index % CHUNKS,
                  begin = rows.begin<W>(row, slice), from = (begin & ~15) + chunk * 16;
        copy_async(to + row * W::STRIDE + chunk * 16, rows.data + static_cast<unsigned>(from),
                   from < min(begin + SLICE_BYTES<W>, rows.end));
    }
}

/// Running sums of a warp: bands of 16 rows of weights by groups of eight rows of x, as
/// `multiply_add` lays them out.
template <int GROUPS> using Sums = float[PRODUCT_OUTPUTS / 16][GROUPS][4];

/// A lane's share of a part of x: four columns for each of two products; rows that are none are
/// zeros.
template <class X, int GROUPS> using PartOfX = typename X::Four[GROUPS][2];

/// Starts to read the part of x that begins with `column`.
template <class W, class X, int GROUPS>
__device__ __forceinline__ void read_x(PartOfX<X, GROUPS> &x, const FewRowsArgs &p, int column) {
    const int lane = threadIdx.x & 31;
    column += lane % 4 * W::EACH;
#pragma unroll
    for (int n = 0; n < GROUPS; n++) {
        const int row = n * 8 + lane / 4;
        const auto *from = static_cast<const unsigned char *>(p.x) +
                           ((long long)row * p.columns + column) * X::BYTES;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            x[n][i] = {};
            if (row < p.rows)
                x[n][i] =
                    *reinterpret_cast<const typename X::Four *>(from + i * W::APART * X::BYTES);
        }
    }
}

/// Adds the products of one part of a slice.
template <class W, class X, int GROUPS>
__device__ __forceinline__ void add_part(Sums<GROUPS> &sums, const PartOfX<X, GROUPS> &of_x,
                                         const unsigned char *slice, const int (&at)[4], int part) {
    unsigned x[GROUPS][2][X::TERMS][2];
#pragma unroll
    for (int n = 0; n < GROUPS; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) X::template split<W::CROSSED>(x[n][i], of_x[n][i]);
    const auto multiply = [&](float (&d)[4], int n, const auto &operand) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unsigned a[4];
            operand(i, a);
#pragma unroll
            for (int term = 0; term < X::TERMS; term++)
                multiply_add(d, a, x[n][i][term][0], x[n][i][term][1]);
        }
    };
    float x_sums[GROUPS][4] = {}; // Σ x, for what is added to all weights of a part
    if (W::OFFSET) {
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
            multiply(x_sums[n], n, [](int, unsigned (&a)[4]) {
                a[0] = a[1] = a[2] = a[3] = 0x3f803f80; // ones
            });
    }
#pragma unroll
    for (int m = 0; m < PRODUCT_OUTPUTS / 16; m++) {
        Codes codes[2];
#pragma unroll
        for (int half = 0; half < 2; half++)
            codes[half] = W::read(slice, at[m * 2 + half], part, threadIdx.x & 3);
        const auto operand = [&](int i, unsigned (&a)[4]) {
            a[0] = codes[0].words[i][0], a[1] = codes[1].words[i][0];
            a[2] = codes[0].words[i][1], a[3] = codes[1].words[i][1];
        };
#pragma unroll
        for (int n = 0; n < GROUPS; n++) {
            if (!W::SCALED) {
                multiply(sums[m][n], n, operand);
                continue;
            }
            float of_part[4] = {};
            multiply(of_part, n, operand);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[m][n][i] = fmaf(codes[i / 2].scale, of_part[i], sums[m][n][i]);
                if (W::OFFSET)
                    sums[m][n][i] = fmaf(codes[i / 2].offset, x_sums[n][i], sums[m][n][i]);
            }
        }
    }
}

/// Adds up what the warps have, and writes it. The shared memory must be free.
template <int GROUPS>
__device__ __forceinline__ void store_products(const Sums<GROUPS> &sums, const FewRowsArgs &p) {
    // Four floats more to a row spread what a warp writes over the banks.
    constexpr int STRIDE = PRODUCT_OUTPUTS + 4, OF_WARP = GROUPS * 8 * STRIDE;
    SHARED_MEMORY(shared);
    float *all = reinterpret_cast<float *>(shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int m = 0; m < PRODUCT_OUTPUTS / 16; m++)
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                all[warp * OF_WARP + (n * 8 + lane % 4 * 2 + i % 2) * STRIDE + m * 16 + i / 2 * 8 +
                    lane / 4] = sums[m][n][i];
    __syncthreads(); // every warp's sums are here
    const int output = blockIdx.x * PRODUCT_OUTPUTS + lane;
    for (int row = warp; row < p.rows; row += PRODUCT_WARPS) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < PRODUCT_WARPS; i++) sum += all[i * OF_WARP + row * STRIDE + lane];
        if (output >= p.outputs) continue;
        if (p.bias) sum += p.bias[output];
        p.y[(long long)row * p.outputs + output] = sum;
    }
}

template <class W, class X, int GROUPS>
__device__ __forceinline__ void multiply_few_rows(const FewRowsArgs &p) {
    constexpr int STAGE = PRODUCT_OUTPUTS * W::STRIDE;
    SHARED_MEMORY(shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    unsigned char *own = shared + warp * PRODUCT_STAGES * STAGE;
    const RowsOfBlock rows = RowsOfBlock::of<W>(p);
    int at[4]; // where this lane's rows begin in any slice: chunks of 16 bytes are copied
    static_assert(PRODUCT_WARPS * SLICE_BYTES<W> % 16 == 0);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = i * 8 + lane / 4;
        at[i] = row * W::STRIDE + (rows.begin<W>(row, warp) & 15);
    }
    const int slices = (p.columns + W::COLUMNS - 1) / W::COLUMNS;
    int slice = warp;
#pragma unroll
    for (int i = 0; i < PRODUCT_STAGES; i++) {
        if (slice + i * PRODUCT_WARPS < slices)
            load_slice<W>(own + i * STAGE, rows, slice + i * PRODUCT_WARPS);
        copies_commit();
    }
    Sums<GROUPS> sums = {};
    PartOfX<X, GROUPS> next;
    if (slice < slices) read_x<W, X, GROUPS>(next, p, slice * W::COLUMNS);
    for (int stage = 0; slice < slices; slice += PRODUCT_WARPS, stage ^= 1) {
        copies_wait<PRODUCT_STAGES - 1>();
        __syncwarp(); // this slice is here for all lanes
        const int column = slice * W::COLUMNS, parts = min(W::COLUMNS, p.columns - column) / PART;
        for (int part = 0; part < parts; part++) {
            PartOfX<X, GROUPS> now;
#pragma unroll
            for (int n = 0; n < GROUPS; n++) now[n][0] = next[n][0], now[n][1] = next[n][1];
            // x for the next part, of this slice or the next, comes while this one is multiplied.
            const int after = part + 1 < parts ? column + (part + 1) * PART
                                               : (slice + PRODUCT_WARPS) * W::COLUMNS;
            if (after < p.columns) read_x<W, X, GROUPS>(next, p, after);
            add_part<W, X, GROUPS>(sums, now, own + stage * STAGE, at, part);
        }
        __syncwarp(); // no lane reads this slice any more
        if (slice + PRODUCT_STAGES * PRODUCT_WARPS < slices)
            load_slice<W>(own + stage * STAGE, rows, slice + PRODUCT_STAGES * PRODUCT_WARPS);
        copies_commit();
    }
    copies_wait<0>();
    __syncthreads(); // nobody reads a slice any more
    store_products<GROUPS>(sums, p);
}

/// Products in groups of eight rows of x: as few as hold them.
template <class W, class X> __device__ __forceinline__ void few_rows(const FewRowsArgs &p) {
    if (p.rows <= 8)
        multiply_few_rows<W, X, 1>(p);
    else
        multiply_few_rows<W, X, 2>(p);
}

/// A block unpacks a row, a thread eight numbers at a time; that of an id beyond the table becomes
/// NaNs.
template <class W> __device__ __forceinline__ void unpack_row(const StoredRowsArgs &p) {
    const unsigned id = p.ids[blockIdx.x];
    const long long begin = (long long)id * (p.columns / PART) * W::OF_PART;
    for (int i = threadIdx.x; i < p.columns / PART * 4; i += blockDim.x) {
        const int quarter = i % 4, slice = i / 4 * PART / W::COLUMNS,
                  part = i / 4 - slice * (W::COLUMNS / PART);
        float *to = p.out + (long long)blockIdx.x * p.columns + i / 4 * PART + quarter * W::EACH;
        Codes codes = {{}, __int_as_float(0x7fffffff), 0};
        if (id < static_cast<unsigned>(p.v)) {
            const long long from = begin + (long long)slice * SLICE_BYTES<W>;
            codes = W::read(p.table + (from & ~15ll), static_cast<int>(from & 15), part, quarter);
        }
        const float offset = W::OFFSET ? codes.offset : 0;
#pragma unroll
        for (int of = 0; of < 2; of++) {
            const unsigned a = codes.words[of][0], b = codes.words[of][1];
            // Crossed words hold numbers 0 and 2, 1 and 3.
            const float numbers[4] = {bf16_low(a), W::CROSSED ? bf16_low(b) : bf16_high(a),
                                      W::CROSSED ? bf16_high(a) : bf16_low(b), bf16_high(b)};
#pragma unroll
            for (int k = 0; k < 4; k++)
                to[of * W::APART + k] = __fadd_rn(__fmul_rn(codes.scale, numbers[k]), offset);
        }
    }
}

extern "C" {
#define FEW_ROWS(name, W, X)                                                                       \
    __global__ void __launch_bounds__(256, 2) few_rows_##name(FewRowsArgs p) { few_rows<W, X>(p); }
FEW_ROWS(bf16_bf16, Bf16, InBf16)
FEW_ROWS(bf16_f32, Bf16, InF32)
FEW_ROWS(q8_0_bf16, Q8_0, InBf16)
FEW_ROWS(q8_0_f32, Q8_0, InF32)
FEW_ROWS(q4_0_bf16, Q4_0, InBf16)
FEW_ROWS(q4_0_f32, Q4_0, InF32)
FEW_ROWS(q4_1_bf16, Q4_1, InBf16)
FEW_ROWS(q4_1_f32, Q4_1, InF32)
FEW_ROWS(q4_k_bf16, Q4K, InBf16)
FEW_ROWS(q4_k_f32, Q4K, InF32)
#undef FEW_ROWS
#define STORED_ROWS(name, W)                                                                       \
    __global__ void __launch_bounds__(128) stored_rows_##name(StoredRowsArgs p) {                  \
        unpack_row<W>(p);                                                                          \
    }
STORED_ROWS(q8_0, Q8_0)
STORED_ROWS(q4_0, Q4_0)
STORED_ROWS(q4_1, Q4_1)
STORED_ROWS(q4_k, Q4K)
#undef STORED_ROWS
}
