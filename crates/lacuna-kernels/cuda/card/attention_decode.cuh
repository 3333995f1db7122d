// Decoding attention on a card: every case against f64, then times against the bytes of the caches.
#pragma once
#include "attention.cuh"
#include "device.cuh"

#include "../tests/attention_decode.h"

namespace attention_decode_card {

/// The two kernels for heads of one size.
struct Kernels {
    const char *name;
    void (*pieces)(DecodeArgs);
    void (*merge)(DecodeArgs);
    int shared;
};

Kernels of_size(int d) {
    if (d == 64)
        return {"attention_decode_64", attention_decode_64, attention_decode_merge_64,
                decode_shared<64>()};
    return {"attention_decode_128", attention_decode_128, attention_decode_merge_128,
            decode_shared<128>()};
}

void launch_pieces(const Kernels &k, const DecodeMemory &memory) {
    k.pieces<<<memory.piece_blocks(), DECODE_WARPS * 32, k.shared>>>(memory.args());
    must(cudaGetLastError(), k.name);
}

void launch_merge(const Kernels &k, const DecodeMemory &memory) {
    k.merge<<<memory.merge_blocks(), 128>>>(memory.args());
    must(cudaGetLastError(), "attention_decode_merge");
}

Decoded run(const DecodeCase &c, const std::vector<Pass> &passes) {
    const Kernels k = of_size(c.d);
    const DecodeMemory memory(c, passes);
    allow_shared((const void *)k.pieces, k.shared);
    launch_pieces(k, memory);
    launch_merge(k, memory);
    MUST(cudaDeviceSynchronize());
    return memory.read();
}

bool check_case(const DecodeCase &c) {
    const std::vector<Pass> passes = draw(c);
    const Decoded first = run(c, passes);
    const bool again = same_bits(first, run(c, passes)),
               alone = same_bits(first, decode_apart(c, passes, run));
    const Errors e = compare(c, passes, first);
    const bool good = within(e) && again && alone;
    std::printf("check %-52s out %.2e log-sum %.1e%s%s%s\n", c.name.c_str(), e.out, e.log_sum,
                again ? "" : "  a second run gave other bits",
                alone ? "" : "  a sequence alone has other bits", good ? "" : "  FAILED");
    return good;
}

/// `count` sequences whose rows see all of their caches, of `lengths` in turn.
DecodeCase long_case(const char *name, int d, int rows, int group, int count,
                     const std::vector<int> &lengths) {
    const int kv_heads = 1024 / d, heads = kv_heads * group;
    DecodeCase c{std::string(name) + ", head " + std::to_string(d), heads, kv_heads, d, {}};
    for (int i = 0; i < count; i++) {
        const int length = lengths[i % lengths.size()];
        c.sequences.push_back({"",
                               1,
                               heads,
                               kv_heads,
                               d,
                               length,
                               length - rows,
                               {pass(Pattern::BlockCausal, rows, rows, length - rows)}});
    }
    return c;
}

bool check(const cudaDeviceProp &) {
    bool good = true;
    for (int d : {64, 128}) {
        for (const DecodeCase &c : decode_cases(d)) good &= check_case(c);
        good &=
            check_case(long_case("a block of 4 on 9000 and 1500 keys", d, 4, 4, 2, {9000, 1500}));
    }
    return good;
}

/// Bytes that must be read and written: queries, keys and values, results.
double bytes(const DecodeCase &c) {
    double bytes = 0;
    for (const Case &s : c.sequences)
        bytes += 2. * 2 * s.kv_len * c.kv_heads * c.d + 2. * 2 * s.q_len() * c.heads * c.d;
    return bytes;
}

void time_case(const DecodeCase &c) {
    const Kernels k = of_size(c.d);
    std::vector<Pass> passes;
    for (const Case &s : c.sequences) passes.push_back(attention::random_pass(s));
    const DecodeMemory memory(c, passes);
    allow_shared((const void *)k.pieces, k.shared);
    // A launch takes about as long as the device needs to notice it: many are timed at a time.
    const auto many = [](auto one) {
        return milliseconds([&] {
                   for (int i = 0; i < 20; i++) one();
               }) /
               20;
    };
    const double both = many([&] { launch_pieces(k, memory), launch_merge(k, memory); }),
                 merge = many([&] { launch_merge(k, memory); });
    report_bytes(k.name, c.name, both, bytes(c));
    std::printf("     of which the merge %.4f ms\n", merge);
}

void time(const cudaDeviceProp &) {
    for (int d : {64, 128}) {
        time_case(long_case("4 rows, 1 × 32768 keys, 4 heads a key head", d, 4, 4, 1, {32768}));
        time_case(long_case("1 row, 1 × 32768 keys, 4 heads a key head", d, 1, 4, 1, {32768}));
        time_case(long_case("16 rows, 1 × 32768 keys, 4 heads a key head", d, 16, 4, 1, {32768}));
        time_case(long_case("4 rows, 32 × 4096 keys, 4 heads a key head", d, 4, 4, 32, {4096}));
        time_case(long_case("8 rows, 32 × 500 to 16000 keys, 4 heads a key head", d, 8, 4, 32,
                            {500, 16000, 1000, 700, 8000, 3000, 2000, 6000}));
    }
}

} // namespace attention_decode_card
