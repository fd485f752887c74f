/* Arrays of a call of the kernel library, read and written in double by the reference. */
#ifndef OPS_REFERENCE_KERNEL_ARRAY_H
#define OPS_REFERENCE_KERNEL_ARRAY_H

#include "ops/kernels.h"

/* The place of [i][j][k][l][0]; indices past the rank must be 0. */
static inline int64_t array_at(const xlstm_array *a, int64_t i, int64_t j, int64_t k, int64_t l) {
    const int64_t index[] = {i, j, k, l};
    int64_t place = 0;
    for (int d = 0; d < a->rank && d < 4; d++)
        place += index[d] * a->stride[d];
    return place;
}

/* `count` values from `place` on; absent: zeros. */
void array_read(const kernel_call *call, int argument, int64_t place, int64_t count,
                double *values);
/* Does nothing if it is absent. */
void array_write(const kernel_call *call, int argument, int64_t place, int64_t count,
                 const double *values);
/* count of doubles, zeroed: 0 where memory is short, with an error that names the kernel. */
double *array_scratch(const char *kernel, int64_t rows, int64_t columns);

#endif
