/* Arrays of a call of the kernel library, whose elements are f32 or f64: addresses, and the vector
 * kernels of the type. */
#ifndef OPS_CPU_KERNEL_ARRAY_H
#define OPS_CPU_KERNEL_ARRAY_H

#include "ops/cpu/internal.h"

/* The kernels of the call's type; NULL with an error if XLSTM_CPU_ISA names no instruction set. */
const cpu_library *cpu_library_of(const kernel_call *call);

/* `elements` from p on; NULL stays NULL. */
static inline void *cpu_shift(const kernel_call *call, const void *p, int64_t elements) {
    return p ? (char *)(uintptr_t)p + elements * (int64_t)dtype_size(call->real) : NULL;
}

/* The address of [i][j][k][l][0], NULL if the array is absent; indices past the rank must be 0. */
static inline void *cpu_element(const kernel_call *call, int argument, int64_t i, int64_t j,
                                int64_t k, int64_t l) {
    const xlstm_array *a = &call->array[argument];
    const int64_t index[] = {i, j, k, l};
    int64_t place = 0;
    for (int d = 0; d < a->rank && d < 4; d++)
        place += index[d] * a->stride[d];
    return cpu_shift(call, a->data, place);
}

/* to [columns][rows] = from [rows][columns], of the call's type. */
void cpu_transpose(const kernel_call *call, const void *from, int64_t from_stride, int64_t rows,
                   int64_t columns, void *to, int64_t to_stride);
/* Copies `count` elements, or zeros if `from` is NULL; does nothing if `to` is. */
void cpu_copy_row(const kernel_call *call, const void *from, int64_t count, void *to);
/* A 1 of the call's type. */
const void *cpu_one(const kernel_call *call);

/* Zeroed memory for rows * columns elements of the call's type; NULL with an error. */
void *cpu_scratch(const kernel_call *call, int64_t rows, int64_t columns);

#endif
