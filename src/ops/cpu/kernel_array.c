/* Arrays of the kernel library: see kernel_array.h. */
#include "ops/cpu/kernel_array.h"

#include <stdlib.h>

#include "base/error.h"

const cpu_library *cpu_library_of(const kernel_call *call) {
    const cpu_kernels *kernels = cpu_kernels_choose();
    if (!kernels)
        return NULL;
    return call->real == DTYPE_F64 ? kernels->f64 : kernels->f32;
}

void cpu_transpose(const kernel_call *call, const void *from, int64_t from_stride, int64_t rows,
                   int64_t columns, void *to, int64_t to_stride) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            if (call->real == DTYPE_F64)
                ((double *)to)[j * to_stride + i] = ((const double *)from)[i * from_stride + j];
            else
                ((float *)to)[j * to_stride + i] = ((const float *)from)[i * from_stride + j];
}

void cpu_copy_row(const kernel_call *call, const void *from, int64_t count, void *to) {
    size_t size = (size_t)count * dtype_size(call->real);
    if (to && from)
        memmove(to, from, size);
    else if (to)
        memset(to, 0, size);
}

const void *cpu_one(const kernel_call *call) {
    static const double wide = 1;
    static const float narrow = 1;
    return call->real == DTYPE_F64 ? (const void *)&wide : (const void *)&narrow;
}

void *cpu_scratch(const kernel_call *call, int64_t rows, int64_t columns) {
    size_t count = 0;
    void *memory = NULL;
    if (!__builtin_mul_overflow((size_t)rows, (size_t)columns, &count))
        memory = calloc(count ? count : 1, dtype_size(call->real));
    else
        count = SIZE_MAX / sizeof(double);
    if (!memory)
        error_memory(count * dtype_size(call->real), "the scratch memory of a kernel");
    return memory;
}
