// The kernels on a card: the primitives against the emulation, every case of an operation against
// f64, then times.
//
//   card [check] [time] [NAME…]     without `check` and `time` both; without a name all operations
//
// Prints a line for each result and ends with a status other than 0 if one is wrong.
#include "../tests/primitives.cuh"
#include "adamw.cuh"
#include "attention.cuh"
#include "attention_decode.cuh"
#include "attention_f32.cuh"
#include "cross_entropy.cuh"
#include "device.cuh"
#include "embedding.cuh"
#include "few_rows.cuh"
#include "linear.cuh"
#include "rms_norm.cuh"
#include "rope.cuh"
#include "swiglu.cuh"
#include "sample.cuh"

extern "C" void emulated_primitives(const unsigned *in, unsigned *out, int blocks, int group);

namespace {

float as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

bool check_warp_primitives() {
    const int blocks = 256;
    Numbers numbers{11};
    std::vector<unsigned> in(blocks * PRIMITIVE_INPUT), expected(blocks * PRIMITIVE_OUTPUT), got;
    // Two bf16 numbers to a word, as products read them; words 0 to 4 of a lane are bits of any
    // kind, but for NaNs.
    for (auto &word : in)
        word = to_bf16(numbers.normal()) | (unsigned)to_bf16(numbers.normal()) << 16;
    for (int i = 0; i < blocks * 32; i++)
        for (int j = 0; j < 5; j++) {
            unsigned &word = in[i / 32 * PRIMITIVE_INPUT + TILE_WORDS + i % 32 * LANE_WORDS + j];
            do word = (unsigned)numbers.next();
            while ((word & 0x7f800000) == 0x7f800000);
        }
    emulated_primitives(in.data(), expected.data(), blocks, 0);
    const Buffer<unsigned> d_in(in), d_out((size_t)blocks * PRIMITIVE_OUTPUT);
    check_primitives<<<blocks, 32, (TILE_WORDS + 128) * 4>>>(
        PrimitiveArgs{d_in.data(), d_out.data()});
    MUST(cudaGetLastError());
    MUST(cudaDeviceSynchronize());
    d_out.read(got);
    struct {
        const char *name;
        int from, to;
        double tolerance; ///< relative to 1 + |expected|; none: the same bits
    } const parts[] = {{"load_matrices", 0, 4, 0},
                       {"load_matrices_transposed", 4, 8, 0},
                       {"copy_async", 8, 12, 0},
                       {"pack_bf16", 12, 13, 0},
                       {"multiply_add", 13, 17, 4e-6},
                       {"exp2_fast", 17, 18, 3e-7},
                       {"ballot", 18, 19, 0},
                       {"add_bf16", 19, 20, 0},
                       {"from_f16", 20, 21, 0},
                       {"shuffle", 21, 22, 0},
                       {"load_words, store_words", 24, 32, 0}};
    bool good = true;
    for (const auto &part : parts) {
        long wrong = 0, differ = 0;
        double most = 0;
        for (size_t i = 0; i < got.size(); i++) {
            const int at = i % RESULT_WORDS;
            if (at < part.from || at >= part.to) continue;
            differ += got[i] != expected[i];
            if (!part.tolerance) continue;
            const double e = std::fabs((double)as_float(got[i]) - as_float(expected[i])) /
                             (1 + std::fabs((double)as_float(expected[i])));
            most = std::max(most, e);
            wrong += !(e <= part.tolerance);
        }
        if (!part.tolerance) wrong = differ;
        std::printf("primitive %-26s %ld of %d words differ, by %.1e at most%s\n", part.name,
                    differ, blocks * 32 * (part.to - part.from), most, wrong ? "  FAILED" : "");
        good &= !wrong;
    }
    return good;
}

/// Products of a warp group of D columns, on normal numbers.
template <int D> bool check_group_products(void (*kernel)(PrimitiveArgs)) {
    const int blocks = 32, shared = GROUP_SHARED<D>;
    Numbers numbers{13};
    std::vector<unsigned> in(blocks * GROUP_INPUT<D>), expected(blocks * GROUP_OUTPUT<D>), got;
    for (auto &word : in)
        word = to_bf16(numbers.normal()) | (unsigned)to_bf16(numbers.normal()) << 16;
    emulated_primitives(in.data(), expected.data(), blocks, D);
    const Buffer<unsigned> d_in(in), d_out(expected.size());
    MUST(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              shared));
    kernel<<<blocks, 128, shared>>>(PrimitiveArgs{d_in.data(), d_out.data()});
    MUST(cudaGetLastError());
    MUST(cudaDeviceSynchronize());
    d_out.read(got);
    bool good = true;
    for (int part = 0; part < 2; part++) {
        double most = 0;
        for (size_t i = 0; i < got.size(); i++) {
            if ((int)(i % D >= D / 2) != part) continue;
            const double e = std::fabs((double)as_float(got[i]) - as_float(expected[i])) /
                             (1 + std::fabs((double)as_float(expected[i])));
            if (!(e <= most)) most = e;
        }
        const bool fine = most <= 2e-5;
        std::printf("primitive %s, %d columns: off by %.1e at most%s\n",
                    part ? "add_weighted_tile" : "multiply_tiles", D, most, fine ? "" : "  FAILED");
        good &= fine;
    }
    return good;
}

bool check_primitives(const cudaDeviceProp &card) {
    bool good = check_warp_primitives();
    if (card.major == 9) {
        good &= check_group_products<64>(check_group_products_64);
        good &= check_group_products<128>(check_group_products_128);
    }
    return good;
}

/// An operation's kernels.
struct Operation {
    const char *name;
    bool (*check)(const cudaDeviceProp &card);
    void (*time)(const cudaDeviceProp &card);
};

const Operation OPERATIONS[] = {
    {"primitives", check_primitives, [](const cudaDeviceProp &) {}},
    {"attention", attention::check, attention::time},
    {"attention_f32", attention_f32_card::check, attention_f32_card::time},
    {"attention_decode", attention_decode_card::check, attention_decode_card::time},
    {"few_rows", few_rows_card::check, few_rows_card::time},
    {"linear", linears::check, linears::time},
    {"rms_norm", norms::check, norms::time},
    {"rope", ropes::check, ropes::time},
    {"swiglu", swiglus::check, swiglus::time},
    {"embedding", embeddings::check, embeddings::time},
    {"adamw", optimizer::check, optimizer::time},
    {"cross_entropy", loss::check, loss::time},
    {"sample", sample::check, sample::time},
};

} // namespace

int main(int argc, char **argv) {
    const auto has = [&](const char *word) {
        return std::any_of(argv + 1, argv + argc,
                           [&](const char *mine) { return !std::strcmp(mine, word); });
    };
    const bool both = has("check") == has("time");
    const bool all = std::none_of(std::begin(OPERATIONS), std::end(OPERATIONS),
                                  [&](const Operation &operation) { return has(operation.name); });
    cudaDeviceProp card;
    MUST(cudaGetDeviceProperties(&card, 0));
    std::printf("card %s, %d multiprocessors, %zu KB of shared memory a block\n", card.name,
                card.multiProcessorCount, card.sharedMemPerBlockOptin >> 10);
    bool good = true;
    for (const Operation &operation : OPERATIONS) {
        if (!all && !has(operation.name)) continue;
        if (both || has("check")) good &= operation.check(card);
        if (both || has("time")) operation.time(card);
    }
    if (both || has("check")) std::printf(good ? "every check passed\n" : "CHECKS FAILED\n");
    return good ? 0 : 1;
}
