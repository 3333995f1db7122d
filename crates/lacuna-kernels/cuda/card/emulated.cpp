// The primitives as the emulation has them, for the program that compares them with a card's.
#include "../tests/primitives.cuh"

extern "C" void emulated_primitives(const unsigned *in, unsigned *out, int blocks) {
    emulation::schedule = emulation::SCHEDULES[0];
    emulation::launch<check_primitives>({static_cast<unsigned>(blocks)}, 32, (TILE_WORDS + 128) * 4,
                                        PrimitiveArgs{in, out});
}
