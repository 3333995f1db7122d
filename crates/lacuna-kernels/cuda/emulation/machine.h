// A machine for CUDA kernels made of one CPU thread, so that they can be tested where there is no
// card.
//
// Blocks run one after the other, a block's threads as fibres that change places only where threads
// of a card could wait for each other: in operations of a whole warp and at barriers. Which warp
// goes on is the schedule's choice. A kernel whose result depends on it has a race; a card would
// show it once in a million runs, a skewed schedule at once.
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include <ucontext.h>
#include <unistd.h>

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

/// A copy of 16 bytes that is under way; without a source it writes zeros.
struct Copy {
    void *to;
    const void *from;
    void land() const { from ? std::memcpy(to, from, 16) : std::memset(to, 0, 16); }
};

/// A product of a warp group that is under way: what one thread has of it.
struct Product {
    float *sums;
    int columns;
    bool add, left_in_registers, by_columns;
    unsigned long long left, right;
    /// This thread's two rows of the left operand, if it was in registers.
    float rows[2][16];
};

constexpr int WARP = 32, MOST_WARPS = 32, SLOT = 64;
/// As much as a block of compute capability 9.0 can have.
constexpr size_t SHARED_BYTES = 227 << 10;
constexpr size_t STACK_BYTES = 128 << 10;

enum class Wait { None, Warp, Block };

struct Fibre {
    ucontext_t start;
    jmp_buf resume;
    bool started, done;
    Wait wait;
    int side;
    std::vector<char> stack;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
    /// Copies that have landed, but are not published to products of warp groups.
    std::vector<void *> landed;
    std::vector<Product> open_products;
    std::deque<std::vector<Product>> product_groups;
};

/// Where the lanes of a warp meet. Two sides, since a lane may enter the next operation before
/// another has left this.
struct Meeting {
    alignas(16) unsigned char in[2][WARP][SLOT];
    alignas(16) unsigned char out[2][WARP][SLOT];
    int arrived;
    const void *operation;
};

inline std::vector<Fibre> fibres;
inline Meeting meetings[MOST_WARPS];
inline jmp_buf scheduler;
inline int current;
inline Schedule schedule = SCHEDULES[0];
inline Counters counters;
alignas(1024) inline unsigned char shared_memory[SHARED_BYTES];
/// Shared memory as products of warp groups see it: what was published.
alignas(1024) inline unsigned char published[SHARED_BYTES];
inline size_t shared_bytes;
inline void (*thread_body)();

[[noreturn]] inline void fail(const char *what) {
    std::printf("emulation: %s (thread %d, %s)\n", what, current, schedule.name);
    std::fflush(stdout);
    _exit(3);
}

inline void leave() {
    if (!_setjmp(fibres[current].resume)) _longjmp(scheduler, 1);
}

inline void first_entry() {
    thread_body();
    fibres[current].done = true;
    _longjmp(scheduler, 1);
}

/// An operation of all 32 lanes: `compute` makes everybody's result of everybody's value.
template <class Out, class In, class Compute> Out of_the_warp(const In &value, Compute compute) {
    static_assert(sizeof(In) <= SLOT && sizeof(Out) <= SLOT);
    static const char operation = 0; // its address tells this operation from others
    Fibre &fibre = fibres[current];
    Meeting &meeting = meetings[current / WARP];
    const int lane = current % WARP, side = fibre.side ^= 1;
    if (meeting.arrived && meeting.operation != &operation)
        fail("lanes of one warp are in different operations");
    meeting.operation = &operation;
    std::memcpy(meeting.in[side][lane], &value, sizeof value);
    if (++meeting.arrived < WARP) {
        fibre.wait = Wait::Warp;
        leave();
    } else {
        In in[WARP];
        Out out[WARP] = {};
        for (int i = 0; i < WARP; i++) std::memcpy(&in[i], meeting.in[side][i], sizeof(In));
        compute(in, out);
        for (int i = 0; i < WARP; i++) std::memcpy(meeting.out[side][i], &out[i], sizeof(Out));
        meeting.arrived = 0;
        for (int i = 0; i < WARP; i++) fibres[current - lane + i].wait = Wait::None;
    }
    Out result;
    std::memcpy(&result, meeting.out[side][lane], sizeof result);
    return result;
}

inline void barrier() {
    fibres[current].wait = Wait::Block;
    leave();
}

inline void check_shared(const void *address, size_t bytes) {
    const auto *at = static_cast<const unsigned char *>(address);
    if (at < shared_memory || at + bytes > shared_memory + shared_bytes)
        fail("an address outside of shared memory");
    if (static_cast<size_t>(at - shared_memory) % bytes)
        fail("a misaligned address in shared memory");
}

inline void enter(int thread) {
    current = thread;
    Fibre &fibre = fibres[thread];
    if (_setjmp(scheduler)) return;
    if (fibre.started) _longjmp(fibre.resume, 1);
    fibre.started = true;
    setcontext(&fibre.start);
}

/// A small generator, so that a schedule is the same everywhere.
struct Dice {
    unsigned long long state;
    unsigned below(unsigned n) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<unsigned>((state >> 33) % n);
    }
};

/// The warp that goes on, of `warps`, after `before` did; -1 if none can.
inline int choose(int warps, int before, Dice &dice) {
    int ready[MOST_WARPS], n = 0;
    for (int i = 1; i <= warps; i++) {
        const int warp = (before + i) % warps;
        bool can = false;
        for (int t = warp * WARP; t < (warp + 1) * WARP; t++)
            can |= !fibres[t].done && fibres[t].wait == Wait::None;
        if (can) ready[n++] = warp;
    }
    if (!n) return -1;
    int chosen = ready[schedule.order == Order::Random ? dice.below(n) : 0];
    for (int i = 0; i < n; i++) {
        if (schedule.order == Order::First && ready[i] < chosen) chosen = ready[i];
        if (schedule.order == Order::Last && ready[i] > chosen) chosen = ready[i];
    }
    return chosen;
}

/// One block of `threads` threads, with `shared` bytes that hold NaNs. `set_thread` tells a thread
/// its index.
inline void run_block(int threads, size_t shared, void (*set_thread)(int)) {
    if (threads % WARP || threads / WARP > MOST_WARPS)
        fail("a block of a number of threads that is not emulated");
    if (shared > SHARED_BYTES) fail("more shared memory than a block can have");
    shared_bytes = shared;
    std::memset(shared_memory, 0xff, shared);
    std::memset(published, 0xff, shared);
    std::memset(meetings, 0, sizeof meetings);
    if (fibres.size() < static_cast<size_t>(threads)) fibres.resize(threads);
    for (int t = 0; t < threads; t++) {
        Fibre &fibre = fibres[t];
        fibre.started = fibre.done = false;
        fibre.wait = Wait::None;
        fibre.side = 0;
        fibre.open.clear();
        fibre.groups.clear();
        fibre.landed.clear();
        fibre.open_products.clear();
        fibre.product_groups.clear();
        fibre.stack.resize(STACK_BYTES);
        getcontext(&fibre.start);
        fibre.start.uc_stack.ss_sp = fibre.stack.data();
        fibre.start.uc_stack.ss_size = fibre.stack.size();
        fibre.start.uc_link = nullptr;
        makecontext(&fibre.start, first_entry, 0);
    }
    const int warps = threads / WARP;
    Dice dice{schedule.seed};
    for (int warp = warps - 1, left = threads; left;) {
        const int next = choose(warps, warp, dice);
        if (next < 0) {
            for (int t = 0; t < threads; t++) {
                if (!fibres[t].done && fibres[t].wait != Wait::Block)
                    fail("a deadlock: not every thread comes");
                fibres[t].wait = Wait::None;
            }
            continue;
        }
        warp = next;
        const int turn = schedule.order == Order::Random ? static_cast<int>(dice.below(WARP)) : 0;
        for (int i = 0; i < WARP; i++) {
            const int thread = warp * WARP + (i + turn) % WARP;
            if (fibres[thread].done || fibres[thread].wait != Wait::None) continue;
            set_thread(thread);
            enter(thread);
            left -= fibres[thread].done;
        }
    }
    for (int t = 0; t < threads; t++) {
        if (!fibres[t].open.empty()) fail("a kernel ended with copies under way");
        if (!fibres[t].open_products.empty() || !fibres[t].product_groups.empty())
            fail("a kernel ended with products under way");
        for (const auto &group : fibres[t].groups)
            if (!group.empty()) fail("a kernel ended with copies under way");
    }
}

} // namespace emulation
