/* What all kernels share: loads and stores of the floating-point types, functions that the standard
 * library of Metal lacks or leaves inexact, sums over SIMD-groups and threadgroups.
 *
 * bf16 is read and written as 16-bit integers, so that it needs no GPU that has the type. Nothing here
 * relies on the order or the infinities that fast math gives away: exponents are never positive, and
 * NaN is recognised by its bits. */
#ifndef OPS_METAL_COMMON_H
#define OPS_METAL_COMMON_H

#include "ops/metal/types.h"

using namespace metal;

enum { SIMD_LANES = 32, MOST_SIMD_GROUPS = 32 /* of a threadgroup */ };

/* Bits of floats that fast math does not know. */
constexpr constant uint PLUS_INFINITY = 0x7f800000u, NOT_A_NUMBER = 0x7fc00000u;

/* ---- Values in memory ---- */

/* Types as template arguments: `stored` is what lies in memory. */
struct f32_values {
    typedef float stored;
    static inline float load(device const float *p, ulong i) {
        return p[i];
    }
    static inline float4 load4(device const float *p, ulong i) {
        return *(device const packed_float4 *)(p + i);
    }
    static inline void store(device float *p, ulong i, float x) {
        p[i] = x;
    }
    static inline void store_nan(device float *p, ulong i) {
        ((device uint *)p)[i] = NOT_A_NUMBER;
    }
};

struct f16_values {
    typedef half stored;
    static inline float load(device const half *p, ulong i) {
        return float(p[i]);
    }
    static inline float4 load4(device const half *p, ulong i) {
        return float4(p[i], p[i + 1], p[i + 2], p[i + 3]);
    }
    static inline void store(device half *p, ulong i, float x) {
        p[i] = half(x);
    }
    static inline void store_nan(device half *p, ulong i) {
        ((device ushort *)p)[i] = 0x7e00;
    }
};

inline float from_bf16(ushort bits) {
    return as_type<float>(uint(bits) << 16);
}

/* To the nearest, ties to even; NaN stays NaN. */
inline ushort to_bf16(float x) {
    uint bits = as_type<uint>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return ushort(bits >> 16 | 0x40u);
    return ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

struct bf16_values {
    typedef ushort stored;
    static inline float load(device const ushort *p, ulong i) {
        return from_bf16(p[i]);
    }
    static inline float4 load4(device const ushort *p, ulong i) {
        return float4(from_bf16(p[i]), from_bf16(p[i + 1]), from_bf16(p[i + 2]),
                      from_bf16(p[i + 3]));
    }
    static inline void store(device ushort *p, ulong i, float x) {
        p[i] = to_bf16(x);
    }
    static inline void store_nan(device ushort *p, ulong i) {
        p[i] = 0x7fc0;
    }
};

/* Element i of an array of METAL_F32, METAL_F16 or METAL_BF16: for the small ones (biases, norm weights)
 * that are not worth a kernel a type. */
inline float load_as(device const uchar *p, uint type, ulong i) {
    if (type == METAL_F32)
        return ((device const float *)p)[i];
    if (type == METAL_F16)
        return float(((device const half *)p)[i]);
    return from_bf16(((device const ushort *)p)[i]);
}

/* Elements i to i + 3 of such an array. */
inline float4 load4_as(device const uchar *p, uint type, ulong i) {
    if (type == METAL_F32)
        return f32_values::load4((device const float *)p, i);
    if (type == METAL_F16)
        return f16_values::load4((device const half *)p, i);
    return bf16_values::load4((device const ushort *)p, i);
}

/* ---- Functions ---- */

inline bool is_nan(uint bits) {
    return (bits & 0x7fffffffu) > PLUS_INFINITY;
}
/* Neither infinite nor NaN. */
inline bool is_finite(uint bits) {
    return (bits & PLUS_INFINITY) != PLUS_INFINITY;
}

/* log(1 + x) for x in [0, 1]: 2 atanh(s) with s = x / (2 + x) <= 1/3, as a series. */
inline float log_one_plus(float x) {
    float s = x / (2.0f + x), square = s * s;
    float p = 1.0f / 15.0f;
    p = fma(p, square, 1.0f / 13.0f);
    p = fma(p, square, 1.0f / 11.0f);
    p = fma(p, square, 1.0f / 9.0f);
    p = fma(p, square, 1.0f / 7.0f);
    p = fma(p, square, 1.0f / 5.0f);
    p = fma(p, square, 1.0f / 3.0f);
    p = fma(p, square, 1.0f);
    return 2.0f * s * p;
}

/* log(sigmoid(z)); +inf gives 0, -inf gives -inf, NaN gives NaN. */
inline float log_sigmoid(float z) {
    float smaller = z < 0.0f ? z : 0.0f;
    return smaller - log_one_plus(exp(-fabs(z)));
}

inline float sigmoid(float z) {
    float e = exp(-fabs(z));
    return (z < 0.0f ? e : 1.0f) / (1.0f + e);
}

/* tanh, exact near 0 too: an odd polynomial there (Cephes tanhf), else through exp. */
inline float hyperbolic_tangent(float z) {
    float magnitude = fabs(z), square = z * z;
    float p = -5.70498872745e-3f;
    p = fma(p, square, 2.06390887954e-2f);
    p = fma(p, square, -5.37397155531e-2f);
    p = fma(p, square, 1.33314422036e-1f);
    p = fma(p, square, -3.33332819422e-1f);
    float near = fma(p * square, magnitude, magnitude);
    float e = exp(-2.0f * magnitude);
    float value = magnitude < 0.625f ? near : (1.0f - e) / (1.0f + e);
    return z < 0.0f ? -value : value;
}

/* c tanh(z / c); c = 0: z. */
inline float soft_cap(float z, float c) {
    return c == 0.0f ? z : c * hyperbolic_tangent(z / c);
}

/* exp(z) - 1 for z <= 0. */
inline float exp_minus_one(float z) {
    if (z < -0.5f)
        return exp(z) - 1.0f;
    float p = 1.0f / 40320.0f;
    p = fma(p, z, 1.0f / 5040.0f);
    p = fma(p, z, 1.0f / 720.0f);
    p = fma(p, z, 1.0f / 120.0f);
    p = fma(p, z, 1.0f / 24.0f);
    p = fma(p, z, 1.0f / 6.0f);
    p = fma(p, z, 0.5f);
    return fma(p * z, z, z);
}

/* Phi(z), the normal distribution, through x = |z| / sqrt(2):
 *   x < 2:  erf(x) = 2/sqrt(pi) x exp(-x^2) sum over n of (2 x^2)^n / (1 3 5 .. (2n + 1))
 *   else:  erfc(x) = exp(-x^2)/sqrt(pi) / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ..))))
 * (Abramowitz and Stegun, 7.1.6 and 7.1.14). */
inline float normal_distribution(float z) {
    float x = fabs(z) * 0.70710678118654752f, bell = exp(-x * x) * 0.56418958354775629f;
    if (x < 2.0f) {
        float term = 1.0f, sum = 1.0f;
        for (int n = 1; n < 28; n++) {
            term *= 2.0f * x * x / float(2 * n + 1);
            sum += term;
        }
        float half_erf = bell * x * sum;
        return z < 0.0f ? 0.5f - half_erf : 0.5f + half_erf;
    }
    float fraction = x;
    for (int k = 24; k > 0; k--)
        fraction = x + 0.5f * float(k) / fraction;
    float tail = 0.5f * bell / fraction;
    return z < 0.0f ? tail : 1.0f - tail;
}

/* One of enum metal_activation. */
inline float activate(uint activation, float z) {
    switch (activation) {
    case METAL_SILU:
        return z * sigmoid(z);
    case METAL_GELU:
        return z * normal_distribution(z);
    case METAL_RELU:
        return z < 0.0f ? 0.0f : z;
    case METAL_RELU_SQUARED:
        return z < 0.0f ? 0.0f : z * z;
    case METAL_SIGMOID:
        return sigmoid(z);
    case METAL_SELU:
        return 1.05070098735548049f * (z > 0.0f ? z : 1.67326324235437728f * exp_minus_one(z));
    default:
        return z;
    }
}

/* ---- Sums ---- */

/* The sum over all threads of a threadgroup, known to all of them; in a fixed order. `parts` has
 * MOST_SIMD_GROUPS floats, and is free again when this returns. All threads must come here. */
inline float threadgroup_sum(float x, threadgroup float *parts, uint simd_group, uint simd_groups,
                             uint lane) {
    x = simd_sum(x);
    if (lane == 0)
        parts[simd_group] = x;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0.0f;
    for (uint i = 0; i < simd_groups; i++)
        sum += parts[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return sum;
}

#endif
