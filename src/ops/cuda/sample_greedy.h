/* The highest logit of each row, which a few blocks find together; and what all kernels that choose ids take (sample.cu). */
#ifndef OPS_CUDA_SAMPLE_GREEDY_H
#define OPS_CUDA_SAMPLE_GREEDY_H

#include "ops/cuda/told.h"

enum {
    SAMPLE_ROWS = 64, /* of a launch */
    GREEDY_THREADS = 256,
    GREEDY_BLOCKS = 8, /* of a row, at most */
    GREEDY_SHARE = GREEDY_THREADS * 16
};

typedef unsigned long long wide; /* what atomics and shuffles take */

struct sample_arguments {
    const float *logits;
    int64_t stride;
    const int32_t *penalised;
    int32_t *out;
    unsigned *listed; /* [SAMPLE_ROWS][words]: a bit an id */
    int64_t words;
    wide *best;      /* [SAMPLE_ROWS][GREEDY_BLOCKS] */
    unsigned *ended; /* [SAMPLE_ROWS]: blocks that are done; 0 between launches */
    unsigned *faults;
    unsigned first_row;    /* of the launch, for faults */
    struct cuda_told told; /* for its rows */
    struct ops_sample_row row[SAMPLE_ROWS];
};

static __device__ __forceinline__ void put_id(const struct sample_arguments &a, int row, int32_t id,
                                              bool wrong) {
    a.out[row] = id;
    cuda_tell(a.told, row, id, wrong);
}

static __device__ __forceinline__ void report_row(const struct sample_arguments &a, int row,
                                                  enum cuda_fault fault) {
    cuda_report(a.faults, fault, a.first_row + (unsigned)row);
    put_id(a, row, 0, true);
}

static __device__ __forceinline__ wide warp_least(wide x) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        wide other = __shfl_xor_sync(ALL_LANES, x, step);
        x = other < x ? other : x;
    }
    return x;
}

/* Over the block, known to its first warp. */
static __device__ __forceinline__ wide block_least(wide x, wide *parts) {
    int warps = (int)blockDim.x / (int)WARP, lane = (int)threadIdx.x % (int)WARP;
    x = warp_least(x);
    if (lane == 0)
        parts[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_least(lane < warps ? parts[lane] : ~0ull);
}

/* Integers that rise as logits fall, and then as ids rise: of NaN and +inf 0, of -inf the greatest. */
static const wide BROKEN = 0, NOTHING = ~0ull;
static __device__ __forceinline__ wide greedy_key(float logit, int id) {
    uint32_t bits = __float_as_uint(logit + 0.0f); /* +0 for -0 */
    if ((bits & 0x7f800000u) == 0x7f800000u)
        return bits == 0xff800000u ? NOTHING : BROKEN;
    uint32_t rank = bits >> 31 ? bits : ~(bits | 0x80000000u);
    return (wide)rank << 32 | (uint32_t)id;
}

/* The least key among the block's part of the row. */
static __device__ __forceinline__ wide greedy_part(const float *logits, int limit) {
    int thread = (int)(blockIdx.y * GREEDY_THREADS + threadIdx.x);
    int threads = (int)(gridDim.y * GREEDY_THREADS);
    wide least = NOTHING;
    int fours = (uintptr_t)logits % 16 == 0 ? limit / 4 : 0;
#pragma unroll 4
    for (int i = thread; i < fours; i += threads) {
        float4 four = ((const float4 *)logits)[i];
        const float v[4] = {four.x, four.y, four.z, four.w};
        for (int j = 0; j < 4; j++) {
            wide key = greedy_key(v[j], 4 * i + j);
            least = key < least ? key : least;
        }
    }
    for (int i = 4 * fours + thread; i < limit; i += threads) {
        wide key = greedy_key(logits[i], i);
        least = key < least ? key : least;
    }
    return least;
}

/* The last block of a row to come here has what all have found. */
static __global__ void __launch_bounds__(GREEDY_THREADS)
    sample_greedy(const __grid_constant__ struct sample_arguments a) {
    __shared__ wide parts[GREEDY_THREADS / 32];
    int row = (int)blockIdx.x;
    cuda_release();
    cuda_wait();
    const bool wrong = cuda_anything_wrong(a.faults);
    wide least = block_least(greedy_part(a.logits + row * a.stride, a.row[row].limit), parts);
    if (threadIdx.x != 0)
        return;
    wide *best = a.best + row * GREEDY_BLOCKS;
    best[blockIdx.y] = least;
    __threadfence();
    if (atomicAdd(a.ended + row, 1u) + 1 < gridDim.y)
        return;
    a.ended[row] = 0;
    __threadfence();
    for (unsigned i = 0; i < gridDim.y; i++) {
        wide other = __ldcg(best + i);
        least = other < least ? other : least;
    }
    if (least == BROKEN || least == NOTHING)
        report_row(a, row, least == BROKEN ? CUDA_FAULT_SAMPLE : CUDA_FAULT_EMPTY);
    else
        put_id(a, row, (int32_t)(uint32_t)least, wrong);
}

#endif
