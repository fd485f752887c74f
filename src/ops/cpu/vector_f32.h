/* vector.h for f32. */
#ifndef OPS_CPU_VECTOR_F32_H
#define OPS_CPU_VECTOR_F32_H

typedef uint16_t vec_half __attribute__((vector_size(LANES * 2), aligned(1), may_alias));
typedef float quad __attribute__((vector_size(16)));
typedef float quad_anywhere __attribute__((vector_size(16), aligned(1), may_alias));

/* a b + c, rounded once where the instruction set can. */
ALWAYS_INLINE vec fused(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* Lanes are added to those half the width away, then a quarter, and so on. */
ALWAYS_INLINE quad fold_to_quad(vec v) {
#if defined(__AVX512F__)
    __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    return (quad)_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
    return (quad)_mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
#else
    return (quad)v;
#endif
}

/* The sums over the lanes of four vectors. */
ALWAYS_INLINE quad fold4(vec a, vec b, vec c, vec d) {
    quad qa = fold_to_quad(a), qb = fold_to_quad(b), qc = fold_to_quad(c), qd = fold_to_quad(d);
    quad ab =
        __builtin_shufflevector(qa, qb, 0, 4, 1, 5) + __builtin_shufflevector(qa, qb, 2, 6, 3, 7);
    quad cd =
        __builtin_shufflevector(qc, qd, 0, 4, 1, 5) + __builtin_shufflevector(qc, qd, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
           __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

ALWAYS_INLINE void store_folds(real *p, vec a, vec b, vec c, vec d) {
    *(quad_anywhere *)p = fold4(a, b, c, d);
}

ALWAYS_INLINE float fold(vec v) {
    quad q = fold_to_quad(v);
    return (q[0] + q[2]) + (q[1] + q[3]);
}

/* The largest lane. */
ALWAYS_INLINE float fold_max(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (int i = 1; i < LANES; i++)
        most = v[i] > most ? v[i] : most;
    return most;
#endif
}

/* ---- Weights of every type, as floats ---- */

ALWAYS_INLINE vec_bits widen_half(const char *p) {
#if defined(__AVX512F__)
    return (vec_bits)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
#elif defined(__AVX2__)
    return (vec_bits)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
#else
    return __builtin_convertvector(*(const vec_half *)(const void *)p, vec_bits);
#endif
}

ALWAYS_INLINE vec load_f16(const char *p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
#else
    /* Shifted into place the exponent is short by 112; a product with 2^112 is exact, also for
     * subnormal numbers. Infinity and NaN need the full exponent set. */
    vec_bits half = widen_half(p), magnitude = (half & 0x7FFF) << 13;
    vec value = (vec)magnitude * splat(0x1p112f);
    vec_bits special = (vec_bits)(magnitude >= 0x0F800000) & 0x7F800000;
    return (vec)((vec_bits)value | special | (half & 0x8000) << 16);
#endif
}

#include "ops/cpu/vector_blocks.h"

/* `type` is a constant wherever these are inlined. */
ALWAYS_INLINE vec load_as(dtype type, const char *p) {
    if (type == DTYPE_BF16)
        return (vec)(widen_half(p) << 16);
    if (type == DTYPE_F16)
        return load_f16(p);
    if (type == DTYPE_F64)
        return __builtin_convertvector(*(const vec_double *)(const void *)p, vec);
    return load(p);
}

/* Of an element; of a block, where these are what the type has. */
ALWAYS_INLINE int64_t size_as(dtype type) {
    return in_blocks(type) ? block_bytes(type) : type == DTYPE_F64 ? 8 : type == DTYPE_F32 ? 4 : 2;
}

/* Bytes of `count` elements, whole blocks. */
ALWAYS_INLINE int64_t bytes_as(dtype type, int64_t count) {
    return in_blocks(type) ? count / BLOCK_ELEMENTS * block_bytes(type) : count * size_as(type);
}

/* Elements i to i + LANES of a row; i is a multiple of LANES, so that no vector crosses a block. */
ALWAYS_INLINE vec load_at(dtype type, const char *row, int64_t i) {
    if (in_blocks(type))
        return load_block(type, row + bytes_as(type, i), (int)(i % BLOCK_ELEMENTS));
    return load_as(type, row + i * size_as(type));
}

/* Elements i to i + count, and zeros. Rows of blocks have no such rest. */
ALWAYS_INLINE vec load_part_at(dtype type, const char *row, int64_t i, int64_t count) {
    char bytes[LANES * 8] = {0};
    if (!in_blocks(type))
        memcpy(bytes, row + i * size_as(type), (size_t)(count * size_as(type)));
    return load_as(type, bytes);
}

/* ---- Functions ---- */

/* exp with a relative error below 2^-23: x = n ln 2 + r, |r| <= ln(2) / 2, a polynomial in r, and
 * 2^n multiplied in two halves, so that subnormal results are right too. -inf gives 0, NaN gives
 * NaN. */
ALWAYS_INLINE vec exp_vec(vec x) {
    const vec high = splat(89.0f), low = splat(-104.0f), magic = splat(0x1.8p23f);
    x = choose((vec_bits)(x > high), high, x);
    x = choose((vec_bits)(x < low), low, x);
    vec shifted = x * splat(0x1.715476p0f) + magic, n = shifted - magic;
    vec r = fused(n, splat(-0x1.62ep-1f), x); /* exact: 12 bits times an integer of 8 bits */
    r = fused(n, splat(-0x1.0bfbe8p-15f), r);
    vec p = splat(1.9875691500e-4f); /* 1/7! … 1/2!, fitted (Cephes expf) */
    p = fused(p, r, splat(1.3981999507e-3f));
    p = fused(p, r, splat(8.3334519073e-3f));
    p = fused(p, r, splat(4.1665795894e-2f));
    p = fused(p, r, splat(1.6666665459e-1f));
    p = fused(p, r, splat(5.0000001201e-1f));
    p = fused(p, r * r, r) + splat(1.0f);
    /* The low bits of `shifted` are n. Halves of n + 256 keep the arithmetic unsigned. */
    vec_bits biased = (vec_bits)shifted - (vec_bits)magic + 256;
    vec_bits first = biased >> 1, second = biased - first;
    return p * (vec)((first - 1) << 23) * (vec)((second - 1) << 23);
}

/* tanh within 3 units in the last place: an odd polynomial near 0 (Cephes tanhf), else through exp.
 */
ALWAYS_INLINE vec tanh_vec(vec x) {
    vec_bits sign = (vec_bits)x & 0x80000000;
    vec magnitude = (vec)((vec_bits)x ^ sign), square = x * x;
    vec p = splat(-5.70498872745e-3f);
    p = fused(p, square, splat(2.06390887954e-2f));
    p = fused(p, square, splat(-5.37397155531e-2f));
    p = fused(p, square, splat(1.33314422036e-1f));
    p = fused(p, square, splat(-3.33332819422e-1f));
    vec near = fused(p * square, magnitude, magnitude);
    vec far = splat(1.0f) - splat(2.0f) / (exp_vec(magnitude + magnitude) + splat(1.0f));
    vec value = choose((vec_bits)(magnitude < splat(0.625f)), near, far);
    return (vec)((vec_bits)value | sign);
}

#endif
