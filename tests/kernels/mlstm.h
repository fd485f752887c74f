/* What the tests of the mLSTM kernels ask about a kernel. */
#ifndef KERNELS_MLSTM_H
#define KERNELS_MLSTM_H

#include "kernels/kernels.h"

#include <string.h>

static inline bool mlstm_is(const xlstm_kernel *kernel) {
    return kernel->upstream;
}

static inline bool mlstm_is_sigmoid(const xlstm_kernel *kernel) {
    return strstr(kernel->family, "_sig") != NULL;
}

static inline bool mlstm_is_parallel(const xlstm_kernel *kernel) {
    return strncmp(kernel->family, "parallel", 8) == 0;
}

/* By differences of prefix sums, which cost digits. */
static inline bool mlstm_is_plain_parallel(const xlstm_kernel *kernel) {
    return mlstm_is_parallel(kernel) && !strstr(kernel->family, "stable");
}

static inline bool mlstm_is_chunkwise(const xlstm_kernel *kernel) {
    return strncmp(kernel->family, "chunkwise", 9) == 0;
}

static inline bool mlstm_is_step(const xlstm_kernel *kernel) {
    return strncmp(kernel->family, "step", 4) == 0;
}

#endif
