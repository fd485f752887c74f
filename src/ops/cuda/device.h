/* What kernels share: values in memory, functions of the gates, sums over warps and blocks, the order of
 * kernels. bf16 and f16 are read and written as 16-bit integers. Compiled by nvcc alone (and by the test
 * device, tests/cuda_device, which brings its own of what is inline assembly here). */
#ifndef OPS_CUDA_DEVICE_H
#define OPS_CUDA_DEVICE_H

#include <math.h>
#include <stdint.h>

#include "base/dtype.h"
#include "ops/cuda/internal.h"

enum { WARP = 32, ALL_LANES = 0xffffffff };

/* ---- The order of kernels ---- */

#if defined(__CUDACC__)

/* Until all that was enqueued before is done, and its writes are seen. */
static __device__ __forceinline__ void cuda_wait(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel may begin (as far as its cuda_wait) once all blocks have come here or ended. */
static __device__ __forceinline__ void cuda_release(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* A barrier of `threads` threads of the block (whole warps); id 1 to 15. */
static __device__ __forceinline__ void threads_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
#else
#include "device_functions.h" /* the test device's */
#endif

static __device__ __forceinline__ void cuda_report(unsigned *faults, enum cuda_fault kind,
                                                   unsigned row) {
    atomicMax(faults + kind, ~row);
}

/* ---- Values in memory ---- */

static __device__ __forceinline__ float float_of_bits(uint32_t bits) {
    return __uint_as_float(bits);
}
static __device__ __forceinline__ float from_bf16(uint16_t bits) {
    return __uint_as_float((uint32_t)bits << 16);
}
/* To the nearest, ties to even; NaN stays NaN. */
static __device__ __forceinline__ uint16_t to_bf16(float x) {
#if defined(__CUDACC__) && defined(__CUDA_ARCH__)
    uint16_t out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
#else
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}
static __device__ __forceinline__ float from_f16(uint16_t bits) {
#if defined(__CUDACC__) && defined(__CUDA_ARCH__)
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
    return out;
#else
    _Float16 half;
    __builtin_memcpy(&half, &bits, sizeof half);
    return (float)half;
#endif
}
static __device__ __forceinline__ uint16_t to_f16(float x) {
#if defined(__CUDACC__) && defined(__CUDA_ARCH__)
    uint16_t out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
#else
    _Float16 half = (_Float16)x;
    uint16_t bits;
    __builtin_memcpy(&bits, &half, sizeof bits);
    return bits;
#endif
}
/* Element i of an array of f32, bf16 or f16. */
static __device__ __forceinline__ float load_as(const void *p, int type, int64_t i) {
    if (type == DTYPE_F32)
        return ((const float *)p)[i];
    uint16_t bits = ((const uint16_t *)p)[i];
    return type == DTYPE_BF16 ? from_bf16(bits) : from_f16(bits);
}
static __device__ __forceinline__ void store_as(void *p, int type, int64_t i, float x) {
    if (type == DTYPE_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = type == DTYPE_BF16 ? to_bf16(x) : to_f16(x);
}

/* ---- Functions ---- */

/* log(sigmoid(z)); +inf gives 0, -inf gives -inf, NaN gives NaN. */
static __device__ __forceinline__ float log_sigmoid(float z) {
    float smaller = z < 0.0f ? z : z != z ? z : 0.0f;
    return smaller - log1pf(expf(-fabsf(z)));
}
static __device__ __forceinline__ float sigmoid(float z) {
    float e = expf(-fabsf(z));
    return (z < 0.0f ? e : 1.0f) / (1.0f + e);
}
/* c tanh(z / c); c = 0: z. */
static __device__ __forceinline__ float soft_cap(float z, float c) {
    return c == 0.0f ? z : c * tanhf(z / c);
}
/* One of enum ops_activation. */
static __device__ __forceinline__ float activate(int activation, float z) {
    switch (activation) {
    case OPS_SILU:
        return z * sigmoid(z);
    case OPS_GELU:
        return z * normcdff(z);
    case OPS_RELU:
        return z < 0.0f ? 0.0f : z;
    case OPS_RELU_SQUARED:
        return z < 0.0f ? 0.0f : z * z;
    case OPS_SIGMOID:
        return sigmoid(z);
    case OPS_SELU:
        return 1.05070098735548049f * (z > 0.0f ? z : 1.67326324235437728f * expm1f(z));
    default:
        return z;
    }
}

/* ---- Sums ---- */

#if defined(__CUDACC__)
/* Over the lanes of a warp, in a fixed order, known to all. */
static __device__ __forceinline__ float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}
static __device__ __forceinline__ float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}
#else
#include "device_sums.h" /* the test device's, in the same order */
#endif
/* The threads of a block that meet at its barriers: all of them, or, in files that say so before they include this, all
 * but the last FETCHING_WARPS warps, which fetch what the others need and wait for nobody else (chain_kernel.h). */
#if defined(FETCHING_WARPS)
static __device__ __forceinline__ int block_threads(void) {
    return (int)blockDim.x - FETCHING_WARPS * WARP;
}
static __device__ __forceinline__ void block_meet(void) {
    __syncwarp(); /* a warp that is not together would be counted when its first lanes come */
    threads_sync(1, block_threads());
}
#else
static __device__ __forceinline__ int block_threads(void) {
    return (int)blockDim.x;
}
static __device__ __forceinline__ void block_meet(void) {
    __syncthreads();
}
#endif
/* Over these threads (whole warps, one dimension), in a fixed order, known to all. `parts` has 32 floats of shared
 * memory, free again when this returns. All of them come here. */
static __device__ __forceinline__ float block_sum(float x, float *parts) {
    int warps = block_threads() / WARP;
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = x;
    block_meet();
    float sum = 0.0f;
    for (int i = 0; i < warps; i++)
        sum += parts[i];
    block_meet();
    return sum;
}
/* The same for the largest. */
static __device__ __forceinline__ float block_max(float x, float *parts) {
    int warps = block_threads() / WARP;
    x = warp_max(x);
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = x;
    block_meet();
    float most = parts[0];
    for (int i = 1; i < warps; i++)
        most = fmaxf(most, parts[i]);
    block_meet();
    return most;
}

#endif
