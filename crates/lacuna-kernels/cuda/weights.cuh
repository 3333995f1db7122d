// Weights as GGML stores them, unpacked in registers for tensor cores: small integers, exact in
// bf16, with the scale and the offset that a sum of their products meets in f32.
#pragma once
#include "tensor_core.h"

/// Columns that share a scale, and are multiplied at a time.
constexpr int PART = 32;

/// Eight weights of a row, those of a part that one lane multiplies: four for each of two products
/// of 16 columns, two to a word.
struct Codes {
    unsigned words[2][2];
    float scale, offset;
};

/// N words of shared memory, APART words from each other, the first at a multiple of two bytes.
template <int N, int APART>
__device__ __forceinline__ void words_at(unsigned (&to)[N], const unsigned char *shared, int at) {
    const unsigned *words = reinterpret_cast<const unsigned *>(shared) + (at >> 2);
    const unsigned shift = (at & 2) << 3;
#pragma unroll
    for (int i = 0; i < N; i++)
        to[i] = __funnelshift_r(words[i * APART], words[i * APART + 1], shift);
}
/// The f16 at a multiple of two bytes in shared memory.
__device__ __forceinline__ float f16_at(const unsigned char *shared, int at) {
    return from_f16(*reinterpret_cast<const unsigned short *>(shared + at));
}
/// The nibbles at bits 0 and 16, each less a bias; `minus_bias` is −128 − bias, twice.
__device__ __forceinline__ unsigned nibbles(unsigned word, unsigned minus_bias) {
    return add_bf16((word & 0x000f000f) | 0x43004300, minus_bias); // 0x4300 is 128
}
/// An integer below 2²³.
__device__ __forceinline__ float small_integer(unsigned i) {
    return __int_as_float(static_cast<int>(i | 0x4b000000)) - 8388608.f;
}

// A format of weights: the COLUMNS of a slice; the bytes OF_PART; the STRIDE between rows of shared
// memory, such that eight rows meet in no bank; the bytes that a row of weights is ALIGNED to. In a
// part the lane `quarter` of four multiplies four columns in product i, from quarter · EACH + i ·
// APART on, the first with the third if they are CROSSED.

struct Bf16 {
    static constexpr int COLUMNS = 64, OF_PART = 64, STRIDE = 192, ALIGNED = 16;
    static constexpr bool SCALED = false, OFFSET = false, CROSSED = false;
    static constexpr int EACH = 8, APART = 4;
    static __device__ __forceinline__ Codes read(const unsigned char *shared, int at, int part,
                                                 int quarter) {
        const uint4 eight =
            *reinterpret_cast<const uint4 *>(shared + at + part * 64 + quarter * 16);
        return {{{eight.x, eight.y}, {eight.z, eight.w}}, 1, 0};
    }
};

/// w = d · q: d, 32 signed bytes.
struct Q8_0 {
    static constexpr int COLUMNS = 128, OF_PART = 34, STRIDE = 176, ALIGNED = 2;
    static constexpr bool SCALED = true, OFFSET = false, CROSSED = false;
    static constexpr int EACH = 4, APART = 16;
    /// Two signed bytes, in the lower halves of two shorts.
    static __device__ __forceinline__ unsigned bytes(unsigned two) {
        return add_bf16((two & 0x007f007f) | 0x43004300, (two & 0x00800080) | 0xc300c300);
    }
    static __device__ __forceinline__ Codes read(const unsigned char *shared, int at, int part,
                                                 int quarter) {
        const int block = at + part * 34;
        Codes codes;
        unsigned four[2];
        words_at<2, 4>(four, shared, block + 2 + quarter * 4);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            codes.words[i][0] = bytes(__byte_perm(four[i], 0, 0x4140));
            codes.words[i][1] = bytes(__byte_perm(four[i], 0, 0x4342));
        }
        codes.scale = f16_at(shared, block);
        return codes;
    }
};

/// w = d · (q − 8): d, 16 bytes of nibbles, the low ones first.
struct Q4_0 {
    static constexpr int COLUMNS = 256, OF_PART = 18, STRIDE = 176, ALIGNED = 2;
    static constexpr bool SCALED = true, OFFSET = false, CROSSED = true;
    static constexpr int EACH = 4, APART = 16;
    static __device__ __forceinline__ Codes read(const unsigned char *shared, int at, int part,
                                                 int quarter) {
        const int block = at + part * 18;
        unsigned of_lane[1];
        words_at<1, 1>(of_lane, shared, block + 2 + quarter * 4);
        const unsigned eight = of_lane[0], minus = 0xc308c308;
        return {{{nibbles(eight, minus), nibbles(eight >> 8, minus)},
                 {nibbles(eight >> 4, minus), nibbles(eight >> 12, minus)}},
                f16_at(shared, block),
                0};
    }
};

/// w = d · q + m: d, m, 16 bytes of nibbles.
struct Q4_1 {
    static constexpr int COLUMNS = 256, OF_PART = 20, STRIDE = 176, ALIGNED = 4;
    static constexpr bool SCALED = true, OFFSET = true, CROSSED = true;
    static constexpr int EACH = 4, APART = 16;
    static __device__ __forceinline__ Codes read(const unsigned char *shared, int at, int part,
                                                 int quarter) {
        const int block = at + part * 20;
        const unsigned eight =
                           *reinterpret_cast<const unsigned *>(shared + block + 4 + quarter * 4),
                       minus = 0xc300c300;
        return {{{nibbles(eight, minus), nibbles(eight >> 8, minus)},
                 {nibbles(eight >> 4, minus), nibbles(eight >> 12, minus)}},
                f16_at(shared, block),
                f16_at(shared, block + 2)};
    }
};

/// w = d · scale · q − dmin · min, for eight parts: d, dmin, twelve bytes of scales and minima, 32
/// bytes of nibbles for each two parts.
struct Q4K {
    static constexpr int COLUMNS = 256, OF_PART = 18, STRIDE = 160, ALIGNED = 16;
    static constexpr bool SCALED = true, OFFSET = true, CROSSED = true;
    static constexpr int EACH = 8, APART = 4;
    static __device__ __forceinline__ Codes read(const unsigned char *shared, int at, int part,
                                                 int quarter) {
        const uint4 head = *reinterpret_cast<const uint4 *>(shared + at);
        const int i = part % 4 * 8;
        const unsigned low = head.y >> i, middle = head.z >> i, high = head.w >> i,
                       scale = part < 4 ? low & 63 : (high & 15) | (low >> 2 & 48),
                       least = part < 4 ? middle & 63 : (high >> 4 & 15) | (middle >> 2 & 48);
        const uint2 both =
            *reinterpret_cast<const uint2 *>(shared + at + 16 + part / 2 * 32 + quarter * 8);
        const unsigned first = both.x >> part % 2 * 4, second = both.y >> part % 2 * 4,
                       minus = 0xc300c300;
        return {{{nibbles(first, minus), nibbles(first >> 8, minus)},
                 {nibbles(second, minus), nibbles(second >> 8, minus)}},
                from_f16(head.x) * small_integer(scale),
                -from_f16(head.x >> 16) * small_integer(least)};
    }
};
