// A layer's products for sm_90a, by warp groups.
#pragma once
#include "product_hopper.cuh"

extern "C" {
__global__ void __launch_bounds__(Groups::THREADS, 2) linear_forward_hopper(SumArgs p) {
    HOPPER((sum_up<Groups, Along::Rows, Along::Rows>(p)));
}
__global__ void __launch_bounds__(Groups::THREADS, 2) linear_input_gradient_hopper(SumArgs p) {
    HOPPER((sum_up<Groups, Along::Rows, Along::Columns>(p)));
}
__global__ void __launch_bounds__(Groups::THREADS, 2) linear_weight_gradient_hopper(SumArgs p) {
    HOPPER((sum_up<Groups, Along::Columns, Along::Columns>(p)));
}
}
