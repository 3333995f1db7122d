// Rotary position embedding on the emulated machine.
//
//   rope [quick] [bf16 | f32]: only kernels of this type
#include "rope.h"
#include "suite.h"

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    check_rope(suite);
    return suite.end();
}
