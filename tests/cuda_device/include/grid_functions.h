/* What src/ops/cuda/grid.h has in assembly. */
#ifndef CUDA_DEVICE_GRID_FUNCTIONS_H
#define CUDA_DEVICE_GRID_FUNCTIONS_H

#include "cuda_device/language.h"

static inline void grid_arrive(unsigned *counter) {
    *counter += 1;
    cuda_device_progress();
}
static inline void grid_await(const unsigned *counter, unsigned target, CUDA_DEVICE_HERE) {
    while ((int)(*(const volatile unsigned *)counter - target) < 0)
        cuda_device_poll(CUDA_DEVICE_SITE("grid_await"));
}
static inline unsigned grid_claim(unsigned *counter) {
    const unsigned n = *counter;
    *counter = n + 1;
    cuda_device_progress();
    return n;
}

#endif
