// Root-mean-square normalisation on the emulated machine.
//
//   rms_norm [quick] [bf16 | f32]: only kernels of this type
#include "rms_norm.h"
#include "suite.h"

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    check_rms_norm(suite);
    return suite.end();
}
