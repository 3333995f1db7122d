// The embedding's kernels on the emulated machine.
#include "emulated.h"

#include "embedding.cuh"

template void run(const EmbeddingCase &, EmbeddingPass<uint16_t> &);
template void run(const EmbeddingCase &, EmbeddingPass<float> &);
