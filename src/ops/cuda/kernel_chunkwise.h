/* The kernel library's chunkwise mLSTM on tensor cores (kernel_chunkwise.c), to which cuda_kernel_mlstm hands the calls
 * that it takes. */
#ifndef OPS_CUDA_KERNEL_CHUNKWISE_H
#define OPS_CUDA_KERNEL_CHUNKWISE_H

#include "ops/cuda/kernel_call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a call of the mLSTM goes over tensor cores: chunkwise, bf16 matrices with f32 states, sizes and layouts that
 * cuda_chunkwise_takes takes. */
bool cuda_kernel_takes_chunkwise(const kernel_call *call);
xlstm_status cuda_kernel_chunkwise(const kernel_call *call);
xlstm_status cuda_kernel_chunkwise_workspace(const kernel_call *call, size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
