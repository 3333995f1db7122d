// The kernels that draw as a machine starts them, emulated or real.
#pragma once
#include "../sample.cu"

namespace sample {

using Launch = void (*)(dim3 grid, int threads, size_t shared, const SampleArgs &args);

struct Launches {
    Launch maxima, spans, rows;
};

} // namespace sample
