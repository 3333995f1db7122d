// The gated activation on the emulated machine.
//
//   swiglu [quick] [bf16 | f32]: only kernels of this type
#include "swiglu.h"
#include "suite.h"

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    check_swiglu(suite);
    return suite.end();
}
