// The products of head and loss for sm_90a, by warp groups.
#pragma once
#include "cross_entropy.cuh"
#include "product_hopper.cuh"

extern "C" {
__global__ void __launch_bounds__(Groups::THREADS, 2) cross_entropy_forward_hopper(HeadArgs p) {
    HOPPER((head_forward<Groups>(p)));
}
__global__ void __launch_bounds__(Groups::THREADS, 2) cross_entropy_gradient_hopper(HeadArgs p) {
    HOPPER((head_gradient<Groups>(p)));
}
__global__ void __launch_bounds__(Groups::THREADS, 2) cross_entropy_d_hidden_hopper(SumArgs p) {
    HOPPER((sum_up<Groups, Along::Rows, Along::Columns>(p)));
}
__global__ void __launch_bounds__(Groups::THREADS, 2) cross_entropy_d_head_hopper(SumArgs p) {
    HOPPER((sum_up<Groups, Along::Columns, Along::Columns>(p)));
}
}
