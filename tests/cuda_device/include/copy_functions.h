/* What src/ops/cuda/copy.h has in assembly: copies that a thread waits for. */
#ifndef CUDA_DEVICE_COPY_FUNCTIONS_H
#define CUDA_DEVICE_COPY_FUNCTIONS_H

#include "cuda_device/language.h"

static inline void copy_16(void *to, const void *from, unsigned bytes) {
    cuda_device_lane_copy(to, from, 16, bytes);
}
static inline void copy_whole_16(void *to, const void *from) {
    cuda_device_lane_copy(to, from, 16, 16);
}
static inline void copy_close() {
    cuda_device_lane_commit();
}
template <int left> static inline void copy_wait() {
    cuda_device_lane_wait(left);
}

#endif
