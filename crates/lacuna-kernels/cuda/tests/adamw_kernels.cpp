// AdamW's kernels on the emulated machine.
#include "emulated.h"

#include "adamw.cuh"

template void run(const AdamWCase &, AdamWPass<uint16_t> &);
template void run(const AdamWCase &, AdamWPass<float> &);
