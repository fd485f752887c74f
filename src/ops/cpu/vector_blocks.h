/* Vectors of floats from blocks of quantised values (base/blocks.h): part of vector_f32.h.
 *
 * The values are those of block_element, bit for bit: the product of the scale and the integer is
 * rounded, and then, where the type has an offset, the sum. */
#ifndef OPS_CPU_VECTOR_BLOCKS_H
#define OPS_CPU_VECTOR_BLOCKS_H

#include "base/blocks.h"

typedef int32_t vec_integers __attribute__((vector_size(VECTOR_BYTES)));

/* `type` is a constant wherever these are inlined. */
ALWAYS_INLINE bool in_blocks(dtype type) {
    return type >= DTYPE_Q8_0 && type <= DTYPE_IQ4_NL;
}

ALWAYS_INLINE int64_t block_bytes(dtype type) {
    return type == DTYPE_Q8_0   ? sizeof(block_q8_0)
           : type == DTYPE_Q5_0 ? sizeof(block_q5_0)
           : type == DTYPE_Q5_1 ? sizeof(block_q5_1)
           : type == DTYPE_Q4_1 ? sizeof(block_q4_1)
                                : sizeof(block_q4_0);
}

ALWAYS_INLINE float load_scale(const char *p) {
    uint16_t bits;
    memcpy(&bits, p, sizeof bits);
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#elif defined(__aarch64__)
    __fp16 half;
    memcpy(&half, &bits, sizeof half);
    return half;
#else
    return f16_to_float(bits);
#endif
}

/* LANES bytes as integers. */
ALWAYS_INLINE vec_integers load_signed_bytes(const char *p) {
#if defined(__AVX512F__)
    return (vec_integers)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
#elif defined(__AVX2__)
    return (vec_integers)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
#else
    typedef int8_t few __attribute__((vector_size(LANES)));
    few bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, vec_integers);
#endif
}

ALWAYS_INLINE vec_integers load_bytes(const char *p) {
#if defined(__AVX512F__)
    return (vec_integers)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
#elif defined(__AVX2__)
    return (vec_integers)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
#else
    typedef uint8_t few __attribute__((vector_size(LANES)));
    few bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, vec_integers);
#endif
}

/* Four bits of values `first` to first + LANES; first is a multiple of LANES. */
ALWAYS_INLINE vec_integers load_nibbles(const char *q, int first) {
    vec_integers pairs = load_bytes(q + first % 16);
    return (first < 16 ? pairs : pairs >> 4) & 15;
}

/* 16 where the value has its fifth bit. */
ALWAYS_INLINE vec_integers load_fifth_bits(const char *high, int first) {
    vec_integers lane = {0};
    UNROLL
    for (int i = 0; i < LANES; i++)
        lane[i] = i;
    uint32_t bits; /* arm64 and x86-64 are little-endian, as the file is */
    memcpy(&bits, high, sizeof bits);
    bits >>= first;
    return (((vec_integers){0} + (int32_t)bits) >> lane & 1) << 4;
}

ALWAYS_INLINE vec levels_of(vec_integers index) {
#if defined(__AVX512F__)
    const __m512 levels =
        _mm512_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return (vec)_mm512_permutexvar_ps((__m512i)index, levels);
#elif defined(__AVX2__)
    const __m256 low = _mm256_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10);
    const __m256 high = _mm256_setr_ps(1, 13, 25, 38, 53, 69, 89, 113);
    return (vec)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, (__m256i)index),
                                 _mm256_permutevar8x32_ps(high, (__m256i)index),
                                 _mm256_castsi256_ps((__m256i)(index << 28)));
#else
    vec value = {0};
    UNROLL
    for (int i = 0; i < LANES; i++)
        value[i] = block_levels[index[i]];
    return value;
#endif
}

/* Values `first` to first + LANES of a block; first is a multiple of LANES. */
ALWAYS_INLINE vec load_block(dtype type, const char *block, int first) {
    const vec d = splat(load_scale(block));
    const char *q = block + block_bytes(type) - 16;
    vec_integers n;
    switch (type) {
    case DTYPE_Q8_0:
        n = load_signed_bytes(block + 2 + first);
        break;
    case DTYPE_Q5_0:
        n = (load_nibbles(q, first) | load_fifth_bits(block + 2, first)) - 16;
        break;
    case DTYPE_Q5_1:
        n = load_nibbles(q, first) | load_fifth_bits(block + 4, first);
        break;
    case DTYPE_Q4_0:
        n = load_nibbles(q, first) - 8;
        break;
    case DTYPE_Q4_1:
        n = load_nibbles(q, first);
        break;
    default:
        return d * levels_of(load_nibbles(q, first));
    }
    vec value = d * __builtin_convertvector(n, vec);
    if (type == DTYPE_Q5_1 || type == DTYPE_Q4_1)
        value += splat(load_scale(block + 2));
    return value;
}

#endif
