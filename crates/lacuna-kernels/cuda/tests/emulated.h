// The emulated machine as files that start kernels on any machine name it.
#pragma once
#include "../tensor_core.h"
#include "suite.h"

using emulation::launch;
