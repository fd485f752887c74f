/* Kernels with mistakes (planted.cu). */
#ifndef CUDA_DEVICE_PLANTED_H
#define CUDA_DEVICE_PLANTED_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the kernel of this name, right or wrong, left the right values. */
bool planted_run(const char *name, bool wrong);

#ifdef __cplusplus
}
#endif

#endif
