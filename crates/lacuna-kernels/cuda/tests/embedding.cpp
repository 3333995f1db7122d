// The embedding on the emulated machine.
//
//   embedding [quick] [bf16 | f32]: only kernels of this type
#include "embedding.h"
#include "suite.h"

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    check_embedding(suite);
    return suite.end();
}
