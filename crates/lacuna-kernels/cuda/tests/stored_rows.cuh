// Rows of tables of stored weights on a machine, which names `Buffer` and `launch`.
#pragma once
#include "../few_rows.cu"
#include "few_rows.h"

template <auto KERNEL> std::vector<float> rows_by(const ProductCase &c, const Product &p) {
    const auto ids = row_ids(c);
    const Buffer<unsigned char> table(p.weights);
    const Buffer<unsigned> of(ids);
    const Buffer<float> out(ids.size() * c.columns);
    const int n = static_cast<int>(ids.size());
    launch<KERNEL>(
        dim3{static_cast<unsigned>(n)}, 128, 0,
        StoredRowsArgs{table.data(), of.data(), out.data(), n, c.outputs, c.columns});
    std::vector<float> got;
    out.read(got);
    return got;
}

/// Rows of a table are unpacked as the numbers that they stand for, each rounded once or twice.
template <class Suite> void check_stored_rows(Suite &suite, const ProductCase &c) {
    const std::string name = c.format.name;
    const Product p = draw(c);
    suite.check(
        name + ": rows of a table",
        [&] {
            if (name == "q8_0") return rows_by<stored_rows_q8_0>(c, p);
            if (name == "q4_0") return rows_by<stored_rows_q4_0>(c, p);
            if (name == "q4_1") return rows_by<stored_rows_q4_1>(c, p);
            return rows_by<stored_rows_q4_k>(c, p);
        },
        [&](const std::vector<float> &got) -> Verdict {
            const double e = relative_error(got, stored_rows(c, p));
            return {error_text({{"rows", e}}), e <= 1e-7};
        });
}
