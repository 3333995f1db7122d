// Attention on a card: the primitives against the emulation, every case against f64, then times.
//
//   card [check] [time]     without a word: check and time
//
// Prints a line for each result and ends with a status other than 0 if one is wrong.
#include <map>

#include "../attention_backward.cu"
#include "../attention_forward.cu"
#include "../attention_hopper.cu"
#include "../tests/attention.h"
#include "../tests/primitives.cuh"

extern "C" void emulated_primitives(const unsigned *in, unsigned *out, int blocks, int group);

namespace {

void must(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    std::printf("card: %s: %s\n", what, cudaGetErrorString(error));
    std::exit(2);
}
#define MUST(call) must(call, #call)

/// Memory of the card, poisoned with NaNs.
template <class T> class Buffer {
  public:
    explicit Buffer(size_t n) : n_(n) {
        MUST(cudaMalloc(&data_, n * sizeof(T)));
        MUST(cudaMemset(data_, 0xff, n * sizeof(T)));
    }
    template <class U> explicit Buffer(const std::vector<U> &from) : Buffer(from.size()) {
        static_assert(sizeof(T) == sizeof(U));
        MUST(cudaMemcpy(data_, from.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    Buffer(const Buffer &) = delete;
    ~Buffer() { cudaFree(data_); }
    T *data() const { return data_; }
    template <class U> void read(std::vector<U> &to) const {
        to.resize(n_);
        MUST(cudaMemcpy(to.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    }

  private:
    size_t n_;
    T *data_ = nullptr;
};

Rows rows(const Buffer<bf16> &data, int len, int heads, int d) {
    return {data.data(), (long long)len * heads * d, d, heads * d};
}

/// A kernel with the tile that it was written for.
template <class Args> struct Kernel {
    const char *name;
    void (*run)(Args);
    int d, threads, rows, shared; ///< rows: queries or keys to a block
};

struct Kernels {
    const char *name;
    Kernel<ForwardArgs> forward;
    Kernel<BackwardArgs> rows, queries, keys;
};

#define KERNEL(name, d, threads, rows, shared) {#name, name, d, threads, rows, shared}
/// Kernels of a shape, as tests/attention.h lists them.
Kernels of_shape(const char *name) {
    const auto find = [](const char *name) {
        for (const Shape &s : SHAPES)
            if (!std::strcmp(s.name, name)) return s;
        std::abort();
    };
    const Shape s = find(name);
    const int forward = forward_shared(s.d, s.forward_queries, s.forward_keys),
              queries = backward_queries_shared(s.d, s.dq_queries, s.dq_keys),
              keys = backward_keys_shared(s.d, s.dkv_keys, s.dkv_queries);
#define SHAPE(suffix, forward_kernel, rows_kernel, queries_kernel, keys_kernel)                    \
    if (!std::strcmp(name, #suffix))                                                               \
        return {                                                                                   \
            s.name,                                                                                \
            KERNEL(forward_kernel, s.d, s.threads(s.forward_queries), s.forward_queries, forward), \
            KERNEL(rows_kernel, s.d, 128, 4, 0),                                                   \
            KERNEL(queries_kernel, s.d, s.threads(s.dq_queries), s.dq_queries, queries),           \
            KERNEL(keys_kernel, s.d, s.threads(s.dkv_keys), s.dkv_keys, keys)};
    SHAPE(64, attention_forward_64, attention_backward_rows_64, attention_backward_queries_64,
          attention_backward_keys_64)
    SHAPE(128, attention_forward_128, attention_backward_rows_128, attention_backward_queries_128,
          attention_backward_keys_128)
    SHAPE(64_small, attention_forward_64, attention_backward_rows_64,
          attention_backward_queries_64_small, attention_backward_keys_64)
    SHAPE(128_small, attention_forward_128_small, attention_backward_rows_128,
          attention_backward_queries_128_small, attention_backward_keys_128_small)
    SHAPE(64_hopper, attention_forward_64_hopper, attention_backward_rows_64,
          attention_backward_queries_64_hopper, attention_backward_keys_64_hopper)
    SHAPE(128_hopper, attention_forward_128_hopper, attention_backward_rows_128,
          attention_backward_queries_128_hopper, attention_backward_keys_128_hopper)
    std::abort();
}

/// One pass with its inputs and results on the card.
class CardPass {
  public:
    CardPass(const Case &c, const Pass &p)
        : c_(c), padded_(tiles(c.q_len(), PADDING) * PADDING), ranges_(flat(c)),
          sights_(c.rows.size() * tiles(c.q_len(), SIGHT)), q_(p.q), k_(p.k), v_(p.v),
          d_out_(p.d_out), out_(p.q.size()), d_q_(p.q.size()), d_k_(p.k.size()), d_v_(p.v.size()),
          log_sums_((size_t)c.batch * c.heads * c.q_len()),
          stats_((size_t)c.batch * c.heads * padded_) {
        mask_ = {ranges_.data(), sights_.data(), (int)c.rows.size(), c.prefix, c.q_len(), c.kv_len};
    }
    void sights() {
        attention_sights<<<dim3(tiles(c_.q_len(), 4 * SIGHT), (unsigned)c_.rows.size()), 128>>>(
            SightArgs{mask_, sights_.data()});
        MUST(cudaGetLastError());
    }
    void forward(const Kernel<ForwardArgs> &k) {
        start(k, dim3(tiles(c_.q_len(), k.rows), c_.heads, c_.batch),
              ForwardArgs{by_query(q_), by_key(k_), by_key(v_), by_query(out_), log_sums_.data(),
                          mask_, c_.heads, c_.kv_heads, scale() * LOG2_E});
    }
    void backward_rows(const Kernel<BackwardArgs> &k) {
        start(k, dim3(padded_ / k.rows, c_.heads, c_.batch), backward());
    }
    void backward_queries(const Kernel<BackwardArgs> &k) {
        start(k, dim3(tiles(c_.q_len(), k.rows), c_.heads, c_.batch), backward());
    }
    void backward_keys(const Kernel<BackwardArgs> &k) {
        start(k, dim3(tiles(c_.kv_len, k.rows), c_.kv_heads, c_.batch), backward());
    }
    void read(Pass &p) const {
        MUST(cudaDeviceSynchronize());
        out_.read(p.out), log_sums_.read(p.log_sums), d_q_.read(p.d_q), d_k_.read(p.d_k),
            d_v_.read(p.d_v);
    }
    float scale() const { return 1 / std::sqrt((float)c_.d); }

  private:
    static std::vector<int4> flat(const Case &c) {
        std::vector<int4> flat;
        for (const auto &row : c.rows)
            for (const Seen &s : row)
                flat.push_back({s.first.begin, s.first.end, s.second.begin, s.second.end});
        return flat;
    }
    Rows by_query(const Buffer<bf16> &x) const { return rows(x, c_.q_len(), c_.heads, c_.d); }
    Rows by_key(const Buffer<bf16> &x) const { return rows(x, c_.kv_len, c_.kv_heads, c_.d); }
    BackwardArgs backward() const {
        return {by_query(q_),   by_key(k_),   by_key(v_),   by_query(out_),   by_query(d_out_),
                by_query(d_q_), by_key(d_k_), by_key(d_v_), log_sums_.data(), stats_.data(),
                mask_,          c_.heads,     c_.kv_heads,  scale() * LOG2_E};
    }
    template <class Args> static void start(const Kernel<Args> &k, dim3 grid, const Args &args) {
        static std::map<const void *, bool> prepared;
        if (k.shared > 48 << 10 && !prepared[(const void *)k.run]) {
            MUST(cudaFuncSetAttribute((const void *)k.run,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, k.shared));
            prepared[(const void *)k.run] = true;
        }
        k.run<<<grid, k.threads, k.shared>>>(args);
        must(cudaGetLastError(), k.name);
    }

    const Case &c_;
    int padded_;
    Mask mask_;
    Buffer<int4> ranges_;
    Buffer<Sight> sights_;
    Buffer<bf16> q_, k_, v_, d_out_, out_, d_q_, d_k_, d_v_;
    Buffer<float> log_sums_;
    Buffer<float2> stats_;
};

Pass whole_pass(const Case &c, const Pass &inputs, const Kernels &k) {
    CardPass card(c, inputs);
    card.sights();
    card.forward(k.forward);
    card.backward_rows(k.rows);
    card.backward_queries(k.queries);
    card.backward_keys(k.keys);
    Pass p = inputs;
    card.read(p);
    return p;
}

float as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

bool check_primitives_on_card() {
    const int blocks = 256;
    Numbers numbers{11};
    std::vector<unsigned> in(blocks * PRIMITIVE_INPUT), expected(blocks * PRIMITIVE_OUTPUT), got;
    // Two bf16 numbers to a word, as products read them; words 0 to 4 of a lane are bits of any
    // kind, but for NaNs.
    for (auto &word : in)
        word = to_bf16(numbers.normal()) | (unsigned)to_bf16(numbers.normal()) << 16;
    for (int i = 0; i < blocks * 32; i++)
        for (int j = 0; j < 5; j++) {
            unsigned &word = in[i / 32 * PRIMITIVE_INPUT + TILE_WORDS + i % 32 * LANE_WORDS + j];
            do word = (unsigned)numbers.next();
            while ((word & 0x7f800000) == 0x7f800000);
        }
    emulated_primitives(in.data(), expected.data(), blocks, 0);
    const Buffer<unsigned> d_in(in), d_out((size_t)blocks * PRIMITIVE_OUTPUT);
    check_primitives<<<blocks, 32, (TILE_WORDS + 128) * 4>>>(
        PrimitiveArgs{d_in.data(), d_out.data()});
    MUST(cudaGetLastError());
    MUST(cudaDeviceSynchronize());
    d_out.read(got);
    struct {
        const char *name;
        int from, to;
        double tolerance; ///< relative to 1 + |expected|; none: the same bits
    } const parts[] = {{"load_matrices", 0, 4, 0},     {"load_matrices_transposed", 4, 8, 0},
                       {"copy_async", 8, 12, 0},       {"pack_bf16", 12, 13, 0},
                       {"multiply_add", 13, 17, 4e-6}, {"exp2_fast", 17, 18, 3e-7},
                       {"ballot", 18, 19, 0}};
    bool good = true;
    for (const auto &part : parts) {
        long wrong = 0, differ = 0;
        double most = 0;
        for (size_t i = 0; i < got.size(); i++) {
            const int at = i % RESULT_WORDS;
            if (at < part.from || at >= part.to) continue;
            differ += got[i] != expected[i];
            if (!part.tolerance) continue;
            const double e = std::fabs((double)as_float(got[i]) - as_float(expected[i])) /
                             (1 + std::fabs((double)as_float(expected[i])));
            most = std::max(most, e);
            wrong += !(e <= part.tolerance);
        }
        if (!part.tolerance) wrong = differ;
        std::printf("primitive %-26s %ld of %d words differ, by %.1e at most%s\n", part.name,
                    differ, blocks * 32 * (part.to - part.from), most, wrong ? "  FAILED" : "");
        good &= !wrong;
    }
    return good;
}

/// Products of a warp group of D columns, on normal numbers.
template <int D> bool check_group_products(void (*kernel)(PrimitiveArgs)) {
    const int blocks = 32, shared = GROUP_SHARED<D>;
    Numbers numbers{13};
    std::vector<unsigned> in(blocks * GROUP_INPUT<D>), expected(blocks * GROUP_OUTPUT<D>), got;
    for (auto &word : in)
        word = to_bf16(numbers.normal()) | (unsigned)to_bf16(numbers.normal()) << 16;
    emulated_primitives(in.data(), expected.data(), blocks, D);
    const Buffer<unsigned> d_in(in), d_out(expected.size());
    MUST(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              shared));
    kernel<<<blocks, 128, shared>>>(PrimitiveArgs{d_in.data(), d_out.data()});
    MUST(cudaGetLastError());
    MUST(cudaDeviceSynchronize());
    d_out.read(got);
    bool good = true;
    for (int part = 0; part < 2; part++) {
        double most = 0;
        for (size_t i = 0; i < got.size(); i++) {
            if ((int)(i % D >= D / 2) != part) continue;
            const double e = std::fabs((double)as_float(got[i]) - as_float(expected[i])) /
                             (1 + std::fabs((double)as_float(expected[i])));
            if (!(e <= most)) most = e;
        }
        const bool fine = most <= 2e-5;
        std::printf("primitive %s, %d columns: off by %.1e at most%s\n",
                    part ? "add_weighted_tile" : "multiply_tiles", D, most, fine ? "" : "  FAILED");
        good &= fine;
    }
    return good;
}

bool check_case(const Case &c, const Kernels &k) {
    const Pass inputs = draw(c), first = whole_pass(c, inputs, k),
               second = whole_pass(c, inputs, k);
    const bool same = same_bits(first, second);
    const Errors e = compare(first, truth(c, inputs, 1 / std::sqrt((double)c.d)), true);
    const bool good = within(e) && same;
    std::printf("check %-9s %-46s out %.2e log-sum %.1e dq %.2e dk %.2e dv %.2e%s%s\n", k.name,
                c.name.c_str(), e.out, e.log_sum, e.d_q, e.d_k, e.d_v,
                same ? "" : "  a second run gave other bits", good ? "" : "  FAILED");
    return good;
}

/// Beyond one block of everything: tails in the middle of a tile, groups of heads, several
/// sequences.
std::vector<Case> large_cases(int d) {
    std::vector<Case> cases;
    const auto name = [&](const char *what) {
        return std::string(what) + ", head " + std::to_string(d);
    };
    cases.push_back({name("causal 700"), 1, 3, 1, d, 700, 0, {pass(Pattern::Causal, 1, 700, 0)}});
    cases.push_back({name("block diffusion 2 × 450"),
                     1,
                     4,
                     2,
                     d,
                     900,
                     0,
                     {pass(Pattern::BlockDiffusion, 4, 450, 0)}});
    cases.push_back({name("documents 2 × 388"),
                     2,
                     2,
                     2,
                     d,
                     776,
                     0,
                     {documents(Pattern::BlockDiffusion, 16, {150, 37, 1, 200}),
                      documents(Pattern::BlockDiffusion, 16, {388})}});
    return cases;
}

Pass random_pass(const Case &c) {
    Pass p;
    Numbers numbers{3};
    const size_t queries = (size_t)c.batch * c.q_len() * c.heads * c.d,
                 keys = (size_t)c.batch * c.kv_len * c.kv_heads * c.d;
    for (auto *x : {&p.q, &p.d_out}) x->resize(queries);
    for (auto *x : {&p.k, &p.v}) x->resize(keys);
    // Normal draws are slow for hundreds of millions of numbers; a table of them, read at random
    // places, will do for times.
    std::vector<uint16_t> table(1 << 14);
    for (auto &x : table) x = to_bf16(numbers.normal());
    for (auto *x : {&p.q, &p.k, &p.v, &p.d_out})
        for (size_t i = 0; i < x->size(); i += 4) {
            const uint64_t bits = numbers.next();
            for (int j = 0; j < 4; j++) (*x)[i + j] = table[bits >> (16 * j) & (table.size() - 1)];
        }
    return p;
}

/// Median milliseconds of one call.
template <class F> double milliseconds(F call) {
    cudaEvent_t begin, end;
    MUST(cudaEventCreate(&begin)), MUST(cudaEventCreate(&end));
    call(), call();
    std::vector<float> times;
    float total = 0;
    while (times.size() < 5 || (total < 120 && times.size() < 200)) {
        MUST(cudaEventRecord(begin));
        call();
        MUST(cudaEventRecord(end));
        MUST(cudaEventSynchronize(end));
        float ms;
        MUST(cudaEventElapsedTime(&ms, begin, end));
        times.push_back(ms);
        total += ms;
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

std::vector<Case> timed_cases(int d) {
    const int heads = 2048 / d;
    std::vector<Case> cases;
    const auto name = [&](const char *what) {
        return std::string(what) + ", head " + std::to_string(d);
    };
    cases.push_back(
        {name("causal 8192"), 2, heads, heads, d, 8192, 0, {pass(Pattern::Causal, 1, 8192, 0)}});
    cases.push_back(
        {name("full 8192"), 1, heads, heads, d, 8192, 0, {pass(Pattern::Full, 1, 8192, 0)}});
    cases.push_back({name("block diffusion 2 × 8192, blocks of 4"),
                     1,
                     heads,
                     heads,
                     d,
                     16384,
                     0,
                     {pass(Pattern::BlockDiffusion, 4, 8192, 0)}});
    cases.push_back({name("block diffusion 2 × 4096, blocks of 4, 2 heads a key head"),
                     2,
                     heads,
                     heads / 2,
                     d,
                     8192,
                     0,
                     {pass(Pattern::BlockDiffusion, 4, 4096, 0)}});
    std::vector<int> lengths;
    for (int n = 0, i = 0; n < 8192; i++)
        lengths.push_back(std::min(8192 - n, 100 + 397 * i % 900)), n += lengths.back();
    cases.push_back({name("documents 2 × 8192, blocks of 4"),
                     1,
                     heads,
                     heads,
                     d,
                     16384,
                     0,
                     {documents(Pattern::BlockDiffusion, 4, lengths)}});
    return cases;
}

void report(const char *kernel, const Case &c, double ms, double products) {
    const double flops = 2. * products * c.d * c.pairs() * c.heads;
    std::printf("time %-38s %-62s %8.3f ms %7.1f TFLOP/s\n", kernel, c.name.c_str(), ms,
                flops / ms * 1e-9);
    std::fflush(stdout);
}

void time_case(const Case &c, const Kernels &k) {
    CardPass card(c, random_pass(c));
    card.sights();
    const double sights = milliseconds([&] { card.sights(); });
    const double forward = milliseconds([&] { card.forward(k.forward); });
    report(k.forward.name, c, forward, 2);
    const double row = milliseconds([&] { card.backward_rows(k.rows); });
    const double queries = milliseconds([&] { card.backward_queries(k.queries); });
    const double keys = milliseconds([&] { card.backward_keys(k.keys); });
    report(k.queries.name, c, queries, 3);
    report(k.keys.name, c, keys, 4);
    report("backward, all of it", c, row + queries + keys, 5);
    std::printf("     sights %.3f ms, rows %.3f ms\n", sights, row);
}

} // namespace

int main(int argc, char **argv) {
    bool check = argc == 1, time = argc == 1, good = true;
    for (int i = 1; i < argc; i++)
        check |= !std::strcmp(argv[i], "check"), time |= !std::strcmp(argv[i], "time");
    cudaDeviceProp card;
    MUST(cudaGetDeviceProperties(&card, 0));
    std::printf("card %s, %d multiprocessors, %zu KB of shared memory a block\n", card.name,
                card.multiProcessorCount, card.sharedMemPerBlockOptin >> 10);
    const bool hopper = card.major == 9, sm_80 = card.major == 8 && card.minor == 0;
    const auto fits = [&](const std::string &name) {
        return name == "128" ? sm_80 : name.find("_hopper") == std::string::npos || hopper;
    };
    if (check) {
        good &= check_primitives_on_card();
        if (hopper)
            good &= check_group_products<64>(check_group_products_64) &
                    check_group_products<128>(check_group_products_128);
        for (const Shape &shape : SHAPES) {
            if (!fits(shape.name)) continue;
            const Kernels k = of_shape(shape.name);
            for (const Case &c : small_cases(k.forward.d)) good &= check_case(c, k);
            for (const Case &c : large_cases(k.forward.d)) good &= check_case(c, k);
        }
        std::printf(good ? "every check passed\n" : "CHECKS FAILED\n");
    }
    if (time)
        for (const Shape &shape : SHAPES)
            if (fits(shape.name))
                for (const Case &c : timed_cases(shape.d)) time_case(c, of_shape(shape.name));
    return good ? 0 : 1;
}
