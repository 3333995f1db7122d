// The kernels of a training step and of a decoder on the emulated machine, as a shared library: whoever plans
// launches elsewhere starts them here by name. Blocks run on the caller's thread, one caller at a
// time.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>

#include "../tensor_core.h"

#include "../adamw.cu"
#include "../attention_backward.cu"
#include "../attention_decode.cu"
#include "../attention_forward.cu"
#include "../attention_hopper.cu"
#include "../cross_entropy.cu"
#include "../cross_entropy_hopper.cu"
#include "../embedding.cu"
#include "../few_rows.cu"
#include "../linear.cu"
#include "../linear_hopper.cu"
#include "../rms_norm.cu"
#include "../rope.cu"
#include "../sample.cu"
#include "../swiglu.cu"

namespace {

struct Kernel {
    const char *name;
    size_t args_bytes;
    void (*launch)(dim3 grid, int threads, size_t shared, const void *args);
};

template <class> struct ArgsOf;
template <class Args> struct ArgsOf<void (*)(Args)> {
    using Type = Args;
};

template <auto KERNEL> constexpr Kernel kernel(const char *name) {
    using Args = typename ArgsOf<decltype(KERNEL)>::Type;
    return {name, sizeof(Args), [](dim3 grid, int threads, size_t shared, const void *bytes) {
                Args args;
                std::memcpy(static_cast<void *>(&args), bytes, sizeof args);
                emulation::launch<KERNEL>(grid, threads, shared, args);
            }};
}

#define KERNEL(name) kernel<name>(#name)
constexpr Kernel KERNELS[] = {
    KERNEL(embedding_bf16),
    KERNEL(embedding_backward_bf16),
    KERNEL(embedding_backward_bf16_f32),
    KERNEL(rms_norm_bf16),
    KERNEL(add_rms_norm_bf16),
    KERNEL(rms_norm_backward_bf16),
    KERNEL(rms_norm_backward_weight_f32),
    KERNEL(rope_bf16),
    KERNEL(swiglu_bf16),
    KERNEL(swiglu_backward_bf16),
    KERNEL(linear_bias_gradient),
    KERNEL(linear_sum_slices),
    KERNEL(linear_forward),
    KERNEL(linear_input_gradient),
    KERNEL(linear_weight_gradient),
    KERNEL(linear_forward_hopper),
    KERNEL(linear_input_gradient_hopper),
    KERNEL(linear_weight_gradient_hopper),
    KERNEL(attention_sights),
    KERNEL(attention_forward_64),
    KERNEL(attention_backward_rows_64),
    KERNEL(attention_backward_queries_64),
    KERNEL(attention_backward_queries_64_small),
    KERNEL(attention_backward_keys_64),
    KERNEL(attention_backward_rows_128),
    KERNEL(attention_forward_128_small),
    KERNEL(attention_backward_queries_128_small),
    KERNEL(attention_backward_keys_128_small),
    KERNEL(attention_forward_64_hopper),
    KERNEL(attention_backward_queries_64_hopper),
    KERNEL(attention_backward_keys_64_hopper),
    KERNEL(attention_forward_128_hopper),
    KERNEL(attention_backward_queries_128_hopper),
    KERNEL(attention_backward_keys_128_hopper),
    KERNEL(cross_entropy_forward),
    KERNEL(cross_entropy_forward_hopper),
    KERNEL(cross_entropy_merge),
    KERNEL(cross_entropy_loss),
    KERNEL(cross_entropy_gradient),
    KERNEL(cross_entropy_gradient_hopper),
    KERNEL(gradient_squares_f32),
    KERNEL(gradient_norm),
    KERNEL(adamw_bf16_f32),
    KERNEL(embedding_f32),
    KERNEL(embedding_bf16_f32),
    KERNEL(place_rows_f32_bf16),
    KERNEL(rms_norm_f32),
    KERNEL(add_rms_norm_f32),
    KERNEL(rope_f32),
    KERNEL(swiglu_f32),
    KERNEL(few_rows_bf16_bf16),
    KERNEL(few_rows_bf16_f32),
    KERNEL(few_rows_q8_0_bf16),
    KERNEL(few_rows_q8_0_f32),
    KERNEL(few_rows_q4_0_bf16),
    KERNEL(few_rows_q4_0_f32),
    KERNEL(few_rows_q4_1_bf16),
    KERNEL(few_rows_q4_1_f32),
    KERNEL(few_rows_q4_k_bf16),
    KERNEL(few_rows_q4_k_f32),
    KERNEL(stored_rows_q8_0),
    KERNEL(stored_rows_q4_0),
    KERNEL(stored_rows_q4_1),
    KERNEL(stored_rows_q4_k),
    KERNEL(attention_decode_64),
    KERNEL(attention_decode_merge_64),
    KERNEL(attention_decode_128),
    KERNEL(attention_decode_merge_128),
    KERNEL(sample_maxima),
    KERNEL(sample_spans),
    KERNEL(sample_rows),
};

jmp_buf failed;
char reason[256];

void give_up(const char *what) {
    std::snprintf(reason, sizeof reason, "%s", what);
    _longjmp(failed, 1); // the fibres are begun anew by the next block
}

__attribute__((noinline)) bool launched(const Kernel &k, dim3 grid, int threads, size_t shared,
                                        const void *args) {
    if (_setjmp(failed)) return false;
    k.launch(grid, threads, shared, args);
    return true;
}

} // namespace

extern "C" {

/// How many schedules there are.
int lacuna_schedules() { return static_cast<int>(std::size(emulation::SCHEDULES)); }

/// Starts a kernel under a schedule; null, or what went wrong. `args` has `args_bytes` bytes: as
/// many as the kernel's struct.
const char *lacuna_launch(const char *name, const unsigned (*grid)[3], unsigned threads,
                          size_t shared, const void *args, size_t args_bytes, int schedule) {
    for (const Kernel &k : KERNELS) {
        if (std::strcmp(k.name, name)) continue;
        if (k.args_bytes != args_bytes) {
            std::snprintf(reason, sizeof reason, "%zu bytes of arguments, expected %zu",
                          args_bytes, k.args_bytes);
            return reason;
        }
        emulation::schedule = emulation::SCHEDULES[schedule];
        emulation::on_failure = give_up;
        const dim3 blocks{(*grid)[0], (*grid)[1], (*grid)[2]};
        return launched(k, blocks, static_cast<int>(threads), shared, args) ? nullptr : reason;
    }
    return "no such kernel is emulated";
}
}
