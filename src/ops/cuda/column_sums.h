/* Sums over rows in the kernel library, always in the same order: what teams have added up, each a row of its own, is
 * added to the elements of an output (kernel_sums.cu). */
#ifndef OPS_CUDA_COLUMN_SUMS_H
#define OPS_CUDA_COLUMN_SUMS_H

#include "ops/cuda/kernel_values.h"

/* [count][width], rows `stride` apart. */
struct column_sums {
    const float *sums;
    int64_t count, width, stride;
    int64_t inner,
        middle; /* the rest is set by cuda_column_sums: the output's last dimensions, the last first */
    cuda_array out;
};

/* Column c goes to element c of the output, which has this rank, at most 3. Nothing where it is absent. */
void cuda_column_sums(const kernel_call *call, xlstm_status *status, column_sums sums,
                      int argument);

#endif
