/* Weights of every type as bf16, 32 at a time: what AMX multiplies. Values of blocks are computed in
 * f32 as blocks.h says and rounded once; for the types of 4 and 5 bits that is done once for every
 * level of the block, and the values are looked up. */
#ifndef OPS_CPU_VECTOR_BF16_H
#define OPS_CPU_VECTOR_BF16_H

#include "ops/cpu/vector.h"

/* Rounded to nearest even; numbers below the smallest normal one are 0. */
ALWAYS_INLINE __m512i round_pair(vec low, vec high) {
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

/* The first `count` lanes, fewer than none or more than all too; zeros behind them. */
ALWAYS_INLINE vec load_some(const float *p, int64_t count) {
    if (count <= 0)
        return (vec){0};
    return count >= LANES ? load(p) : load_part(p, count);
}

/* 16 levels, twice: the index into them has five bits, of which the highest may be anything. */
ALWAYS_INLINE __m512i levels16(vec levels) {
    return round_pair(levels, levels);
}

ALWAYS_INLINE vec counted(float from) {
    return (vec){from,      from + 1,  from + 2,  from + 3, from + 4,  from + 5,
                 from + 6,  from + 7,  from + 8,  from + 9, from + 10, from + 11,
                 from + 12, from + 13, from + 14, from + 15};
}

ALWAYS_INLINE vec iq4_nl_levels(void) {
    return (vec)_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)block_levels)));
}

/* 32 indices of four bits, as words with something above those bits: byte j holds value j and, in
 * its high half, value j + 16. */
ALWAYS_INLINE __m512i nibbles(const char *q) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)q);
    __m512i words = _mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(bytes));
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    return _mm512_srlv_epi16(words, shifts);
}

/* 32 indices of five bits. */
ALWAYS_INLINE __m512i nibbles_and(const char *q, const char *high) {
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
    const __m512i low = _mm512_and_si512(nibbles(q), _mm512_set1_epi16(15));
    return _mm512_mask_add_epi16(low, bits, low, _mm512_set1_epi16(16));
}

ALWAYS_INLINE __m512i look_up(__m512i levels, __m512i indices) {
    return _mm512_permutexvar_epi16(indices, levels);
}

/* Blocks have any address: their members are found by offset. */
ALWAYS_INLINE __m512i decode_q8_0(const char *p) {
    const vec d = splat(load_scale(p + offsetof(block_q8_0, d)));
    const char *q = p + offsetof(block_q8_0, q);
    __m128i first = _mm_loadu_si128((const __m128i *)(const void *)q);
    __m128i second = _mm_loadu_si128((const __m128i *)(const void *)(q + 16));
    return round_pair(d * (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(first)),
                      d * (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(second)));
}

/* Of 32 values. `type` is a constant wherever these are inlined. */
ALWAYS_INLINE int64_t step_bytes_as(dtype type) {
    return in_blocks(type) ? block_bytes(type) : BLOCK_ELEMENTS * size_as(type);
}

ALWAYS_INLINE __m512i decode_as(dtype type, const char *p) {
    const vec d = splat(load_scale(p)); /* of a block; it begins with it */
    switch (type) {
    case DTYPE_BF16:
        return _mm512_loadu_si512(p);
    case DTYPE_Q8_0:
        return decode_q8_0(p);
    case DTYPE_Q4_0:
        return look_up(levels16(d * counted(-8)), nibbles(p + offsetof(block_q4_0, q)));
    case DTYPE_IQ4_NL:
        return look_up(levels16(d * iq4_nl_levels()), nibbles(p + offsetof(block_q4_0, q)));
    case DTYPE_Q4_1:
        return look_up(levels16(d * counted(0) + splat(load_scale(p + offsetof(block_q4_1, m)))),
                       nibbles(p + offsetof(block_q4_1, q)));
    case DTYPE_Q5_0:
        return look_up(round_pair(d * counted(-16), d * counted(0)),
                       nibbles_and(p + offsetof(block_q5_0, q), p + offsetof(block_q5_0, high)));
    case DTYPE_Q5_1: {
        const vec m = splat(load_scale(p + offsetof(block_q5_1, m)));
        return look_up(round_pair(d * counted(0) + m, d * counted(16) + m),
                       nibbles_and(p + offsetof(block_q5_1, q), p + offsetof(block_q5_1, high)));
    }
    default:
        return round_pair(load_as(type, p), load_as(type, p + LANES * size_as(type)));
    }
}

/* The first `count` values, zeros behind them; not of blocks, which are never cut. */
ALWAYS_INLINE __m512i decode_part_as(dtype type, const char *p, int64_t count) {
    char bytes[BLOCK_ELEMENTS * 8] = {0};
    if (in_blocks(type))
        return decode_as(type, p);
    memcpy(bytes, p, (size_t)(count * size_as(type)));
    return decode_as(type, bytes);
}

#endif
