/* Arrays of the kernel library: see kernel_array.h. */
#include "ops/reference/kernel_array.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void array_read(const kernel_call *call, int argument, int64_t place, int64_t count,
                double *values) {
    const xlstm_array *a = &call->array[argument];
    if (count <= 0)
        return;
    if (!a->data)
        memset(values, 0, (size_t)count * sizeof *values);
    else
        dtype_convert(call->real, (const char *)a->data + (size_t)place * dtype_size(call->real),
                      DTYPE_F64, values, count);
}

void array_write(const kernel_call *call, int argument, int64_t place, int64_t count,
                 const double *values) {
    const xlstm_array *a = &call->array[argument];
    if (a->data && count > 0)
        dtype_convert(DTYPE_F64, values, call->real,
                      (char *)a->data + (size_t)place * dtype_size(call->real), count);
}

double *array_scratch(const char *kernel, int64_t rows, int64_t columns) {
    size_t count = 0;
    double *values = NULL;
    if (!__builtin_mul_overflow((size_t)rows, (size_t)columns, &count))
        values = calloc(count ? count : 1, sizeof *values);
    else
        count = SIZE_MAX / sizeof *values;
    if (!values)
        error_memory(count * sizeof *values, kernel);
    return values;
}
