/* A barrier of all blocks of a kernel, which run at once (cuda_launch.together): a counter in device memory that every
 * block raises. The test device has these functions for itself (tests/cuda_device). */
#ifndef OPS_CUDA_GRID_H
#define OPS_CUDA_GRID_H

#include <stdint.h>

#if defined(__CUDACC__)

/* What this thread has written or seen (by barriers of its block: what the block has) is seen by those that wait. */
static __device__ __forceinline__ void grid_arrive(unsigned *counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
/* Until the counter, which may have come round, is at `target`. */
static __device__ __forceinline__ void grid_await(const unsigned *counter, unsigned target) {
    unsigned seen;
    do
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    while ((int)(seen - target) < 0);
}
/* The counter, which is raised. Written like this it is not gathered over the warp, which would wait for it at once. */
static __device__ __forceinline__ unsigned grid_claim(unsigned *counter) {
    unsigned n;
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(n)
                 : "l"(counter)
                 : "memory");
    return n;
}

#else
#include "grid_functions.h" /* the test device's */
#endif

#endif
