// Attention on the emulated machine. Loads of matrices must not meet in a bank, and exactly the
// tiles with a visible pair be computed.
//
//   attention [quick] [forward] [SHAPE…]: only the forward pass; only kernels of these shapes
#include "attention.h"
#include "suite.h"

/// One pass on the emulated machine, in attention_kernels.cpp.
void run(const Case &c, const Shape &shape, Pass &p, float scale, bool backward);

namespace {

std::string named(const Shape &shape, const std::string &what) {
    std::string name = shape.name;
    name.resize(11, ' ');
    return name + what;
}

Verdict verdict(const Errors &e, bool backward) {
    std::string text = error_text({{"out", e.out}, {"log-sum", e.log_sum}});
    if (backward) text += " " + error_text({{"dq", e.d_q}, {"dk", e.d_k}, {"dv", e.d_v}});
    return {text, within(e)};
}

void check(Suite &suite, const Case &c, const Shape &shape, bool backward) {
    const float scale = 1 / std::sqrt(static_cast<float>(c.d));
    const Pass inputs = draw(c);
    suite.check(
        named(shape, c.name),
        [&] {
            Pass p = inputs;
            run(c, shape, p, scale, backward);
            return p;
        },
        [&](const Pass &p) {
            return verdict(compare(p, truth(c, inputs, scale), backward), backward);
        });
}

/// How many of the tiles that a kernel could compute hold a visible pair.
long visible_tiles(const Case &c, int queries, int keys) {
    long n = 0;
    for (int q = 0; q < c.q_len(); q += queries)
        for (int k = 0; k < c.kv_len; k += keys) {
            bool any = false;
            for (int i = q; i < std::min(q + queries, c.q_len()) && !any; i++)
                for (int j = k; j < std::min(k + keys, c.kv_len) && !any; j++)
                    any = c.sees(0, i, j);
            n += any;
        }
    return n;
}

/// Where halves end with tiles, exactly the tiles with a visible pair are computed.
void expect_visible_tiles_alone(Suite &suite, const Shape &s, bool backward) {
    const Case c{"", 1, 1, 1, s.d, 512, 0, {pass(Pattern::BlockDiffusion, 4, 256, 0)}};
    Pass p = draw(c);
    emulation::schedule = emulation::SCHEDULES[0];
    emulation::counters = {};
    run(c, s, p, 1, backward);
    const auto work = [&](int queries, int keys, int products) {
        return visible_tiles(c, queries, keys) * products * queries * keys * s.d / (16 * 8 * 16);
    };
    long expected = work(s.forward_queries, s.forward_keys, 2);
    if (backward) expected += work(s.dq_queries, s.dq_keys, 3) + work(s.dkv_queries, s.dkv_keys, 4);
    const long products = emulation::counters.products;
    suite.expect(named(s, "visible tiles alone"),
                 {std::to_string(products) + " products, expected " + std::to_string(expected),
                  products == expected});
}

} // namespace

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    const bool backward = !suite.has("forward");
    bool all_shapes = true;
    for (const auto &shape : SHAPES) all_shapes &= !suite.has(shape.name);
    for (const auto &shape : SHAPES) {
        if (!all_shapes && !suite.has(shape.name)) continue;
        // One shape of each family runs every case, the others what training runs.
        const std::string name = shape.name;
        const bool every_case = name == "64" || name == "128_hopper";
        for (const Case &c : small_cases(shape.d))
            if (every_case || c.name.find("diffusion") != std::string::npos)
                check(suite, c, shape, backward);
        expect_visible_tiles_alone(suite, shape, backward);
    }
    return suite.end();
}
