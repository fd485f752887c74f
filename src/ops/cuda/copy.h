/* Copies of 16 bytes from device memory into shared memory that go on while threads compute (compute capability
 * 8.0), by groups: what a thread copied since its last copy_close() is a group, and groups arrive in order. Other
 * threads see the bytes after a barrier behind copy_wait(). The test device has these functions for itself
 * (tests/cuda_device). */
#ifndef OPS_CUDA_COPY_H
#define OPS_CUDA_COPY_H

#include <stdint.h>

#if defined(__CUDACC__)

/* `bytes` of the 16 come from `from`, the rest become 0; addresses are multiples of 16. */
static __device__ __forceinline__ void copy_16(void *to, const void *from, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
}
/* All 16. */
static __device__ __forceinline__ void copy_whole_16(void *to, const void *from) {
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
        "l"(from)
        : "memory");
}
static __device__ __forceinline__ void copy_close(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until at most `left` of the calling thread's groups have not arrived. */
template <int left> static __device__ __forceinline__ void copy_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

#else
#include "copy_functions.h" /* the test device's */
#endif

#endif
