// AdamW's kernels on a machine, which names `Buffer` and `launch`: one pass.
#pragma once
#include <deque>

#include "../adamw.cu"
#include "adamw.h"
#include "typed.h"

/// A pass's parameters in the machine's memory, and the chunks that they make.
template <class T, class G = T> class ParametersOn {
    using E = Element<T>;
    using D = Element<G>;

  public:
    explicit ParametersOn(const AdamWPass<T> &pass) {
        std::vector<AdamWParameter<E, D>> parameters;
        std::vector<AdamWChunk> chunks;
        for (size_t i = 0; i < pass.parameters.size(); i++) {
            const auto &x = pass.parameters[i];
            std::vector<G> gradient;
            for (const T g : pass.gradients[i]) gradient.push_back(nearest<G>(number(g)));
            gradients_.emplace_back(gradient), values_.emplace_back(x.values);
            for (const auto *tensor : {&x.master, &x.first, &x.second})
                states_.emplace_back(*tensor);
            const int n = static_cast<int>(x.values.size());
            parameters.push_back({values_[i].data(), gradients_[i].data(),
                                  sizeof(T) == 2 ? states_[3 * i].data() : nullptr,
                                  states_[3 * i + 1].data(), states_[3 * i + 2].data(), n,
                                  i % 2 == 0});
            for (int j = 0; j * ADAMW_CHUNK < n; j++) chunks.push_back({static_cast<int>(i), j});
        }
        n_chunks_ = static_cast<int>(chunks.size());
        parameters_.emplace_back(parameters), chunks_.emplace_back(chunks);
    }
    const AdamWParameter<E, D> *parameters() const { return parameters_[0].data(); }
    const AdamWChunk *chunks() const { return chunks_[0].data(); }
    int n_chunks() const { return n_chunks_; }
    void read(std::vector<AdamWValues<T>> &parameters) const {
        parameters.resize(values_.size());
        for (size_t i = 0; i < values_.size(); i++) {
            auto &x = parameters[i];
            values_[i].read(x.values);
            states_[3 * i].read(x.master), states_[3 * i + 1].read(x.first),
                states_[3 * i + 2].read(x.second);
        }
    }

  private:
    std::deque<Buffer<D>> gradients_;
    std::deque<Buffer<E>> values_;
    std::deque<Buffer<float>> states_; ///< of each parameter its master, first and second
    std::deque<Buffer<AdamWParameter<E, D>>> parameters_;
    std::deque<Buffer<AdamWChunk>> chunks_;
    int n_chunks_;
};

template <class T> void run(const AdamWCase &c, AdamWPass<T> &pass) {
    using E = Element<T>;
    const AdamWPass<T> inputs = pass;
    const ParametersOn<T> on(inputs);
    const int chunks = on.n_chunks();
    const Buffer<float> squares(chunks), norm(1), shares(pass.shares), norm_of_shares(1);
    const Buffer<AdamWStep> step(std::vector{AdamWStep{STEP_SIZE, ROOT_SCALE, ADAMW_SHRINKS[0]}});
    AdamWArgs<E> args{on.parameters(), on.chunks(), squares.data(),
                      c.clip > 0 ? norm.data() : nullptr, step.data(), c.clip, BETA1, BETA2, REST1,
                      REST2, ADAMW_EPS};
    launch_typed<T, gradient_squares_bf16, gradient_squares_f32>(chunks, SCRATCH, args);
    launch<gradient_norm>(dim3{1}, NORM_THREADS, GRADIENT_NORM_SHARED,
                          GradientNormArgs{squares.data(), chunks, norm.data()});
    launch<gradient_norm>(dim3{1}, NORM_THREADS, GRADIENT_NORM_SHARED,
                          GradientNormArgs{shares.data(), static_cast<int>(pass.shares.size()),
                                           norm_of_shares.data()});
    launch_typed<T, adamw_bf16, adamw_f32>(chunks, 0, args);
    norm.read(pass.norm), norm_of_shares.read(pass.norm_of_shares);
    on.read(pass.parameters);
    if constexpr (sizeof(T) == 2) {
        const ParametersOn<T, float> wide(inputs);
        launch_typed<T, adamw_bf16_f32, adamw_f32>(
            chunks, 0,
            AdamWArgs<bf16, float>{wide.parameters(), wide.chunks(), squares.data(), args.norm,
                                   step.data(), c.clip, BETA1, BETA2, REST1, REST2, ADAMW_EPS});
        wide.read(pass.from_f32);
    }
}
