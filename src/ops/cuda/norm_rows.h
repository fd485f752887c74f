/* Norms of rows, for the op normalize and for the kernel library: what is asked for, and its launch (norm.cu). */
#ifndef OPS_CUDA_NORM_ROWS_H
#define OPS_CUDA_NORM_ROWS_H

#include "ops/cuda/internal.h"

/* x, out, weight and bias are each f32, bf16 or f16; weight and bias NULL where they are absent (then 1 and 0). Rows are
 * `stride` elements apart, the elements of a row `step`. */
struct cuda_norm_rows {
    const void *x, *weight, *bias;
    void *out; /* may be x */
    int x_type, weight_type, bias_type, out_type;
    int64_t x_stride, out_stride;
    int64_t x_step, weight_step, bias_step, out_step;
    int64_t rows, size; /* of a group */
    int groups;         /* of a row */
    bool centred;       /* LayerNorm */
    float eps;
};

/* The launch, which points to the arguments. */
void cuda_norm_launch(const struct cuda_norm_rows *a, cuda_launch *launch);

#endif
