// The embedding's kernels on a machine, which names `Buffer` and `launch`: one pass.
#pragma once
#include "../embedding.cu"
#include "embedding.h"
#include "typed.h"

template <class T> void run(const EmbeddingCase &c, EmbeddingPass<T> &pass) {
    using E = Element<T>;
    const int rows = static_cast<int>(pass.ids.size());
    const auto occurrences = sort_by_token(pass.ids);
    const Buffer<E> table(pass.table), out((size_t)rows * c.h), d_out(pass.d_out),
        d_table(pass.d_table);
    const Buffer<unsigned> ids(pass.looked_up), tokens(occurrences.tokens);
    const Buffer<int> starts(occurrences.starts), places(occurrences.places);
    launch_typed<T, embedding_bf16, embedding_f32>(
        dim3{static_cast<unsigned>(rows)}, 0,
        EmbeddingArgs<E>{table.data(), ids.data(), out.data(), rows, c.v, c.h});
    const dim3 grid{static_cast<unsigned>(occurrences.tokens.size()),
                    static_cast<unsigned>(embedding_slices<E>(c.h))};
    launch_typed<T, embedding_backward_bf16, embedding_backward_f32>(
        grid, 0,
        EmbeddingBackwardArgs<E>{d_out.data(), tokens.data(), starts.data(), places.data(),
                                 d_table.data(), c.h});
    out.read(pass.out), d_table.read(pass.d_table);
}
