// Products of few rows on the emulated machine. A row must have the bits that it has alone.
//
//   few_rows [quick] [FORMAT…]: only weights of these formats
#include "emulated.h"

#include "stored_rows.cuh"

namespace {

template <auto BF16, auto F32, class W>
void launch_one(const ProductCase &c, const FewRowsArgs &args) {
    const dim3 grid{static_cast<unsigned>((c.outputs + PRODUCT_OUTPUTS - 1) / PRODUCT_OUTPUTS)};
    const int threads = PRODUCT_WARPS * 32;
    if (c.x_is_f32)
        emulation::launch<F32>(grid, threads, few_rows_shared<W>(), args);
    else
        emulation::launch<BF16>(grid, threads, few_rows_shared<W>(), args);
}

void launch_kernel(const ProductCase &c, const FewRowsArgs &args) {
    const std::string name = c.format.name;
    if (name == "bf16") launch_one<few_rows_bf16_bf16, few_rows_bf16_f32, Bf16>(c, args);
    if (name == "q8_0") launch_one<few_rows_q8_0_bf16, few_rows_q8_0_f32, Q8_0>(c, args);
    if (name == "q4_0") launch_one<few_rows_q4_0_bf16, few_rows_q4_0_f32, Q4_0>(c, args);
    if (name == "q4_1") launch_one<few_rows_q4_1_bf16, few_rows_q4_1_f32, Q4_1>(c, args);
    if (name == "q4_k") launch_one<few_rows_q4_k_bf16, few_rows_q4_k_f32, Q4K>(c, args);
}

std::vector<float> run(const ProductCase &c, const Product &p) {
    const Buffer<unsigned char> weights(p.weights), x(p.x);
    const Buffer<float> y((size_t)c.rows * c.outputs);
    const Buffer<float> bias(p.bias);
    launch_kernel(c, {weights.data(), x.data(), y.data(), c.rows, c.outputs, c.columns,
                      c.biased ? bias.data() : nullptr});
    std::vector<float> got;
    y.read(got);
    return got;
}

/// Rows of a product have the same bits alone, and in the company of fewer.
void expect_rows_apart(Suite &suite, ProductCase c) {
    c.rows = 16;
    const Product p = draw(c);
    emulation::schedule = emulation::SCHEDULES[0];
    suite.expect(c.name(), {"rows alone and in company", rows_are_apart(c, p, run(c, p), run)});
}

} // namespace

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    bool all = true;
    for (const Format &format : FORMATS) all &= !suite.has(format.name);
    for (const Format &format : FORMATS) {
        if (!all && !suite.has(format.name)) continue;
        for (const ProductCase &c : product_cases(format)) {
            const Product p = draw(c);
            suite.check(
                c.name(), [&] { return run(c, p); },
                [&](const std::vector<float> &got) -> Verdict {
                    const double e = relative_error(got, truth(c, p));
                    return {error_text({{"y", e}}), e <= EMULATED_TOLERANCE};
                });
        }
        if (format.columns > 1) check_stored_rows(suite, product_cases(format)[0]);
        expect_rows_apart(suite, product_cases(format)[1]);
    }
    return suite.end();
}
