// The loss's kernels on the emulated machine.
#include "cross_entropy_launches.h"

using emulation::launch;

#include "cross_entropy_kernels.h"

extern const loss::Launches EMULATED = loss::plain(""), EMULATED_HOPPER = loss::hopper("hopper");
