// The two sets of the loss's kernels, started by the `launch` of the file that includes this.
#pragma once
#include "cross_entropy_launches.h"

namespace loss {

inline Launches plain(const char *name) {
    return {
        name,
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
}

/// Chunks of logits have no kernels of their own here.
inline Launches hopper(const char *name) {
    return {
        name,
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
}

} // namespace loss
