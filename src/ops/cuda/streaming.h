/* Memory that passes through once (states): reads and writes that caches need not keep, and a hint that a line will be
 * read soon. The hint changes nothing that can be seen, so it may be given before cuda_wait, for an address
 * that lies in the tensor. The test device has these functions for itself (tests/cuda_device). */
#ifndef OPS_CUDA_STREAMING_H
#define OPS_CUDA_STREAMING_H

#include "ops/cuda/device.h"

#if defined(__CUDACC__)

/* 16 bytes, at a multiple of 16. */
static __device__ __forceinline__ uint4 load_streaming(const void *p) {
    return __ldcs((const uint4 *)p);
}
static __device__ __forceinline__ void store_streaming(void *p, uint4 x) {
    __stcs((uint4 *)p, x);
}
/* What stands in memory now, past the caches of the processor: it may change before cuda_wait. */
static __device__ __forceinline__ int load_early(const int *p) {
    return __ldcg(p);
}
/* Brings the line of 128 bytes that p lies in to level 2. */
static __device__ __forceinline__ void prefetch_line(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

#else
#include "streaming_functions.h" /* the test device's */
#endif

#endif
