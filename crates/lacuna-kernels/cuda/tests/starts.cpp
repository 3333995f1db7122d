// Prints how each kernel is started: its name, threads, bytes of shared memory.
#include "../attention_forward.cu"

#include "../attention_backward.cu"

#include "attention.h"

int main() {
    std::printf("attention_sights 128 0\n");
    for (const Shape &s : SHAPES) {
        const bool plain = !std::strchr(s.name, '_'), small = !std::strcmp(s.name, "64_small");
        const int forward = forward_shared(s.d, s.forward_queries, s.forward_keys);
        const int queries = backward_queries_shared(s.d, s.dq_queries, s.dq_keys);
        const int keys = backward_keys_shared(s.d, s.dkv_keys, s.dkv_queries);
        if (plain) std::printf("attention_backward_rows_%s 128 0\n", s.name);
        // The smaller shape of head size 64 differs from the larger in one kernel.
        if (!small) {
            std::printf("attention_forward_%s %d %d\n", s.name, s.threads(s.forward_queries),
                        forward);
            std::printf("attention_backward_keys_%s %d %d\n", s.name, s.threads(s.dkv_keys), keys);
        }
        std::printf("attention_backward_queries_%s %d %d\n", s.name, s.threads(s.dq_queries),
                    queries);
    }
}
