// The embedding on a card: every case against f64, then times of bf16 against the bytes of the
// tensors that are read and written, once.
#pragma once
#include "device.cuh"

#include "../tests/embedding.cuh"

namespace embeddings {

/// Tokens as a text has them: a few are most of it.
inline void time_tokens(int rows, int v, int h) {
    Numbers numbers{3};
    std::vector<uint32_t> drawn(rows);
    for (auto &id : drawn) id = (uint32_t)(std::pow(numbers.uniform(), 8) * v);
    const auto occurrences = sort_by_token(drawn);
    const size_t n = (size_t)rows * h, n_tokens = occurrences.tokens.size();
    const Buffer<bf16> table(any_numbers((size_t)v * h)), out(n), d_out(any_numbers(n));
    const Buffer<unsigned> ids(drawn), tokens(occurrences.tokens);
    const Buffer<int> starts(occurrences.starts), places(occurrences.places);
    const std::string what = std::to_string(rows) + " rows of " + std::to_string(h) + ", " +
                             std::to_string(n_tokens) + " tokens";
    time_bytes("embedding", what, 2. * (n + n_tokens * h), [&] {
        launch<embedding_bf16>(
            dim3(rows), THREADS, 0,
            EmbeddingArgs<bf16>{table.data(), ids.data(), out.data(), rows, v, h});
    });
    time_bytes("embedding_backward", what, 2. * (n + 2 * n_tokens * h), [&] {
        launch<embedding_backward_bf16>(dim3(n_tokens, embedding_slices<bf16>(h)), THREADS, 0,
                                        EmbeddingBackwardArgs<bf16>{d_out.data(), tokens.data(),
                                                                    starts.data(), places.data(),
                                                                    table.data(), h});
    });
}

inline bool check(const cudaDeviceProp &) {
    Suite suite;
    check_embedding(suite);
    return suite.good;
}

inline void time(const cudaDeviceProp &) { time_tokens(16384, 49152, 2048); }

} // namespace embeddings
