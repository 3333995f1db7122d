// A machine for CUDA kernels made of one CPU thread, so that they can be tested where there is no
// card.
//
// Blocks run one after the other, a block's threads as fibres that change places only where threads
// of a card could wait for each other: in operations of a whole warp and at barriers. Which warp
// goes on is the schedule's choice. A kernel whose result depends on it has a race; a card would
// show it once in a million runs, a skewed schedule at once.
#pragma once
#include <cstddef>

namespace emulation {

/// Which of the warps that can go on does.
enum class Order { InStep, First, Last, Random };

struct Schedule {
    const char *name;
    Order order;
    unsigned seed;
    /// Asynchronous copies land when they are started; else not before they are waited for.
    bool copies_land_at_once;
};

constexpr Schedule SCHEDULES[] = {
    {"in step, copies land late", Order::InStep, 0, false},
    {"first warp ahead, copies land late", Order::First, 0, false},
    {"last warp ahead, copies land late", Order::Last, 0, false},
    {"random warp, copies land late", Order::Random, 1, false},
    {"in step, copies land at once", Order::InStep, 0, true},
    {"last warp ahead, copies land at once", Order::Last, 0, true},
    {"random warp, copies land at once", Order::Random, 2, true},
};

/// What kernels did since the last reset, summed over warps.
struct Counters {
    long products = 0, matrix_loads = 0, bank_conflicts = 0;
};

constexpr int WARP = 32;
/// As much as a block of compute capability 9.0 can have.
constexpr size_t SHARED_BYTES = 227 << 10;

/// The fault that is at work where several are compiled into the kernels at once; 0: none.
inline int planted = 0;

extern Schedule schedule;
extern Counters counters;
extern unsigned char shared_memory[SHARED_BYTES];

/// Hears of what goes wrong, if it is not null, and must not return.
extern void (*on_failure)(const char *what);
/// Ends the program with status 3 and says what went wrong, unless somebody else hears of it.
[[noreturn]] void fail(const char *what);

/// Where the 32 lanes of a warp meet in one operation: the last to come computes everybody's result
/// of everybody's value.
void meet(const void *operation, const void *value, size_t value_bytes, void *result,
          size_t result_bytes, void (*compute)(const void *with, const void *in, void *out),
          const void *with);

/// An operation of all lanes: `compute` makes 32 results of 32 values.
template <class Out, class In, class Compute> Out of_the_warp(const In &value, Compute compute) {
    static const char operation = 0; // its address tells this operation from others
    Out result;
    meet(
        &operation, &value, sizeof value, &result, sizeof result,
        [](const void *with, const void *in, void *out) {
            (*static_cast<const Compute *>(with))(static_cast<const In *>(in),
                                                  static_cast<Out *>(out));
        },
        &compute);
    return result;
}

/// Waits for all threads of the block.
void barrier();

/// One block of `threads` threads, with `shared` bytes that hold NaNs. `set_thread` tells a thread
/// its index.
void run_block(int threads, size_t shared, void (*body)(), void (*set_thread)(int));

} // namespace emulation
