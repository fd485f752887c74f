/* Values of e4m3: a sign, four bits of exponent, three of fraction; up to 448, steps of 2^-9 next to 0, no infinity
 * (compute capability 9.0). The test device has these functions for itself (tests/cuda_device). */
#ifndef OPS_CUDA_E4M3_H
#define OPS_CUDA_E4M3_H

#include <stdint.h>

#define E4M3_MOST 448.0f

#if defined(__CUDACC__)

/* Two f32, the first in the lower byte: to the nearest, ties to even; what is larger becomes 448, NaN stays NaN. */
static __device__ __forceinline__ uint32_t pack_e4m3(float low, float high) {
    uint16_t out = 0;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(high), "f"(low));
#endif
    return out;
}

#else
#include "e4m3_functions.h" /* the test device's */
#endif

/* Four f32 that are multiplied by `factor`, the first in the lowest byte. */
static __device__ __forceinline__ uint32_t pack_e4m3_four(const float *v, float factor) {
    return pack_e4m3(v[0] * factor, v[1] * factor) | pack_e4m3(v[2] * factor, v[3] * factor) << 16;
}

/* By what a row is multiplied whose largest magnitude is `most`, so that this becomes 448. So little that its inverse
 * overflows counts as 0. */
static __device__ __forceinline__ float e4m3_factor(float most) {
    return most < 1e-30f ? 0.0f : E4M3_MOST / most;
}
/* By what its products are multiplied in turn. */
static __device__ __forceinline__ float e4m3_scale(float most) {
    return most < 1e-30f ? 0.0f : most / E4M3_MOST;
}

#endif
