// Prints how each kernel is started: its name, threads, bytes of shared memory.
#include "../attention_forward.cu"

#include "../attention_backward.cu"

#include "attention.h"

int main() {
    std::printf("attention_sights 128 0\n");
    for (const Shape &s : SHAPES) {
        const bool small = std::strstr(s.name, "_small");
        const int forward = forward_shared(s.d, s.forward_queries, s.forward_keys);
        const int queries = backward_queries_shared(s.d, s.dq_queries, s.dq_keys);
        const int keys = backward_keys_shared(s.d, s.dkv_keys, s.dkv_queries);
        if (!small) std::printf("attention_backward_rows_%s 128 0\n", s.name);
        // The smaller shape of head size 64 differs from the larger in one kernel.
        if (!small || s.d == 128) {
            std::printf("attention_forward_%s 128 %d\n", s.name, forward);
            std::printf("attention_backward_keys_%s 128 %d\n", s.name, keys);
        }
        std::printf("attention_backward_queries_%s 128 %d\n", s.name, queries);
    }
}
