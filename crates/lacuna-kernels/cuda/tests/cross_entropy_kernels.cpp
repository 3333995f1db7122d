// The loss's kernels on the emulated machine.
#include "cross_entropy_launches.h"

using emulation::launch;

extern const loss::Launches EMULATED{
    "",
    Quarters::THREADS,
    launch<cross_entropy_forward>,
    launch<cross_entropy_gradient>,
    launch<cross_entropy_merge>,
    launch<cross_entropy_loss>,
    launch<cross_entropy_d_hidden>,
    launch<cross_entropy_d_head>,
    launch<cross_entropy_chunk>,
    launch<cross_entropy_chunk_gradient>,
    launch<cross_entropy_chunk_gradient_bf16>,
};
extern const loss::Launches EMULATED_HOPPER{
    "hopper",
    Groups::THREADS,
    launch<cross_entropy_forward_hopper>,
    launch<cross_entropy_gradient_hopper>,
    launch<cross_entropy_merge>,
    launch<cross_entropy_loss>,
    launch<cross_entropy_d_hidden_hopper>,
    launch<cross_entropy_d_head_hopper>,
    nullptr,
    nullptr,
    nullptr,
};
