// The kernels that draw, on the emulated machine.
#include "sample_launches.h"

using emulation::launch;

extern const sample::Launches EMULATED{launch<sample_maxima>, launch<sample_spans>,
                                       launch<sample_rows>};
