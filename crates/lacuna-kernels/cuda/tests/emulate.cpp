// Attention on the emulated machine: every case under every schedule, against f64. Ends with a
// status other than 0 if an error is above its tolerance, results differ between schedules, or
// loads of matrices meet in a bank.
//
//   emulate [forward] [quick] [SHAPE]: only the forward pass; ends at the first failure; only
//   kernels of one shape
#include "../emulation/machine.h"
#include "attention.h"

/// One pass on the emulated machine, in emulated_attention.cpp.
void run(const Case &c, const Shape &shape, Pass &p, float scale, bool backward);

namespace {

bool same_bits(const Pass &a, const Pass &b) {
    return a.out == b.out && a.d_q == b.d_q && a.d_k == b.d_k && a.d_v == b.d_v &&
           !std::memcmp(a.log_sums.data(), b.log_sums.data(), a.log_sums.size() * sizeof(float));
}

/// Runs a case under every schedule; a quick check ends with the first fault.
bool check(const Case &c, const Shape &shape, bool backward, bool quick) {
    const float scale = 1 / std::sqrt(static_cast<float>(c.d));
    const Pass inputs = draw(c);
    Pass first;
    Errors e;
    bool good = true;
    emulation::counters = {};
    for (const auto &schedule : emulation::SCHEDULES) {
        emulation::schedule = schedule;
        Pass p = inputs;
        run(c, shape, p, scale, backward);
        if (&schedule == emulation::SCHEDULES) {
            first = std::move(p);
            e = compare(first, truth(c, inputs, scale), backward);
            good &= within(e) && !emulation::counters.bank_conflicts;
        } else if (!same_bits(first, p)) {
            std::printf("  other bits under the schedule \"%s\"\n", schedule.name);
            good = false;
        }
        if (quick && !good) break;
    }
    const auto &counted = emulation::counters;
    std::printf("%-9s %-42s out %.1e log-sum %.0e", shape.name, c.name.c_str(), e.out, e.log_sum);
    if (backward) std::printf(" dq %.1e dk %.1e dv %.1e", e.d_q, e.d_k, e.d_v);
    std::printf(", %ld products, %ld bank conflicts%s\n", counted.products, counted.bank_conflicts,
                good ? "" : "  FAILED");
    std::fflush(stdout);
    return good;
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
bool only_visible_tiles_are_computed(const Shape &s, bool backward) {
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
    const bool good = emulation::counters.products == expected;
    std::printf("%-9s visible tiles alone: %ld products, expected %ld%s\n", s.name,
                emulation::counters.products, expected, good ? "" : "  FAILED");
    return good;
}

} // namespace

int main(int argc, char **argv) {
    bool good = true, backward = true, quick = false;
    std::string only;
    for (int i = 1; i < argc; i++) {
        const std::string word = argv[i];
        if (word == "forward")
            backward = false;
        else if (word == "quick")
            quick = true;
        else
            only = word;
    }
    for (const auto &shape : SHAPES) {
        if (!only.empty() && only != shape.name) continue;
        // One shape of each family runs every case, the others what training runs.
        const std::string name = shape.name;
        const bool all = name == "64" || name == "128_hopper";
        for (const Case &c : small_cases(shape.d)) {
            if (quick && !good) return 1;
            if (all || c.name.find("diffusion") != std::string::npos)
                good &= check(c, shape, backward, quick);
        }
        if (quick && !good) return 1;
        good &= only_visible_tiles_are_computed(shape, backward);
    }
    std::printf(good ? "all cases agree with f64 under %zu schedules\n"
                     : "FAILED (%zu schedules)\n",
                std::size(emulation::SCHEDULES));
    return good ? 0 : 1;
}
