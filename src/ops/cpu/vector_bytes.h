/* The bytes and scales of blocks (base/blocks.h), laid out for products of bytes: for kernels_dot.c.
 *
 * A vector of bytes holds the same 16 values of BLOCKS blocks that follow each other in a row, a second
 * one the other 16. Scales are widened for GROUP rows at once. This file moves bytes with what every
 * processor has; vector_bytes_vbmi.h takes its place where they can be permuted at will. */
#ifndef OPS_CPU_VECTOR_BYTES_H
#define OPS_CPU_VECTOR_BYTES_H

#include "ops/cpu/vector.h"

enum {
    BLOCKS = VECTOR_BYTES / 16, /* that a pair of vectors holds */
    WORDS = 4                   /* lanes of a block */
};

typedef uint8_t vec_bytes __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t vec_words __attribute__((vector_size(VECTOR_BYTES)));

/* The same sixteen bytes for every block. */
ALWAYS_INLINE vec_bytes everywhere(const void *sixteen) {
    vec_bytes v;
    UNROLL
    for (int b = 0; b < BLOCKS; b++)
        memcpy((char *)&v + 16 * b, sixteen, 16);
    return v;
}

#if defined(__AVX512VBMI__)
#include "ops/cpu/vector_bytes_vbmi.h"
#else

enum { GROUP = 1 };

ALWAYS_INLINE uint32_t load_word(const char *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

#if defined(__AVX512F__)
/* Words of four blocks of less than 32 bytes at p, which two loads cover: word `inner` after byte
 * `first` of `block`, where `last` is the largest of `inner`. */
ALWAYS_INLINE vec_words pick_words(const char *p, const int size, const int first,
                                   const vec_words block, const vec_words inner, const int last) {
    const int words = size / 2, second = 4 * size - VECTOR_BYTES;
    const vec_words index = block * (uint16_t)words + inner + (uint16_t)(first / 2);
    __m512i picked = _mm512_permutexvar_epi16((__m512i)index, _mm512_loadu_si512(p));
    if (first / 2 + 3 * words + last < VECTOR_BYTES / 2)
        return (vec_words)picked;
    __mmask32 beyond = _mm512_cmpge_epu16_mask((__m512i)index, _mm512_set1_epi16(VECTOR_BYTES / 2));
    const vec_words from_second = index - (uint16_t)(second / 2);
    return (vec_words)_mm512_mask_permutexvar_epi16(picked, beyond, (__m512i)from_second,
                                                    _mm512_loadu_si512(p + second));
}

static const vec_words eighths = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
                                  2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3};
#endif

/* The sixteen bytes at `first` of every block. */
ALWAYS_INLINE vec_bytes load_sixteens(dtype type, const char *p, const int first) {
    const int64_t step = block_bytes(type);
#define SIXTEEN(i) _mm_loadu_si128((const __m128i *)(const void *)(p + first + (i)*step))
#if defined(__AVX512F__)
    if (type != DTYPE_Q8_0) {
        const vec_words inner = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7,
                                 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
        return (vec_bytes)pick_words(p, (int)step, first, eighths, inner, 7);
    }
    __m512i v = _mm512_castsi128_si512(SIXTEEN(0));
    v = _mm512_inserti32x4(v, SIXTEEN(1), 1);
    v = _mm512_inserti32x4(v, SIXTEEN(2), 2);
    return (vec_bytes)_mm512_inserti32x4(v, SIXTEEN(3), 3);
#elif defined(__AVX2__)
    return (vec_bytes)_mm256_inserti128_si256(_mm256_castsi128_si256(SIXTEEN(0)), SIXTEEN(1), 1);
#else
    (void)step;
    vec_bytes v;
    memcpy(&v, p + first, sizeof v);
    return v;
#endif
#undef SIXTEEN
}

/* table[index] in every sixteen bytes; an index is below 16. */
ALWAYS_INLINE vec_bytes look_up(vec_bytes table, vec_bytes index) {
#if defined(__AVX512F__)
    return (vec_bytes)_mm512_shuffle_epi8((__m512i)table, (__m512i)index);
#elif defined(__AVX2__)
    return (vec_bytes)_mm256_shuffle_epi8((__m256i)table, (__m256i)index);
#elif defined(__aarch64__)
    return (vec_bytes)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)index);
#else
    vec_bytes v = {0};
    for (int i = 0; i < VECTOR_BYTES; i++)
        v[i] = table[index[i]];
    return v;
#endif
}

/* The 32 bits at each of BLOCKS places, one beside the other. */
#if defined(__AVX2__)
ALWAYS_INLINE __m128i load_words(const char *p, const int64_t step) {
    __m128i v = _mm_cvtsi32_si128((int)load_word(p));
    v = _mm_insert_epi32(v, (int)load_word(p + step), 1);
#if defined(__AVX512F__)
    v = _mm_insert_epi32(v, (int)load_word(p + 2 * step), 2);
    v = _mm_insert_epi32(v, (int)load_word(p + 3 * step), 3);
#endif
    return v;
}
#endif

/* The upper four bits of every byte. */
ALWAYS_INLINE vec_bytes upper(vec_bytes pairs) {
    return (vec_bytes)((vec_words)pairs >> 4) & 15;
}

/* The 32 fifth bits of every block, four times. */
ALWAYS_INLINE vec_bytes load_high(dtype type, const char *p) {
    const int size = (int)block_bytes(type);
#if defined(__AVX512F__)
    const vec_words inner = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1,
                             0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
    return (vec_bytes)pick_words(p, size, size - 20, eighths, inner, 1);
#elif defined(__AVX2__)
    const __m256i index = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    return (vec_bytes)_mm256_permutevar8x32_epi32(
        _mm256_castsi128_si256(load_words(p + size - 20, size)), index);
#else
    return (vec_bytes)((vec_integers){0} + (int32_t)load_word(p + size - 20));
#endif
}

/* u with 16 more where the value has its fifth bit; `half` 0: values 0 … 15, 1: 16 … 31. */
ALWAYS_INLINE vec_bytes add_fifth(vec_bytes u, vec_bytes high, const int half) {
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    static const uint8_t place[2][16] = {{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
                                         {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}};
    vec_bytes bits = everywhere(bit), mine = look_up(high, everywhere(place[half]));
#if defined(__AVX512F__)
    __mmask64 there = _mm512_test_epi8_mask((__m512i)mine, (__m512i)bits);
    return (vec_bytes)_mm512_mask_add_epi8((__m512i)u, there, (__m512i)u, _mm512_set1_epi8(16));
#else
    return u | ((vec_bytes)((mine & bits) == bits) & 16);
#endif
}

/* The same of both halves. */
ALWAYS_INLINE void add_fifths(dtype type, const char *p, vec_bytes u[2]) {
    const vec_bytes high = load_high(type, p);
    u[0] = add_fifth(u[0], high, 0);
    u[1] = add_fifth(u[1], high, 1);
}

/* d of every block, in all of its lanes; with `first` 2, m. */
ALWAYS_INLINE vec load_spread(dtype type, const char *p, const int first) {
    const int size = (int)block_bytes(type);
#if defined(__AVX512F__)
    if (type != DTYPE_Q8_0) {
        const vec_words block = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}, inner = {0};
        vec_words halves = pick_words(p, size, first, block, inner, 0);
        return (vec)_mm512_cvtph_ps(_mm512_castsi512_si256((__m512i)halves));
    }
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
#elif defined(__AVX2__)
    const __m256i index = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
#endif
#if defined(__AVX2__)
    const __m128i low = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    __m128 value = _mm_cvtph_ps(_mm_shuffle_epi8(load_words(p + first, size), low));
#if defined(__AVX512F__)
    return (vec)_mm512_permutexvar_ps(index, _mm512_castps128_ps512(value));
#else
    return (vec)_mm256_permutevar8x32_ps(_mm256_castps128_ps256(value), index);
#endif
#else
    (void)size;
    return splat(load_scale(p + first));
#endif
}

/* The same of GROUP rows, and of one of them. */
ALWAYS_INLINE vec load_group(dtype type, const char *const rows[GROUP], const int first) {
    return load_spread(type, rows[0], first);
}

ALWAYS_INLINE vec of_row(vec group, const int row) {
    (void)row;
    return group;
}

#endif
#endif
