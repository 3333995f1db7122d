// The card as checks use it: memory that begins as NaNs, and times.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "../tests/numbers.h"

inline void must(cudaError_t error, const char *what) {
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

/// Lets a kernel take more shared memory than the 48 KB that every kernel may.
inline void allow_shared(const void *kernel, int bytes) {
    if (bytes > 48 << 10)
        MUST(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

/// Starts a kernel.
template <auto KERNEL, class Args>
void launch(dim3 grid, int threads, size_t shared, const Args &args) {
    allow_shared(reinterpret_cast<const void *>(KERNEL), static_cast<int>(shared));
    KERNEL<<<grid, threads, shared>>>(args);
    MUST(cudaGetLastError());
}

/// The suite as tests/suite.h has it for the emulated machine: here each case runs twice and must
/// give the same bits.
class Suite {
  public:
    template <class Check> void each_type(Check check) const {
        check(uint16_t(), "bf16 ");
        check(float(), "f32  ");
    }
    template <class Run, class Compare>
    void check(const std::string &name, Run run, Compare compare) {
        const auto first = run();
        const bool same = same_bits(run(), first);
        const Verdict verdict = compare(first);
        good &= same && verdict.good;
        std::printf("check %-52s %s%s%s\n", name.c_str(), verdict.text.c_str(),
                    same ? "" : "  a second run gave other bits",
                    same && verdict.good ? "" : "  FAILED");
    }
    bool good = true;
};

/// bf16 numbers for times: a table of normal draws over and over.
inline std::vector<uint16_t> any_numbers(size_t n) {
    Numbers numbers{5};
    const auto table = draw<uint16_t>(numbers, 1 << 16);
    std::vector<uint16_t> x(n);
    for (size_t i = 0; i < n; i++) x[i] = table[i % table.size()];
    return x;
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

/// Bytes a second, read and written, of the card's own copy: what a kernel that memory bounds is
/// measured against.
inline double copy_rate() {
    static double rate = 0;
    if (rate) return rate;
    const size_t bytes = 1 << 30;
    const Buffer<char> from(bytes), to(bytes);
    const double ms = milliseconds(
        [&] { MUST(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice)); });
    rate = 2. * bytes / ms * 1e3;
    std::printf("copy of 1 GiB: %.0f GB/s\n", rate * 1e-9);
    return rate;
}

/// Reports a time against the floor: that of a copy which moves as many bytes as the kernel must.
inline void report_bytes(const char *kernel, const std::string &what, double ms, double bytes) {
    const double floor = bytes / copy_rate() * 1e3;
    std::printf("time %-34s %-40s %8.3f ms, floor %.3f, %.0f %% of a copy's rate\n", kernel,
                what.c_str(), ms, floor, 100 * floor / ms);
    std::fflush(stdout);
}
/// Times a call and reports it so.
template <class F>
void time_bytes(const char *kernels, const std::string &what, double bytes, F call) {
    report_bytes(kernels, what, milliseconds(call), bytes);
}
