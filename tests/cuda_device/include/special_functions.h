/* What src/ops/cuda/special.h has in assembly. */
#ifndef CUDA_DEVICE_SPECIAL_FUNCTIONS_H
#define CUDA_DEVICE_SPECIAL_FUNCTIONS_H

#include <math.h>

static inline float special_exp2(float x) {
    return exp2f(x);
}
static inline float special_log2(float x) {
    return log2f(x);
}
static inline float special_inverse(float x) {
    return 1.0f / x;
}

#endif
