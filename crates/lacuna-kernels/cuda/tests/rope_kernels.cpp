// Rotary position embedding's kernels on the emulated machine.
#include "emulated.h"

#include "rope.cuh"

template void run(const RopeCase &, RopePass<uint16_t> &);
template void run(const RopeCase &, RopePass<float> &);
