// Kernels that come for bf16 and for f32. On the host T is `uint16_t`, a bf16 number's bits, or
// `float`.
#pragma once
#include <type_traits>

#include "../vectors.cuh"

/// The type of T in kernels.
template <class T> using Element = std::conditional_t<sizeof(T) == 2, bf16, float>;

/// Starts the kernel for T. A build for a planted fault has the kernels of one type alone.
template <class T, auto BF16, auto F32, class Args>
void launch_typed([[maybe_unused]] dim3 grid, [[maybe_unused]] int threads,
                  [[maybe_unused]] size_t shared, [[maybe_unused]] const Args &args) {
    if constexpr (sizeof(T) == 2) {
#if !defined(LACUNA_ONLY) || LACUNA_ONLY == 16
        launch<BF16>(grid, threads, shared, args);
#endif
    } else {
#if !defined(LACUNA_ONLY) || LACUNA_ONLY == 32
        launch<F32>(grid, threads, shared, args);
#endif
    }
}
template <class T, auto BF16, auto F32, class Args>
void launch_typed(dim3 grid, size_t shared, const Args &args) {
    launch_typed<T, BF16, F32>(grid, THREADS, shared, args);
}
template <class T, auto BF16, auto F32, class Args>
void launch_typed(int blocks, size_t shared, const Args &args) {
    launch_typed<T, BF16, F32>(dim3{static_cast<unsigned>(blocks)}, shared, args);
}
