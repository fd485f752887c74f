/* What is done to the outputs of a product before they are stored. */
#ifndef OPS_CUDA_GEMM_ENDING_H
#define OPS_CUDA_GEMM_ENDING_H

#include "ops/cuda/device.h"
#include "ops/cuda/gemm.h"

/* The endings that kernels are made for; END_ANY looks at the part for each output. */
enum gemm_kind { END_PLAIN, END_CAPPED, END_ADD, END_SILU, END_ANY };

/* tanh within 3e-7, in a few instructions: kernels whose endings are long wait for these to be fetched. */
static __device__ __forceinline__ float gemm_tanh(float x) {
    return 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x));
}

/* One output: z = x W^T, and z_up of CUDA_GATED. */
template <int kind>
static __device__ __forceinline__ float gemm_end(const gemm_part &p, float z, float z_up,
                                                 float residual) {
    if (kind == END_PLAIN)
        return z;
    if (kind == END_ADD || (kind == END_ANY && p.ending == CUDA_ADD))
        return fmaf(p.sign, z, residual);
    if (kind == END_SILU)
        return __fdividef(z, 1.0f + __expf(-z)) * z_up;
    if (kind == END_CAPPED)
        return p.soft_cap == 0.0f ? z : p.soft_cap * gemm_tanh(z / p.soft_cap);
    if (p.ending == CUDA_CAP)
        return soft_cap(z, p.soft_cap);
    return activate(p.activation, z) * z_up;
}

/* ---- Any layout, one output at a time ---- */

static __device__ __forceinline__ void gemm_store(const gemm_part &p, int token, int row, float z,
                                                  float z_up) {
    if (row >= p.rows)
        return;
    if (p.bias)
        z += load_as(p.bias, p.bias_type, row);
    if (p.up_bias)
        z_up += load_as(p.up_bias, p.up_bias_type, row);
    const float residual =
        p.residual ? load_as(p.residual, p.residual_type, token * p.residual_stride + row) : 0.0f;
    store_as(p.out, p.out_type, token * p.out_stride + row,
             gemm_end<END_ANY>(p, z, z_up, residual));
}

/* ---- Parts that are paired: two neighbours at a time, whose sums have the biases ---- */

/* To the sums of a warpgroup, as wgmma.h has them, of `rows` rows from `first` on: of a gate and what it gates, half as
 * many of each. */
template <int rows>
static __device__ __forceinline__ void gemm_add_biases(const gemm_part &p, int first,
                                                       float (&sums)[rows / 2]) {
    if (!p.bias && !p.up_bias)
        return;
    const int columns = p.ending == CUDA_GATED ? rows / 2 : rows;
#pragma unroll
    for (int i = 0; i < rows / 2; i++) {
        const int column = i / 4 * 8 + (int)threadIdx.x % 4 * 2 + i % 2;
        const int row = first + column % columns;
        const void *bias = column < columns ? p.bias : p.up_bias;
        if (bias && row < p.rows)
            sums[i] += load_as(bias, column < columns ? p.bias_type : p.up_bias_type, row);
    }
}

static __device__ __forceinline__ float2 gemm_residual(const gemm_part &p, int token, int row) {
    return p.residual && row < p.rows
               ? *(const float2 *)((const float *)p.residual + token * p.residual_stride + row)
               : make_float2(0.0f, 0.0f);
}

/* To element `at`; `type` is the part's out_type. */
template <int type>
static __device__ __forceinline__ void gemm_put_pair(const gemm_part &p, int64_t at, float2 y) {
    if (type == DTYPE_F32)
        *(float2 *)((float *)p.out + at) = y;
    else
        *(uint32_t *)((uint16_t *)p.out + at) = (uint32_t)to_bf16(y.x) | (uint32_t)to_bf16(y.y)
                                                                             << 16;
}

/* type: the part's out_type, or -1 where that is not known. */
template <int kind, int type = -1>
static __device__ __forceinline__ void gemm_store_pair(const gemm_part &p, int token, int row,
                                                       float2 z, float2 z_up, float2 residual) {
    const float2 y = make_float2(gemm_end<kind>(p, z.x, z_up.x, residual.x),
                                 gemm_end<kind>(p, z.y, z_up.y, residual.y));
    const int64_t at = token * p.out_stride + row;
    if (row >= p.rows)
        return;
    if (type == DTYPE_F32 || (type < 0 && p.out_type == DTYPE_F32))
        gemm_put_pair<DTYPE_F32>(p, at, y);
    else
        gemm_put_pair<DTYPE_BF16>(p, at, y);
}

#endif
