// The gated activation's kernels on the emulated machine.
#include "emulated.h"

#include "swiglu.cuh"

template void run(const SwigluCase &, SwigluPass<uint16_t> &);
template void run(const SwigluCase &, SwigluPass<float> &);
