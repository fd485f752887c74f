/* The device "cuda": NVIDIA's GPUs, compute capability 8.0 and later. */
#ifndef OPS_CUDA_CUDA_H
#define OPS_CUDA_CUDA_H

#include "ops/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In builds made by `make cuda`; without a GPU, whatever needs one fails with "no CUDA device". */
ops_device *cuda_device(void);

#ifdef __cplusplus
}
#endif

#endif
