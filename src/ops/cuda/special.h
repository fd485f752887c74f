/* Functions of the special function unit, one instruction each: relative errors of some 1e-7, numbers below 2^-126 count
 * as 0. The test device has these functions for itself (tests/cuda_device). */
#ifndef OPS_CUDA_SPECIAL_H
#define OPS_CUDA_SPECIAL_H

#define LOG2_E 1.4426950408889634f /* e^x = 2^(x LOG2_E) */

#if defined(__CUDACC__)

/* 2^x */
static __device__ __forceinline__ float special_exp2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
/* Near 1 the error is absolute, 2^-22. */
static __device__ __forceinline__ float special_log2(float x) {
    float out;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
/* 1 / x */
static __device__ __forceinline__ float special_inverse(float x) {
    float out;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

#else
#include "special_functions.h" /* the test device's */
#endif

#endif
