// The primitives for the emulated machine: which lane holds what is laid out as in the tables of
// the PTX ISA.
#include "tensor_core.h"

#include <cmath>
#include <cstdint>

#include "state.h"

void emulation::check_global(const void *address, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes) fail("a misaligned address in global memory");
}

void copy_async(void *to, const void *from, bool there) {
    emulation::check_shared(to, 16);
    if (there) emulation::check_global(from, 16);
    const emulation::Copy copy{to, there ? from : nullptr};
    if (emulation::schedule.copies_land_at_once) {
        copy.land();
        emulation::fibres[emulation::current].landed.push_back(to);
    } else
        emulation::fibres[emulation::current].open.push_back(copy);
}
void copies_commit() {
    auto &fibre = emulation::fibres[emulation::current];
    fibre.groups.push_back(std::move(fibre.open));
    fibre.open.clear();
}
void emulation::wait_for_copies(size_t pending) {
    auto &fibre = emulation::fibres[emulation::current];
    auto &groups = fibre.groups;
    for (; groups.size() > pending; groups.pop_front())
        for (const auto &copy : groups.front()) {
            copy.land();
            fibre.landed.push_back(copy.to);
        }
}

namespace emulation {
struct Words {
    unsigned w[4];
};
inline unsigned short bits_at(const void *row, int column) {
    unsigned short bits;
    std::memcpy(&bits, static_cast<const unsigned char *>(row) + 2 * column, 2);
    return bits;
}
template <bool TRANSPOSED> Words load_matrices(const void *row) {
    check_shared(row, 16);
    return of_the_warp<Words>(row, [](const void *const *rows, Words *out) {
        counters.matrix_loads++;
        for (int matrix = 0; matrix < 4; matrix++) {
            const void *const *at = rows + 8 * matrix;
            // Eight rows of 16 bytes fill the 32 banks once, if no two share theirs.
            int hits[8] = {}, most = 0;
            for (int i = 0; i < 8; i++) {
                const int chunk =
                    (static_cast<const unsigned char *>(at[i]) - shared_memory) / 16 % 8;
                most = max(most, ++hits[chunk]);
            }
            counters.bank_conflicts += most - 1;
            for (int lane = 0; lane < WARP; lane++) {
                const int i = lane / 4, j = 2 * (lane % 4);
                const unsigned low = TRANSPOSED ? bits_at(at[j], i) : bits_at(at[i], j);
                const unsigned high = TRANSPOSED ? bits_at(at[j + 1], i) : bits_at(at[i], j + 1);
                out[lane].w[matrix] = low | high << 16;
            }
        }
    });
}
inline float low(unsigned word) { return __int_as_float(static_cast<int>(word << 16)); }
inline float high(unsigned word) { return __int_as_float(static_cast<int>(word & 0xffff0000u)); }
} // namespace emulation

void load_matrices(unsigned (&r)[4], const void *row) {
    const auto words = emulation::load_matrices<false>(row);
    std::memcpy(r, words.w, sizeof r);
}
void load_matrices_transposed(unsigned (&r)[4], const void *row) {
    const auto words = emulation::load_matrices<true>(row);
    std::memcpy(r, words.w, sizeof r);
}

void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct In {
        unsigned a[4], b[2];
        float d[4];
    } in{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
    struct Out {
        float d[4];
    };
    const auto out = emulation::of_the_warp<Out>(in, [](const In *in, Out *out) {
        emulation::counters.products++;
        float a[16][16], b[16][8];
        for (int lane = 0; lane < emulation::WARP; lane++) {
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; i++) {
                const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
                a[row][column] = emulation::low(in[lane].a[i]);
                a[row][column + 1] = emulation::high(in[lane].a[i]);
            }
            for (int i = 0; i < 2; i++) {
                b[2 * t + 8 * i][g] = emulation::low(in[lane].b[i]);
                b[2 * t + 8 * i + 1][g] = emulation::high(in[lane].b[i]);
            }
        }
        float sum[16][8] = {};
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < 16; k++)
                for (int j = 0; j < 8; j++) sum[i][j] += a[i][k] * b[k][j];
        for (int lane = 0; lane < emulation::WARP; lane++)
            for (int i = 0; i < 4; i++)
                out[lane].d[i] = in[lane].d[i] + sum[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    });
    std::memcpy(d, out.d, sizeof d);
}

// --- Products of a warp group: read at once where copies land at once, else not before they are
// waited for ---

unsigned long long describe_tile(const void *tile, int panels) {
    const auto at = static_cast<unsigned long long>(static_cast<const unsigned char *>(tile) -
                                                    emulation::shared_memory);
    return (at & 0x3ffff) >> 4 | static_cast<unsigned long long>(panels >> 4) << 16 |
           static_cast<unsigned long long>(1024 >> 4) << 32 | 1ull << 62;
}
void publish_copies() {
    auto &landed = emulation::fibres[emulation::current].landed;
    for (void *to : landed) {
        const auto at = static_cast<unsigned char *>(to) - emulation::shared_memory;
        std::memcpy(emulation::published + at, to, 16);
    }
    landed.clear();
}
void products_commit() {
    auto &fibre = emulation::fibres[emulation::current];
    fibre.product_groups.push_back(std::move(fibre.open_products));
    fibre.open_products.clear();
}

namespace emulation {
/// Where element (i, k) of an operand lies: its 16 columns k are contiguous, or its rows i if it is
/// read `by_columns`.
inline const unsigned char *place_in(unsigned long long tile, int i, int k, bool by_columns) {
    const size_t base = (tile & 0x3fff) << 4, panel = (tile >> 16 & 0x3fff) << 4,
                 rows = (tile >> 32 & 0x3fff) << 4;
    size_t at = by_columns ? base + k / 8 * rows + k % 8 * 128 + i / 64 * panel + i % 64 * 2
                           : base + i / 8 * rows + i % 8 * 128 + k * 2;
    at ^= (at >> 7 & 7) << 4;
    if (at + 2 > shared_bytes) fail("an address outside of shared memory");
    return published + at;
}
inline void finish(const Product &p) {
    const int lane = current % WARP, first = current / WARP % 4 * 16 + lane / 4;
    if (lane == 0) counters.products += p.columns / 8;
    // Eight numbers in a row share a chunk of 16 bytes, wherever the swizzle put it.
    const auto eight = [](float *to, const unsigned char *from) {
        for (int i = 0; i < 8; i++) to[i] = low(bits_at(from, i));
    };
    float left[2][16];
    std::memcpy(left, p.rows, sizeof left);
    for (int half = 0; half < 2 && !p.left_in_registers; half++)
        for (int k = 0; k < 16; k += 8)
            eight(left[half] + k, place_in(p.left, first + 8 * half, k, false));
    for (int n = 0; n < p.columns / 8; n++) {
        const int column = n * 8 + lane % 4 * 2;
        float right[2][16];
        for (int k = 0; k < 16; k++)
            if (p.by_columns) {
                const unsigned char *from = place_in(p.right, column, k, true);
                right[0][k] = low(bits_at(from, 0)), right[1][k] = low(bits_at(from, 1));
            } else if (k % 8 == 0) {
                for (int c = 0; c < 2; c++)
                    eight(right[c] + k, place_in(p.right, column + c, k, false));
            }
        for (int half = 0; half < 2; half++)
            for (int c = 0; c < 2; c++) {
                float sum = 0;
                for (int k = 0; k < 16; k++) sum += left[half][k] * right[c][k];
                float &to = p.sums[n * 4 + half * 2 + c];
                to = p.add ? to + sum : sum;
            }
    }
}
inline void start(const Product &p) {
    if (schedule.copies_land_at_once)
        finish(p);
    else
        fibres[current].open_products.push_back(p);
}
} // namespace emulation

void emulation::wait_for_products(size_t pending) {
    auto &groups = emulation::fibres[emulation::current].product_groups;
    for (; groups.size() > pending; groups.pop_front())
        for (const auto &product : groups.front()) emulation::finish(product);
}
void emulation::start_tiles(float *d, int columns, unsigned long long a, unsigned long long b,
                            bool add) {
    start({d, columns, add, false, false, a, b, {}});
}
void emulation::start_weighted_tile(float *d, int columns, const unsigned (&a)[4],
                                    unsigned long long b) {
    Product p{d, columns, true, true, true, 0, b, {}};
    const emulation::Words words{{a[0], a[1], a[2], a[3]}};
    struct Two {
        unsigned w[2][8];
    };
    const auto rows = emulation::of_the_warp<Two>(words, [](const emulation::Words *in, Two *out) {
        for (int lane = 0; lane < emulation::WARP; lane++)
            for (int half = 0; half < 2; half++)
                for (int i = 0; i < 8; i++)
                    out[lane].w[half][i] = in[lane / 4 * 4 + i % 4].w[i / 4 * 2 + half];
    });
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 8; i++) {
            p.rows[half][2 * i] = emulation::low(rows.w[half][i]);
            p.rows[half][2 * i + 1] = emulation::high(rows.w[half][i]);
        }
    emulation::start(p);
}

/// Rounds to nearest, ties to even; a NaN stays one.
static unsigned short round_bf16(float x) {
    const auto bits = static_cast<unsigned>(__float_as_int(x));
    if (x != x) return static_cast<unsigned short>(bits >> 16 | 0x40);
    return static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
unsigned pack_bf16(float low, float high) {
    return round_bf16(low) | static_cast<unsigned>(round_bf16(high)) << 16;
}
unsigned add_bf16(unsigned a, unsigned b) {
    return pack_bf16(emulation::low(a) + emulation::low(b),
                     emulation::high(a) + emulation::high(b));
}
float from_f16(unsigned bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31),
              fraction = static_cast<int>(bits & 1023);
    const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                       : exponent == 31
                           ? (fraction ? NAN : INFINITY)
                           : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    return bits & 0x8000 ? -size : size;
}
float exp2_fast(float x) {
    const float y = std::exp2(x);
    return y < 1.1754944e-38f ? 0.f : y;
}
