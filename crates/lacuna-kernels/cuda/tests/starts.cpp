// Prints how each kernel is started: its name, threads, bytes of shared memory.
#include "../attention_forward.cu"

#include "../attention_backward.cu"
#include "../attention_decode.cu"
#include "../attention_f32.cu"
#include "../few_rows.cu"

#include "../adamw.cu"
#include "../embedding.cu"
#include "../linear.cu"
#include "../linear_hopper.cu"
#include "../rms_norm.cu"
#include "../rope.cu"
#include "../swiglu.cu"
#include "../cross_entropy.cu"
#include "../cross_entropy_hopper.cu"
#include "../sample.cu"

#include "attention.h"

namespace {

template <class W> void print_few_rows(const char *weights) {
    for (const char *x : {"bf16", "f32"})
        std::printf("few_rows_%s_%s %d %d\n", weights, x, PRODUCT_WARPS * 32, few_rows_shared<W>());
}

/// Kernels for bf16 and for f32, whose shared memory may depend on the type.
void print_typed(const char *name, int shared_bf16, int shared_f32) {
    std::printf("%s_bf16 %d %d\n%s_f32 %d %d\n", name, THREADS, shared_bf16, name, THREADS,
                shared_f32);
}

} // namespace

int main() {
    for (const char *name : {"rms_norm", "add_rms_norm"})
        std::printf("%s_bf16 %d %d\n%s_f32 %d %d\n", name, THREADS, NORM_SHARED, name, WIDE,
                    NORM_SHARED);
    print_typed("rms_norm_backward", norm_backward_shared<bf16>(2048),
                norm_backward_shared<float>(2048));
    print_typed("rms_norm_backward_weight", NORM_WEIGHT_SHARED, NORM_WEIGHT_SHARED);
    for (const char *name :
         {"rope", "swiglu", "swiglu_backward", "embedding", "embedding_backward", "adamw"})
        print_typed(name, 0, 0);
    for (const char *name : {"adamw_bf16_f32", "embedding_backward_bf16_f32", "embedding_bf16_f32",
                             "place_rows_f32_bf16"})
        std::printf("%s %d 0\n", name, THREADS);
    print_typed("gradient_squares", SCRATCH, SCRATCH);
    std::printf("gradient_norm %d %d\n", NORM_THREADS, GRADIENT_NORM_SHARED);
    for (const char *name : {"forward", "gradient", "d_hidden", "d_head"})
        std::printf("cross_entropy_%s %d %d\ncross_entropy_%s_hopper %d %d\n", name,
                    Quarters::THREADS, PRODUCT_SHARED, name, Groups::THREADS, PRODUCT_SHARED);
    for (const char *name : {"forward", "input_gradient", "weight_gradient"})
        std::printf("linear_%s %d %d\nlinear_%s_hopper %d %d\n", name, Quarters::THREADS,
                    PRODUCT_SHARED, name, Groups::THREADS, PRODUCT_SHARED);
    std::printf("linear_bias_gradient %d %d\nlinear_sum_slices %d 0\n", THREADS, BIAS_SHARED,
                THREADS);
    for (const char *name : {"q8_0", "q4_0", "q4_1", "q4_k"})
        std::printf("stored_rows_%s 128 0\n", name);
    for (const char *name : {"merge", "chunk", "chunk_gradient", "chunk_gradient_bf16"})
        std::printf("cross_entropy_%s 128 0\n", name);
    std::printf("cross_entropy_loss 128 %d\n", LOSS_SHARED);
    std::printf("sample_maxima %d %d\nsample_spans %d %d\nsample_rows %d %d\n", SAMPLE_THREADS,
                MAXIMA_SHARED, SAMPLE_THREADS, SPANS_SHARED, SAMPLE_THREADS, ROWS_SHARED);
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
    for (const int d : {64, 128}) {
        std::printf("attention_forward_%d_f32 %d %d\n", d, F32_THREADS, forward_f32_shared(d));
        std::printf("attention_backward_rows_%d_f32 %d 0\n", d, F32_THREADS);
        for (const char *of : {"queries", "keys"})
            std::printf("attention_backward_%s_%d_f32 %d %d\n", of, d, F32_THREADS,
                        backward_f32_shared(d));
    }
    std::printf("attention_decode_64 %d %d\nattention_decode_merge_64 128 0\n", DECODE_WARPS * 32,
                decode_shared<64>());
    std::printf("attention_decode_128 %d %d\nattention_decode_merge_128 128 0\n", DECODE_WARPS * 32,
                decode_shared<128>());
    print_few_rows<Bf16>("bf16");
    print_few_rows<Q8_0>("q8_0");
    print_few_rows<Q4_0>("q4_0");
    print_few_rows<Q4_1>("q4_1");
    print_few_rows<Q4K>("q4_k");
}
