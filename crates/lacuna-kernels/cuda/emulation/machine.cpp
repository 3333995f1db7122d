#include <cstdio>
#include <cstdlib>

#include <unistd.h>

#include "state.h"

namespace emulation {

constexpr int MOST_WARPS = 32, SLOT = 64;
constexpr size_t STACK_BYTES = 128 << 10;

Schedule schedule = SCHEDULES[0];
Counters counters;
void (*on_failure)(const char *what) = nullptr;
alignas(1024) unsigned char shared_memory[SHARED_BYTES];
alignas(1024) unsigned char published[SHARED_BYTES];
std::vector<Fibre> fibres;
int current;
size_t shared_bytes;

namespace {

/// Where the lanes of a warp meet. Two sides, since a lane may enter the next operation before
/// another has left this.
struct Meeting {
    alignas(16) unsigned char in[2][WARP * SLOT];
    alignas(16) unsigned char out[2][WARP * SLOT];
    int arrived;
    const void *operation;
};

Meeting meetings[MOST_WARPS];
jmp_buf scheduler;
void (*thread_body)();

void leave() {
    if (!_setjmp(fibres[current].resume)) _longjmp(scheduler, 1);
}

void first_entry() {
    thread_body();
    fibres[current].done = true;
    _longjmp(scheduler, 1);
}

} // namespace

void fail(const char *what) {
    char said[256];
    std::snprintf(said, sizeof said, "%s (thread %d, %s)", what, current, schedule.name);
    if (on_failure) on_failure(said);
    std::printf("emulation: %s\n", said);
    std::fflush(stdout);
    _exit(3);
}

void meet(const void *operation, const void *value, size_t value_bytes, void *result,
          size_t result_bytes, void (*compute)(const void *with, const void *in, void *out),
          const void *with) {
    if (value_bytes > SLOT || result_bytes > SLOT)
        fail("an operation of more bytes than a lane can bring");
    Fibre &fibre = fibres[current];
    Meeting &meeting = meetings[current / WARP];
    const int lane = current % WARP, side = fibre.side ^= 1;
    if (meeting.arrived && meeting.operation != operation)
        fail("lanes of one warp are in different operations");
    meeting.operation = operation;
    std::memcpy(meeting.in[side] + lane * value_bytes, value, value_bytes);
    if (++meeting.arrived < WARP) {
        fibre.wait = Wait::Warp;
        leave();
    } else {
        compute(with, meeting.in[side], meeting.out[side]);
        meeting.arrived = 0;
        for (int i = 0; i < WARP; i++) fibres[current - lane + i].wait = Wait::None;
    }
    std::memcpy(result, meeting.out[side] + lane * result_bytes, result_bytes);
}

void barrier() {
    fibres[current].wait = Wait::Block;
    leave();
}

void check_shared(const void *address, size_t bytes) {
    const auto *at = static_cast<const unsigned char *>(address);
    if (at < shared_memory || at + bytes > shared_memory + shared_bytes)
        fail("an address outside of shared memory");
    if (static_cast<size_t>(at - shared_memory) % bytes)
        fail("a misaligned address in shared memory");
}

namespace {

void enter(int thread) {
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
int choose(int warps, int before, Dice &dice) {
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

} // namespace

void run_block(int threads, size_t shared, void (*body)(), void (*set_thread)(int)) {
    thread_body = body;
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
