/* Values of f32, bf16 or f16: eight or four in a row, of a type that is known or not, or one. */
#ifndef OPS_CUDA_VALUES_H
#define OPS_CUDA_VALUES_H

#include "ops/cuda/blocks.h"

/* Eight values in a row, to a multiple of 16 bytes. */
template <int type> static __device__ __forceinline__ void store_eight(void *p, const float *v) {
    if (type == DTYPE_F32) {
        ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
        ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint16_t low = type == DTYPE_BF16 ? to_bf16(v[2 * j]) : to_f16(v[2 * j]);
            uint16_t high = type == DTYPE_BF16 ? to_bf16(v[2 * j + 1]) : to_f16(v[2 * j + 1]);
            words[j] = (uint32_t)low | (uint32_t)high << 16;
        }
        *(uint4 *)p = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

/* Four values in a row, at a multiple of 16 bytes of f32 and else of 8. */
template <int type> static __device__ __forceinline__ void load_four(const void *p, float *v) {
    if (type == DTYPE_F32) {
        float4 four = *(const float4 *)p;
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
        uint2 u = *(const uint2 *)p;
        const uint16_t halves[4] = {(uint16_t)u.x, (uint16_t)(u.x >> 16), (uint16_t)u.y,
                                    (uint16_t)(u.y >> 16)};
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = type == DTYPE_BF16 ? from_bf16(halves[j]) : from_f16(halves[j]);
    }
}
template <int type> static __device__ __forceinline__ void store_four(void *p, const float *v) {
    if (type == DTYPE_F32) {
        *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    } else {
        uint32_t halves[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            halves[j] = type == DTYPE_BF16 ? to_bf16(v[j]) : to_f16(v[j]);
        *(uint2 *)p = make_uint2(halves[0] | halves[1] << 16, halves[2] | halves[3] << 16);
    }
}

/* N = 8: elements `at` to at + 7, which begin at a multiple of 16 bytes; N = 1: element `at`. The type of the array is
 * `type` where it is known, and else, with -1, any_type. */
template <int N, int type = -1>
static __device__ __forceinline__ void load_some(const void *p, int any_type, int64_t at,
                                                 float *v) {
    if (N == 1)
        v[0] = load_as(p, any_type, at);
    else if (type >= 0)
        load_eight<type>((const char *)p + at * (type == DTYPE_F32 ? 4 : 2), v);
    else if (any_type == DTYPE_F32)
        load_eight<DTYPE_F32>((const float *)p + at, v);
    else if (any_type == DTYPE_BF16)
        load_eight<DTYPE_BF16>((const uint16_t *)p + at, v);
    else
        load_eight<DTYPE_F16>((const uint16_t *)p + at, v);
}
template <int N, int type>
static __device__ __forceinline__ void store_some(void *p, int any_type, int64_t at,
                                                  const float *v) {
    if (N == 1)
        store_as(p, any_type, at, v[0]);
    else
        store_eight<type>((char *)p + at * (type == DTYPE_F32 ? 4 : 2), v);
}

/* Whether rows at `p`, `stride` elements apart and their elements `step`, can be taken by eights. */
static inline bool rows_are_wide(const void *p, int64_t stride, int64_t step) {
    return !p || (step == 1 && stride % 8 == 0 && (uintptr_t)p % 16 == 0);
}

#endif
