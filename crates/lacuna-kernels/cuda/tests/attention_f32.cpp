// Attention in f32 on the emulated machine.
//
//   attention_f32 [quick] [64] [128]: only heads of this size
#include "../attention_forward.cu"

#include "../attention_f32.cu"

#include "emulated.h"

#include "attention_f32.cuh"

int main(int argc, char **argv) {
    Suite suite(argc, argv);
    for (const int d : {64, 128})
        if (!suite.has(d == 64 ? "128" : "64")) check_floats(suite, d);
    return suite.end();
}
