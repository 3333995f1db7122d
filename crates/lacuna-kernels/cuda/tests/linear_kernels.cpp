// A layer's products on the emulated machine.
//
//   linear [quick] [plain] [hopper]: only the kernels of every card, those of sm_90a
#include "emulated.h"

#include "linear.cuh"

namespace {

void check(Suite &suite, const char *name, void (*run)(const LinearCase &, LinearPass &)) {
    for (const LinearCase &c : LINEAR_CASES) {
        const LinearPass inputs = draw(c);
        suite.check(
            std::string(name) + c.name,
            [&] {
                LinearPass pass = inputs;
                run(c, pass);
                return pass;
            },
            [&](const LinearPass &pass) { return compare(c, inputs, pass); });
    }
}

} // namespace

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    if (!suite.has("hopper")) check(suite, "", run_plain);
    if (!suite.has("plain")) check(suite, "hopper ", run_hopper);
    return suite.end();
}
