/* What becomes of the products of a chunk's rows, q . k and dh . v, on the way to the scores P and dS (chunkwise_parts.h):
 * in accumulators of a warpgroup, 64 x 64 (wgmma.h), in place. */
#ifndef OPS_CUDA_CHUNKWISE_SCORES_H
#define OPS_CUDA_CHUNKWISE_SCORES_H

#include "ops/cuda/chunkwise_parts.h"

static __device__ __forceinline__ float dot_two(uint32_t x, uint32_t y) {
    return from_bf16((uint16_t)x) * from_bf16((uint16_t)y) +
           from_bf16((uint16_t)(x >> 16)) * from_bf16((uint16_t)(y >> 16));
}
static __device__ __forceinline__ float dot_eight(uint4 x, uint4 y) {
    return dot_two(x.x, y.x) + dot_two(x.y, y.y) + dot_two(x.z, y.z) + dot_two(x.w, y.w);
}
static __device__ __forceinline__ float dot_eight_floats(uint4 x, const float *y) {
    const uint32_t two[4] = {x.x, x.y, x.z, x.w};
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++)
        sum += from_bf16((uint16_t)two[i]) * y[2 * i] +
               from_bf16((uint16_t)(two[i] >> 16)) * y[2 * i + 1];
    return sum;
}

#if CUDA_WGMMA
/* rho of a row with denominator d and maximum m. */
static __device__ __forceinline__ float reciprocal_of(const struct chunk_shape &a, float d,
                                                      float m) {
    bool divides = !a.sigmoid || a.normalize;
    return divides ? 1.0f / (larger(fabsf(d), expf(-m)) + a.eps) : 1.0f;
}

/* A thread's 16 scores of a row (columns as of accumulators): x_l <- (x_l factor + add) D_l. */
static __device__ __forceinline__ void weigh(float (&x)[CHUNK / 2], int half, int row, bool there,
                                             float of_row, const float *columns, float factor,
                                             float add) {
    int quad = (int)threadIdx.x % 4, last = row | 15; /* of the warp's rows */
#pragma unroll
    for (int i = 0; i < CHUNK / 8; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int column = 8 * i + 2 * quad + j, at = 4 * i + 2 * half + j;
            if (8 * i > last) {
                x[at] = 0.0f;
                continue;
            }
            float decay = expf(of_row + columns[column]);
            x[at] = there && column <= row ? (x[at] * factor + add) * decay : 0.0f;
        }
}

/* A row whose scores are done but for rho. */
struct score_row {
    float denominator, reciprocal; /* rho */
    float top;                     /* the largest of |P| / rho; at least LEAST_TOP */
};

#define LEAST_TOP 0x1p-40f /* so that quotients by it are finite */

/* P / rho of a row from q . k: `before` is the row's part of n. */
static __device__ __forceinline__ struct score_row
finish_scores(const struct chunk_shape &a, float (&x)[CHUNK / 2], int half, int row, bool there,
              float of_row, const float *columns, float m, float before) {
    weigh(x, half, row, there, of_row, columns, a.scale, 0.0f);
    float sum = 0.0f, top = LEAST_TOP;
#pragma unroll
    for (int i = 0; i < CHUNK / 8; i++) {
        float one = x[4 * i + 2 * half], other = x[4 * i + 2 * half + 1];
        sum += one + other;
        top = fmaxf(top, fmaxf(fabsf(one), fabsf(other)));
    }
#pragma unroll
    for (int lanes = 1; lanes <= 2; lanes *= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, lanes));
    }
    struct score_row r;
    r.denominator = there ? sum + before : 0.0f;
    r.reciprocal = reciprocal_of(a, r.denominator, m);
    r.top = top;
    return r;
}

/* A row's two columns of each eight, times `factor`, as bf16 into a tile: of the eights `from` to `to`. */
static __device__ __forceinline__ void lay_scores(const float (&x)[CHUNK / 2], float factor,
                                                  int half, int row, int from, int to,
                                                  unsigned char *tile) {
#pragma unroll
    for (int i = 0; i < CHUNK / 8; i++)
        if (i >= from && i < to)
            *(uint32_t *)(tile +
                          tile_offset((unsigned)row, (unsigned)(8 * i + 2 * (threadIdx.x % 4)))) =
                pack_bf16(factor * x[4 * i + 2 * half], factor * x[4 * i + 2 * half + 1]);
}
#endif

#endif
