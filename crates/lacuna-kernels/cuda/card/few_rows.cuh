// Products of few rows on a card: every format against f64, then times against the bytes of the
// weights.
#pragma once
#include <memory>

#include "device.cuh"

#include "../tests/stored_rows.cuh"

namespace few_rows_card {

struct Kernel {
    void (*run)(FewRowsArgs);
    int shared;
};

Kernel of_format(const char *format, bool x_is_f32) {
#define FORMAT(name, W)                                                                            \
    if (!std::strcmp(format, #name))                                                               \
        return {x_is_f32 ? few_rows_##name##_f32 : few_rows_##name##_bf16, few_rows_shared<W>()};
    FORMAT(bf16, Bf16)
    FORMAT(q8_0, Q8_0)
    FORMAT(q4_0, Q4_0)
    FORMAT(q4_1, Q4_1)
    FORMAT(q4_k, Q4K)
#undef FORMAT
    std::abort();
}

void multiply(const ProductCase &c, const unsigned char *weights, const void *x, float *y,
              const float *bias = nullptr) {
    const Kernel k = of_format(c.format.name, c.x_is_f32);
    allow_shared((const void *)k.run, k.shared);
    k.run<<<(c.outputs + PRODUCT_OUTPUTS - 1) / PRODUCT_OUTPUTS, PRODUCT_WARPS * 32, k.shared>>>(
        {weights, x, y, c.rows, c.outputs, c.columns, bias});
    must(cudaGetLastError(), "few_rows");
}

std::vector<float> run(const ProductCase &c, const Product &p) {
    const Buffer<unsigned char> weights(p.weights), x(p.x);
    const Buffer<float> y((size_t)c.rows * c.outputs), bias(p.bias);
    multiply(c, weights.data(), x.data(), y.data(), c.biased ? bias.data() : nullptr);
    MUST(cudaDeviceSynchronize());
    std::vector<float> got;
    y.read(got);
    return got;
}

bool check_case(const ProductCase &c) {
    const Product p = draw(c);
    const std::vector<float> first = run(c, p);
    const bool again = same_bits(first, run(c, p)), apart = rows_are_apart(c, p, first, run);
    const double e = relative_error(first, truth(c, p));
    const bool good = e <= CARD_TOLERANCE && again && apart;
    std::printf("check %-52s y %.2e%s%s%s\n", c.name().c_str(), e,
                again ? "" : "  a second run gave other bits",
                apart ? "" : "  a row alone has other bits", good ? "" : "  FAILED");
    return good;
}

bool check(const cudaDeviceProp &) {
    bool good = true;
    Suite suite;
    for (const Format &format : FORMATS) {
        if (format.columns > 1) check_stored_rows(suite, product_cases(format)[0]);
        for (const ProductCase &c : product_cases(format)) good &= check_case(c);
        for (bool x_is_f32 : {false, true}) good &= check_case({format, x_is_f32, 16, 1000, 4096});
    }
    return good && suite.good;
}

/// Weights of as many matrices as no cache holds are read in turn: in a decoder a matrix is read
/// once a pass.
void time_case(const ProductCase &c) {
    const size_t matrix = (c.outputs * c.row_bytes() + 255) / 256 * 256,
                 matrices = (512 << 20) / matrix + 1;
    const Buffer<unsigned char> weights(matrix * matrices), x((size_t)c.rows * c.columns * 4);
    const Buffer<float> y((size_t)c.rows * c.outputs);
    // Numbers near 0.02 in every format: times depend on the power that products take.
    MUST(cudaMemset(weights.data(), 0x24, matrix * matrices));
    MUST(cudaMemset(x.data(), 0x3c, (size_t)c.rows * c.columns * 4));
    const double ms = milliseconds([&] {
                          for (size_t i = 0; i < matrices; i++)
                              multiply(c, weights.data() + i * matrix, x.data(), y.data());
                      }) /
                      matrices;
    const std::string kernel =
        std::string("few_rows_") + c.format.name + (c.x_is_f32 ? "_f32" : "_bf16");
    report_bytes(kernel.c_str(),
                 std::to_string(c.rows) + " × " + std::to_string(c.columns) + " by " +
                     std::to_string(c.outputs),
                 ms, c.bytes());
}

void time(const cudaDeviceProp &) {
    for (const Format &format : FORMATS)
        for (bool x_is_f32 : {false, true})
            for (int rows : {1, 4, 8, 16}) {
                if (x_is_f32 && rows != 4) continue;
                time_case({format, x_is_f32, rows, 4096, 4096});
                time_case({format, x_is_f32, rows, 28672, 4096});
                time_case({format, x_is_f32, rows, 4096, 14336});
            }
}

} // namespace few_rows_card
