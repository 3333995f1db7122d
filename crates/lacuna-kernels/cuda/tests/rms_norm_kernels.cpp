// Root-mean-square normalisation's kernels on the emulated machine.
#include "emulated.h"

#include "rms_norm.cuh"

template void run(const NormCase &, NormPass<uint16_t> &);
template void run(const NormCase &, NormPass<float> &);
