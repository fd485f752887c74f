/* The sums of a warp of src/ops/cuda/device.h, which are most of what small kernels do: lanes meet once and not five times. */
#ifndef CUDA_DEVICE_DEVICE_SUMS_H
#define CUDA_DEVICE_DEVICE_SUMS_H

#include "cuda_device/language.h"

/* As over __shfl_xor_sync by 16, 8, 4, 2 and 1. */
template <float (*Op)(float, float)>
static void cuda_device_butterfly(void *const *operands, unsigned) {
    float x[32], y[32];
    for (int i = 0; i < 32; i++) {
        if (operands[i] == nullptr)
            cuda_device_fail("a sum of a warp: lane %d is not there", i);
        x[i] = *(const float *)operands[i];
    }
    for (int step = 16; step > 0; step /= 2) {
        for (int i = 0; i < 32; i++)
            y[i] = Op(x[i], x[i ^ step]);
        memcpy(x, y, sizeof x);
    }
    for (int i = 0; i < 32; i++)
        *(float *)operands[i] = x[i];
}
static inline float cuda_device_add(float a, float b) {
    return a + b;
}
static inline float warp_sum(float x, CUDA_DEVICE_HERE) {
    cuda_device_meet_warp(0xffffffffu, &x, cuda_device_butterfly<cuda_device_add>,
                          CUDA_DEVICE_SITE("warp_sum"));
    return x;
}
static inline float warp_max(float x, CUDA_DEVICE_HERE) {
    cuda_device_meet_warp(0xffffffffu, &x, cuda_device_butterfly<fmaxf>,
                          CUDA_DEVICE_SITE("warp_max"));
    return x;
}

#endif
