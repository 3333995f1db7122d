// A suite: the kernels of an operation on the emulated machine, every case under every schedule,
// against the definition in f64.
//
//     int main(int argc, char **argv) {
//         Suite suite(argc, argv);
//         for (const Case &c : CASES)
//             suite.check(c.name, [&] { return run(c); }, [&](const Results &r) { return compare(r,
//             c); });
//         return suite.end();
//     }
//
// The word `quick` ends the program at the first failure, as tests with planted faults do, and
// `fault=NUMBER` chooses one where several are compiled in; what other words choose is up to the
// suite.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>

#include <sys/mman.h>

#include "../emulation/machine.h"
#include "numbers.h"

/// Memory that begins, as a card's does, at a multiple of sixteen bytes and ends where a page that
/// can't be read begins, or less than sixteen bytes before it: what is read or written beyond the
/// end is not overlooked. It begins as NaNs; those beyond its end are signalling ones, whose bits
/// change in whatever is made of them.
template <class T> class Buffer {
  public:
    explicit Buffer(size_t n) : n_(n) {
        const size_t page = 4096, bytes = (n * sizeof(T) + 15) / 16 * 16;
        size_ = (bytes + page - 1) / page * page + page;
        base_ = static_cast<char *>(
            mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (base_ == MAP_FAILED || mprotect(base_ + size_ - page, page, PROT_NONE))
            emulation::fail("no memory");
        end_ = base_ + size_ - page;
        data_ = reinterpret_cast<T *>(end_ - bytes);
        std::memset(static_cast<void *>(data_), 0xff, n * sizeof(T));
        for (char *at = beyond(); at < end_; at++) *at = signalling(at);
    }
    Buffer(const Buffer &) = delete;
    ~Buffer() {
        for (const char *at = beyond(); at < end_; at++)
            if (*at != signalling(at)) emulation::fail("a write beyond the end of a buffer");
        munmap(base_, size_);
    }
    template <class U> explicit Buffer(const std::vector<U> &from) : Buffer(from.size()) {
        static_assert(sizeof(T) == sizeof(U));
        std::memcpy(static_cast<void *>(data_), from.data(), n_ * sizeof(T));
    }
    T *data() const { return data_; }
    template <class U> void read(std::vector<U> &to) const {
        to.resize(n_);
        std::memcpy(to.data(), data_, n_ * sizeof(T));
    }

  private:
    char *beyond() const { return reinterpret_cast<char *>(data_ + n_); }
    /// A byte of 0x7fa5, which signals as bf16 and, twice, as f32.
    char signalling(const char *at) const { return (end_ - at) % 2 ? '\x7f' : '\xa5'; }

    size_t n_, size_;
    char *base_, *end_;
    T *data_;
};

class Suite {
  public:
    Suite(int argc, char **argv) : words_(argv + 1, argv + argc), quick_(has("quick")) {
        for (const auto &word : words_)
            if (word.rfind("fault=", 0) == 0) emulation::planted = std::atoi(word.c_str() + 6);
    }

    /// Whether the program was started with this word.
    bool has(const char *word) const {
        for (const auto &mine : words_)
            if (mine == word) return true;
        return false;
    }

    /// Calls `check` for bf16 and for f32, or for the one that a word names.
    template <class Check> void each_type(Check check) const {
        if (!has("f32")) check(uint16_t(), "bf16 ");
        if (!has("bf16")) check(float(), "f32  ");
    }

    /// Runs a case under every schedule. Results must be what `compare` wants, have the same bits
    /// every time (`same_bits`), and no loads of theirs may meet in a bank.
    template <class Run, class Compare>
    void check(const std::string &name, Run run, Compare compare) {
        emulation::counters = {};
        emulation::schedule = emulation::SCHEDULES[0];
        const auto first = run();
        Verdict verdict = compare(first);
        verdict.good &= !emulation::counters.bank_conflicts;
        for (const auto &schedule : emulation::SCHEDULES) {
            if (quick_ && !verdict.good) break;
            if (&schedule == emulation::SCHEDULES) continue;
            emulation::schedule = schedule;
            if (same_bits(run(), first)) continue;
            std::printf("  other bits under the schedule \"%s\"\n", schedule.name);
            verdict.good = false;
        }
        if (const auto &counted = emulation::counters; counted.products)
            verdict.text += ", " + std::to_string(counted.products) + " products, " +
                            std::to_string(counted.bank_conflicts) + " bank conflicts";
        expect(name, verdict);
    }

    /// A claim that no schedule changes.
    void expect(const std::string &name, const Verdict &verdict) {
        std::printf("%-52s %s%s\n", name.c_str(), verdict.text.c_str(),
                    verdict.good ? "" : "  FAILED");
        std::fflush(stdout);
        good_ &= verdict.good;
        if (quick_ && !good_) std::exit(1);
    }

    /// The program's status.
    int end() const {
        std::printf(good_ ? "all cases agree with f64 under %zu schedules\n"
                          : "FAILED (%zu schedules)\n",
                    std::size(emulation::SCHEDULES));
        return good_ ? 0 : 1;
    }

  private:
    std::vector<std::string> words_;
    bool quick_, good_ = true;
};
