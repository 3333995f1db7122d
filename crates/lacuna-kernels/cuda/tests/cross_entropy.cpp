// The loss on the emulated machine.
//
//   cross_entropy [quick] [plain] [hopper] [chunks]: only the fused kernels, those of sm_90a, those
//   for logits in memory
#include "suite.h"

#include "cross_entropy_run.h"

extern const loss::Launches EMULATED, EMULATED_HOPPER; // in cross_entropy_kernels.cpp

namespace {

void check(Suite &suite, const loss::Launches &launches, const loss::Case &c) {
    const loss::Inputs in = loss::draw(c);
    suite.check(
        std::string(launches.name) + (*launches.name ? " " : "") + c.name,
        [&] { return run(launches, c, in); },
        [&](const loss::Results &r) -> Verdict {
            if (c.broken) return {"NaNs where they belong", loss::breaks_alone(c, r)};
            const loss::Errors e = loss::compare(r, loss::truth(c, in));
            return {error_text({{"nll", e.nll},
                                {"loss", e.loss},
                                {"d_hidden", e.d_hidden},
                                {"d_head", e.d_head}}),
                    loss::within(e)};
        });
}

void check(Suite &suite, const loss::ChunkCase &c) {
    const auto logits = loss::draw_logits(c);
    suite.check(
        c.name, [&] { return run(EMULATED, c, logits); },
        [&](const loss::ChunkResults &r) -> Verdict {
            const auto [nll, gradient] = loss::compare(c, logits, r);
            return {error_text({{"nll", nll}, {"d_logits", gradient}}),
                    nll <= loss::TOLERANCE.nll && gradient <= loss::chunk_tolerance(c) &&
                        !r.padding};
        });
}

} // namespace

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    const bool all = !suite.has("plain") && !suite.has("hopper") && !suite.has("chunks");
    if (all || suite.has("chunks"))
        for (const auto &c : loss::chunk_cases()) check(suite, c);
    for (const auto &c : loss::small_cases()) {
        if (all || suite.has("plain")) check(suite, EMULATED, c);
        if (all || suite.has("hopper")) check(suite, EMULATED_HOPPER, c);
    }
    return suite.end();
}
