// AdamW on the emulated machine.
//
//   adamw [quick] [bf16 | f32]: only kernels of this type
#include "adamw.h"
#include "suite.h"

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    check_adamw(suite);
    return suite.end();
}
