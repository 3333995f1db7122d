// A layer's products on tensor cores: y = x · Wᵀ, and the gradients d_x = d_y · W and d_W = d_yᵀ · x.
//
// Operands are bf16 and sums f32. A gradient that is the sum of several products adds up in f32 and
// is rounded with the last; one that goes over micro-batches stays f32.
#include "product.cuh"

extern "C" {
__global__ void __launch_bounds__(Quarters::THREADS, 2) linear_forward(SumArgs p) {
    sum_up<Quarters, Along::Rows, Along::Rows>(p);
}
__global__ void __launch_bounds__(Quarters::THREADS, 2) linear_input_gradient(SumArgs p) {
    sum_up<Quarters, Along::Rows, Along::Columns>(p);
}
__global__ void __launch_bounds__(Quarters::THREADS, 2) linear_weight_gradient(SumArgs p) {
    sum_up<Quarters, Along::Columns, Along::Columns>(p);
}
}
