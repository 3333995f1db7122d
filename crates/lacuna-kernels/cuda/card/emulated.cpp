// The primitives as the emulation has them, for the program that compares them with a card's.
#include "../tests/primitives.cuh"

extern "C" void emulated_primitives(const unsigned *in, unsigned *out, int blocks, int group) {
    using emulation::launch;
    emulation::schedule = emulation::SCHEDULES[0];
    const dim3 grid{static_cast<unsigned>(blocks)};
    const PrimitiveArgs args{in, out};
    if (group == 0) launch<check_primitives>(grid, 32, (TILE_WORDS + 128) * 4, args);
    if (group == 64) launch<check_group_products_64>(grid, 128, GROUP_SHARED<64>, args);
    if (group == 128) launch<check_group_products_128>(grid, 128, GROUP_SHARED<128>, args);
}
