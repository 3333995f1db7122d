// Decoding attention on the emulated machine. A sequence must have the bits that it has alone, and
// exactly the tiles with a visible pair be computed.
//
//   attention_decode [quick] [D]: only heads of D numbers
#include "suite.h"

#include "attention_decode.h"

namespace {

template <auto PIECES, auto MERGE> void launch(const DecodeMemory &memory, size_t shared) {
    emulation::launch<PIECES>({memory.piece_blocks()}, DECODE_WARPS * 32, shared, memory.args());
    emulation::launch<MERGE>(memory.merge_blocks(), 128, 0, memory.args());
}

Decoded run(const DecodeCase &c, const std::vector<Pass> &passes) {
    const DecodeMemory memory(c, passes);
    // A build for planted faults has the kernels of one size of heads alone.
#if !defined(LACUNA_ONLY) || LACUNA_ONLY == 64
    if (c.d == 64)
        launch<attention_decode_64, attention_decode_merge_64>(memory, decode_shared<64>());
#endif
#if !defined(LACUNA_ONLY) || LACUNA_ONLY == 128
    if (c.d == 128)
        launch<attention_decode_128, attention_decode_merge_128>(memory, decode_shared<128>());
#endif
    return memory.read();
}

/// The bits of each sequence are those that it has alone.
void expect_sequences_apart(Suite &suite, const DecodeCase &c) {
    const std::vector<Pass> passes = draw(c);
    emulation::schedule = emulation::SCHEDULES[0];
    suite.expect(c.name,
                 {"each sequence alone", same_bits(run(c, passes), decode_apart(c, passes, run))});
}

/// Of a window on a long cache, exactly the tiles with a visible pair are computed.
void expect_visible_tiles_alone(Suite &suite, int d) {
    const Case s{"", 1, 1, 1, d, 1000, 0, {{window(900, 100, 4), window(901, 100, 4)}}};
    const DecodeCase c{"", 1, 1, d, {s}};
    emulation::schedule = emulation::SCHEDULES[0];
    emulation::counters = {};
    run(c, draw(c));
    int visible = 0;
    for (int key = 0; key < s.kv_len; key += DECODE_KEYS) {
        bool any = false;
        for (int i = key; i < std::min(key + DECODE_KEYS, s.kv_len) && !any; i++)
            any = s.sees(0, 0, i) || s.sees(0, 1, i);
        visible += any;
    }
    const long products = emulation::counters.products,
               expected = 2l * visible * 16 * DECODE_KEYS * d / (16 * 8 * 16);
    suite.expect("visible tiles alone, head " + std::to_string(d),
                 {std::to_string(products) + " products, expected " + std::to_string(expected),
                  products == expected});
}

} // namespace

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    for (int d : {64, 128}) {
        if (suite.has(d == 64 ? "128" : "64")) continue;
        expect_visible_tiles_alone(suite, d);
        for (const DecodeCase &c : decode_cases(d)) {
            const std::vector<Pass> passes = draw(c);
            suite.check(
                c.name, [&] { return run(c, passes); },
                [&](const Decoded &got) -> Verdict {
                    const Errors e = compare(c, passes, got);
                    return {error_text({{"out", e.out}, {"log-sum", e.log_sum}}), within(e)};
                });
        }
        expect_sequences_apart(suite, decode_cases(d)[0]);
    }
    return suite.end();
}
