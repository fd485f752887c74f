/* Values of arrays of the kernel library: one at a time, of any type and layout, or eight, where an array's rows are
 * contiguous and begin at multiples of 16 bytes. What is absent reads as 0, and takes nothing. */
#ifndef OPS_CUDA_KERNEL_VALUES_H
#define OPS_CUDA_KERNEL_VALUES_H

#include "ops/cuda/kernel_call.h"
#include "ops/cuda/values.h"

/* ---- One value ---- */

static __device__ __forceinline__ int64_t array_place(const cuda_array &a, int64_t i, int64_t j = 0,
                                                      int64_t k = 0) {
    return i * a.stride[0] + j * a.stride[1] + k * a.stride[2];
}
static __device__ __forceinline__ float array_get(const cuda_array &a, int64_t i, int64_t j = 0,
                                                  int64_t k = 0) {
    return a.data ? load_as(a.data, a.type, array_place(a, i, j, k)) : 0.0f;
}
static __device__ __forceinline__ void array_put(const cuda_array &a, float x, int64_t i,
                                                 int64_t j = 0, int64_t k = 0) {
    if (a.data)
        store_as(a.data, a.type, array_place(a, i, j, k), x);
}

/* ---- Eight values ---- */

enum { EIGHT = PIECE };

/* Elements from `at` on. */
template <int type>
static __device__ __forceinline__ void array_get_eight(const cuda_array &a, int64_t at, float *v) {
    if (a.data) {
        load_eight<type>((const char *)a.data + at * (type == DTYPE_F32 ? 4 : 2), v);
        return;
    }
#pragma unroll
    for (int j = 0; j < EIGHT; j++)
        v[j] = 0.0f;
}
template <int type>
static __device__ __forceinline__ void array_put_eight(const cuda_array &a, int64_t at,
                                                       const float *v) {
    if (a.data)
        store_eight<type>((char *)a.data + at * (type == DTYPE_F32 ? 4 : 2), v);
}

/* ---- Layouts, on the host ---- */

/* Whether the array is absent, or of this type and its innermost rows, of `width` elements, can be taken by eights. */
static inline bool array_is_wide(const cuda_array &a, int type, int rank, int64_t width) {
    if (!a.data)
        return true;
    bool wide = a.type == type && width % EIGHT == 0 && a.stride[rank - 1] == 1 &&
                (uintptr_t)a.data % 16 == 0;
    for (int i = 0; i + 1 < rank; i++)
        wide = wide && a.stride[i] % EIGHT == 0;
    return wide;
}

#endif
