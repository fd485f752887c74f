/* What src/ops/cuda/device.h has in assembly: the order of kernels. */
#ifndef CUDA_DEVICE_DEVICE_FUNCTIONS_H
#define CUDA_DEVICE_DEVICE_FUNCTIONS_H

#include "cuda_device/language.h"

static inline void cuda_wait(CUDA_DEVICE_HERE) {
    cuda_device_wait_grid(CUDA_DEVICE_SITE("cuda_wait"));
}
static inline void cuda_release() {
}

static inline void threads_sync(int id, int threads, CUDA_DEVICE_HERE) {
    cuda_device_barrier((unsigned)id, (unsigned)threads, false, CUDA_DEVICE_SITE("threads_sync"));
}

#endif
