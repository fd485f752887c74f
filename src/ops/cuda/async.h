/* Copies that go on while threads compute: mbarriers, and bulk copies from device memory into shared memory
 * (compute capability 9.0). Addresses and sizes of bulk copies are multiples of 16 bytes. The test device has these
 * functions for itself (tests/cuda_device). */
#ifndef OPS_CUDA_ASYNC_H
#define OPS_CUDA_ASYNC_H

#include <stdint.h>

#if defined(__CUDACC__)

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* `arrivals` of a phase, by threads and copies. One thread makes it; then barrier_made() and a __syncthreads. */
static __device__ __forceinline__ void barrier_make(uint64_t *barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals));
}
/* The copy engine sees the barriers made so far. */
static __device__ __forceinline__ void barrier_made(void) {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}
/* An arrival, and so many bytes to come by bulk copies before the phase ends. */
static __device__ __forceinline__ void barrier_arrive_for(uint64_t *barrier, unsigned bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}
/* Whether the phase of this parity has ended: the first is 0, and a new barrier counts as past phase 1. */
static __device__ __forceinline__ bool barrier_passed(uint64_t *barrier, unsigned parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
}
/* The same, without waiting a moment for it. */
static __device__ __forceinline__ bool barrier_tested(uint64_t *barrier, unsigned parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
}
static __device__ __forceinline__ void barrier_wait(uint64_t *barrier, unsigned parity) {
    while (!barrier_passed(barrier, parity)) {
    }
}
/* Bytes from device memory, whose arrival is told to the barrier. */
static __device__ __forceinline__ void copy_bulk(void *to, const void *from, unsigned bytes,
                                                 uint64_t *barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}
/* The reverse, after fence_async() by the writers and a barrier; committed and waited for as stores of tiles (wgmma.h). */
static __device__ __forceinline__ void copy_bulk_out(void *to, const void *from, unsigned bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
                 "r"(shared_address(from)), "r"(bytes)
                 : "memory");
}
/* What this thread wrote to shared memory is seen by the copy engine and the tensor cores. */
static __device__ __forceinline__ void fence_async(void) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#else
#include "async_functions.h" /* the test device's */
#endif

/* ---- A warp at a barrier ----
 * One lane stands for all: __syncwarp orders what the others did before its arrival, and what they do behind its wait.
 * racecheck of compute-sanitizer takes a barrier to order those alone who arrive and wait there: for it (docs/CUDA.md) each
 * lane does so for itself. */
#ifndef CUDA_RACECHECK
#define CUDA_RACECHECK 0
#endif

enum { WARP_ARRIVALS = CUDA_RACECHECK ? 32 : 1 };

static __device__ __forceinline__ bool warp_speaker(void) {
    return CUDA_RACECHECK || threadIdx.x % 32 == 0;
}
static __device__ __forceinline__ void warp_arrive(uint64_t *barrier) {
    __syncwarp();
    if (warp_speaker())
        barrier_arrive(barrier);
}
static __device__ __forceinline__ void warp_wait(uint64_t *barrier, unsigned parity) {
    if (warp_speaker())
        barrier_wait(barrier, parity);
    __syncwarp();
}

#endif
