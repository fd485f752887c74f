/* What src/ops/cuda/cluster.h has in assembly. */
#ifndef CUDA_DEVICE_CLUSTER_FUNCTIONS_H
#define CUDA_DEVICE_CLUSTER_FUNCTIONS_H

#include "cuda_device/language.h"

static inline unsigned cluster_rank() {
    return cuda_device_cluster_rank();
}
static inline void cluster_sync(CUDA_DEVICE_HERE) {
    cuda_device_cluster_sync(CUDA_DEVICE_SITE("cluster_sync"));
}
static inline void cluster_store(void *to, uint4 x, uint64_t *barrier, unsigned rank) {
    if ((uintptr_t)to % 16 != 0)
        cuda_device_fail("cluster_store to %p, which is not aligned", to);
    memcpy(cuda_device_cluster_map(to, rank), &x, sizeof x);
    cuda_device_mbarrier_bytes(cuda_device_cluster_map(barrier, rank), sizeof x);
}
static inline void cluster_make(uint64_t *barrier) {
    barrier_make(barrier, 1);
}
static inline void cluster_expect(uint64_t *barrier, unsigned bytes) {
    barrier_arrive_for(barrier, bytes);
}
static inline void cluster_wait(uint64_t *barrier, unsigned parity, CUDA_DEVICE_HERE) {
    barrier_wait(barrier, parity, file, line);
}

#endif
