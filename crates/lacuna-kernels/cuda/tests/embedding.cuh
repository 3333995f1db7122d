// The embedding's kernels on a machine, which names `Buffer` and `launch`: one pass.
#pragma once
#include "../embedding.cu"
#include "embedding.h"
#include "typed.h"

template <class T> void run(const EmbeddingCase &c, EmbeddingPass<T> &pass) {
    using E = Element<T>;
    const int rows = static_cast<int>(pass.ids.size());
    // A plan for more tokens than a batch has ends with some that have no places.
    auto occurrences = sort_by_token(pass.ids);
    occurrences.tokens.push_back(static_cast<uint32_t>(c.v));
    occurrences.starts.push_back(occurrences.starts.back());
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
    const Buffer<float> wide(pass.d_table_f32);
    const dim3 wide_grid{grid.x, static_cast<unsigned>(embedding_slices<float>(c.h))};
    launch_typed<T, embedding_backward_bf16_f32, embedding_backward_f32>(
        wide_grid, 0,
        EmbeddingBackwardArgs<E, float>{d_out.data(), tokens.data(), starts.data(), places.data(),
                                        wide.data(), c.h});
    const Buffer<float> out_f32((size_t)rows * c.h);
    // A row in front of them is written where a place below 0 is not heeded.
    const Buffer<bf16> placed((size_t)(rows + 1) * c.h);
    std::vector<int> reversed;
    for (int i = 0; i < rows; i++) reversed.push_back(rows - 1 - i);
    const Buffer<int> reverse(reversed);
    launch_typed<T, embedding_bf16_f32, embedding_f32>(
        dim3{static_cast<unsigned>(rows)}, 0,
        EmbeddingArgs<E, float>{table.data(), ids.data(), out_f32.data(), rows, c.v, c.h});
    const Buffer<int> nowhere(std::vector<int>{-1});
    for (const auto *places : {&reverse, &nowhere})
        launch<place_rows_f32_bf16>(
            dim3{static_cast<unsigned>(places == &reverse ? rows : 1)}, THREADS, 0,
            PlacedArgs{out_f32.data(), places->data(), placed.data() + c.h, rows, c.h});
    out_f32.read(pass.out_f32), placed.read(pass.placed);
    out.read(pass.out), d_table.read(pass.d_table), wide.read(pass.d_table_f32);
}
