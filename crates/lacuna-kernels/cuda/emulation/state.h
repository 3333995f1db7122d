// The emulated machine's own state, for machine.cpp and tensor_core.cpp.
#pragma once
#include <csetjmp>
#include <cstring>
#include <deque>
#include <vector>

#include <ucontext.h>

#include "machine.h"

namespace emulation {

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

extern std::vector<Fibre> fibres;
/// The thread that runs.
extern int current;
extern size_t shared_bytes;
/// Shared memory as products of warp groups see it: what was published.
extern unsigned char published[SHARED_BYTES];

/// `bytes` at a multiple of themselves inside shared memory, or the end.
void check_shared(const void *address, size_t bytes);

} // namespace emulation
