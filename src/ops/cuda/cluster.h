/* Blocks of a cluster, which see each other's shared memory (compute capability 9.0). The test device has these functions
 * for itself (tests/cuda_device). */
#ifndef OPS_CUDA_CLUSTER_H
#define OPS_CUDA_CLUSTER_H

#include "ops/cuda/async.h"

#if defined(__CUDACC__)

/* Of this block within its cluster. */
static __device__ __forceinline__ unsigned cluster_rank(void) {
    unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}
/* A barrier of all threads of the cluster; what was written before is seen behind it. */
static __device__ __forceinline__ void cluster_sync(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
#endif
}
/* Writes 16 bytes where `to` is in the block `rank` (this one or another), whose `barrier` is told of their arrival. */
static __device__ __forceinline__ void cluster_store(void *to, uint4 x, uint64_t *barrier,
                                                     unsigned rank) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .b32 a, b;\n"
                 "mapa.shared::cluster.u32 a, %0, %2;\n"
                 "mapa.shared::cluster.u32 b, %1, %2;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [a], {%3, %4, %5, "
                 "%6}, [b];\n}" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "r"((uint32_t)__cvta_generic_to_shared(barrier)), "r"(rank), "r"(x.x), "r"(x.y),
                 "r"(x.z), "r"(x.w)
                 : "memory");
#endif
}
/* A barrier whose phases end when the bytes have come that one thread expects. One thread makes it; then
 * cluster_sync. */
static __device__ __forceinline__ void cluster_make(uint64_t *barrier) {
#if __CUDA_ARCH__ >= 900
    barrier_make(barrier, 1);
    barrier_made();
#endif
}
static __device__ __forceinline__ void cluster_expect(uint64_t *barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
    barrier_arrive_for(barrier, bytes);
#endif
}
/* Waits for a phase of this block's barrier that other blocks' stores end (async.h: barrier_wait). */
static __device__ __forceinline__ void cluster_wait(uint64_t *barrier, unsigned parity) {
#if __CUDA_ARCH__ >= 900
    uint32_t done = 0;
    while (!done)
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"((uint32_t)__cvta_generic_to_shared(barrier)), "r"(parity)
                     : "memory");
#endif
}

#else
#include "cluster_functions.h" /* the test device's */
#endif

#endif
