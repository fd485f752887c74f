/* Products of quantised activations with weights in blocks (base/blocks.h), for few tokens, where
 * the memory is the limit and so the work per weight must be small.
 *
 * Activations are integers of 8 bits in groups of 32, each with a scale, as the weights are: then
 *   sum over a block of d (u - offset) s x  =  d s (sum of u x - offset * sum of x)
 * with one sum of products of bytes, for which processors have instructions, and one multiply-add
 * of floats a block. u is what the bits of a weight say, without a sign where the type or the
 * instruction wants it so: the sum of x is known before. m of the types that have one is multiplied
 * with the same sum.
 *
 * A vector holds the same 16 values of several blocks of a row, a second vector the other 16. Eight
 * rows are walked at once: eight streams of addresses, each asked for ahead. This file is compiled
 * for some instruction sets besides those of the other kernels. */
#include "ops/cpu/vector.h"

enum {
    BLOCKS = VECTOR_BYTES / 16, /* that a pair of vectors holds */
    PART = BLOCKS * BLOCK_ELEMENTS,
    WORDS = 4, /* lanes of a block */
#if defined(__AVX2__) || defined(__aarch64__)
    MOST_ROWS = 8,
#else
    MOST_ROWS = 2,     /* bytes one by one: the memory waits */
#endif
    AHEAD = 1024, /* bytes from a read to what is prefetched meanwhile */
    LINE = 64,
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    SIGNED_WEIGHTS = 0 /* the instruction multiplies bytes without sign by such with sign */
#else
    SIGNED_WEIGHTS = 1 /* of q8_0 and iq4_nl; the others fit either way */
#endif
};

typedef uint8_t vec_bytes __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t vec_words __attribute__((vector_size(VECTOR_BYTES)));

/* Activations of PART columns. */
typedef struct part {
    vec_bytes q[2];     /* values 0 … 15, and 16 … 31, of every block */
    float sum[LANES];   /* of the integers of a block, in the first of its four lanes */
    float scale[LANES]; /* of the blocks, for all of their lanes */
} __attribute__((aligned(64))) part;
_Static_assert(sizeof(part) <= PART * CPU_DOT_BYTES, "memory of quantised activations");

/* ---- Activations ---- */

/* Thirty-two floats: rounded integers, their sum; returns the scale. */
static float quantise_group(const float *x, int8_t *q, float *sum) {
    const vec_bits magnitude = (vec_bits)((vec_integers){0} + 0x7FFFFFFF);
    vec largest = {0}, odd = {0};
    for (int i = 0; i < BLOCK_ELEMENTS; i += LANES) {
        vec value = load(x + i), size = (vec)((vec_bits)value & magnitude);
        largest = choose((vec_bits)(size > largest), size, largest);
        odd += value * splat(0); /* NaN where a value is not finite */
    }
    float most = 0;
    for (int i = 0; i < LANES; i++)
        most = largest[i] > most ? largest[i] : most;
    float factor = most > 0x1p-120f ? 127 / most : 0;
    int32_t total = 0;
    for (int i = 0; i < BLOCK_ELEMENTS; i += LANES) {
        vec_integers rounded = (vec_integers)(load(x + i) * splat(factor) + splat(0x1.8p23f));
        for (int j = 0; j < LANES; j++) {
            q[i + j] = (int8_t)rounded[j]; /* the low bits are the integer */
            total += q[i + j];
        }
    }
    *sum = (float)total;
    return most / 127 + fold(odd);
}

static void quantise(const float *x, int64_t width, void *parts) {
    part *p = parts;
    for (int64_t first = 0; first < width; first += PART, p++) {
        *p = (part){0};
        for (int b = 0; b < BLOCKS && first + b * BLOCK_ELEMENTS < width; b++) {
            int8_t q[BLOCK_ELEMENTS];
            float scale = quantise_group(x + first + b * BLOCK_ELEMENTS, q, &p->sum[b * WORDS]);
            for (int i = 0; i < WORDS; i++)
                p->scale[b * WORDS + i] = scale;
            memcpy((char *)&p->q[0] + 16 * b, q, 16);
            memcpy((char *)&p->q[1] + 16 * b, q + 16, 16);
        }
    }
}

/* ---- Weights ---- */

ALWAYS_INLINE uint32_t load_word(const char *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* Sixteen bytes from each of BLOCKS places. */
ALWAYS_INLINE vec_bytes load_sixteens(const char *p, const int64_t step) {
#define SIXTEEN(i) _mm_loadu_si128((const __m128i *)(const void *)(p + (i)*step))
#if defined(__AVX512F__)
    __m512i v = _mm512_castsi128_si512(SIXTEEN(0));
    v = _mm512_inserti32x4(v, SIXTEEN(1), 1);
    v = _mm512_inserti32x4(v, SIXTEEN(2), 2);
    return (vec_bytes)_mm512_inserti32x4(v, SIXTEEN(3), 3);
#elif defined(__AVX2__)
    return (vec_bytes)_mm256_inserti128_si256(_mm256_castsi128_si256(SIXTEEN(0)), SIXTEEN(1), 1);
#else
    (void)step;
    vec_bytes v;
    memcpy(&v, p, sizeof v);
    return v;
#endif
#undef SIXTEEN
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

/* The same sixteen bytes for every block. */
ALWAYS_INLINE vec_bytes everywhere(const void *sixteen) {
    vec_bytes v;
    UNROLL
    for (int b = 0; b < BLOCKS; b++)
        memcpy((char *)&v + 16 * b, sixteen, 16);
    return v;
}

ALWAYS_INLINE vec_bytes byte_splat(uint8_t value) {
    return (vec_bytes){0} + value;
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

/* The 16 bytes with two values each, of every block. */
ALWAYS_INLINE vec_bytes load_pairs(dtype type, const char *p) {
#if defined(__AVX512F__)
    const vec_words inner = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7,
                             0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
    const int size = (int)block_bytes(type);
    return (vec_bytes)pick_words(p, size, size - 16, eighths, inner, 7);
#else
    return load_sixteens(p + block_bytes(type) - 16, block_bytes(type));
#endif
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

ALWAYS_INLINE int64_t offset_of(dtype type) {
    return type == DTYPE_Q4_0                                                ? 8
           : type == DTYPE_Q5_0                                              ? 16
           : !SIGNED_WEIGHTS && (type == DTYPE_Q8_0 || type == DTYPE_IQ4_NL) ? 128
                                                                             : 0;
}

ALWAYS_INLINE bool has_minimum(dtype type) {
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1;
}

/* The bytes u of BLOCKS blocks. */
ALWAYS_INLINE void load_weights(dtype type, const char *p, vec_bytes u[2]) {
    const int64_t size = block_bytes(type);
    if (type == DTYPE_Q8_0) {
        vec_bytes sign = byte_splat(SIGNED_WEIGHTS ? 0 : 128);
        u[0] = load_sixteens(p + 2, size) ^ sign;
        u[1] = load_sixteens(p + 18, size) ^ sign;
        return;
    }
    vec_bytes pairs = load_pairs(type, p);
    u[0] = pairs & 15;
    u[1] = (vec_bytes)((vec_words)pairs >> 4) & 15;
    if (type == DTYPE_IQ4_NL) {
        vec_bytes levels = everywhere(block_levels) ^ byte_splat(SIGNED_WEIGHTS ? 0 : 128);
        u[0] = look_up(levels, u[0]);
        u[1] = look_up(levels, u[1]);
    } else if (type == DTYPE_Q5_0 || type == DTYPE_Q5_1) {
        vec_bytes high = load_high(type, p);
        u[0] = add_fifth(u[0], high, 0);
        u[1] = add_fifth(u[1], high, 1);
    }
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

/* ---- Products ---- */

#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
/* Sums of two neighbouring products: none is larger than 2 * 128 * 127. */
ALWAYS_INLINE vec_words pair_sums(const bool with_sign, vec_bytes u, vec_bytes x) {
#if defined(__AVX512F__)
    __m512i a = (__m512i)u, b = (__m512i)x;
    if (with_sign) {
        b = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
        a = _mm512_abs_epi8(a);
    }
    return (vec_words)_mm512_maddubs_epi16(a, b);
#else
    __m256i a = (__m256i)u, b = (__m256i)x;
    if (with_sign) {
        b = _mm256_sign_epi8(b, a);
        a = _mm256_abs_epi8(a);
    }
    return (vec_words)_mm256_maddubs_epi16(a, b);
#endif
}

ALWAYS_INLINE vec_integers widen_sums(vec_words pairs) {
#if defined(__AVX512F__)
    return (vec_integers)_mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(1));
#else
    return (vec_integers)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(1));
#endif
}
#endif

/* Sums of u x over the bytes of each lane, of both halves. */
ALWAYS_INLINE vec_integers dot(dtype type, const vec_bytes u[2], const vec_bytes x[2]) {
#if defined(__AVX512VNNI__)
    (void)type;
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), (__m512i)u[0], (__m512i)x[0]);
    return (vec_integers)_mm512_dpbusd_epi32(sum, (__m512i)u[1], (__m512i)x[1]);
#elif defined(__AVXVNNI__)
    (void)type;
    __m256i sum = _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), (__m256i)u[0], (__m256i)x[0]);
    return (vec_integers)_mm256_dpbusd_avx_epi32(sum, (__m256i)u[1], (__m256i)x[1]);
#elif defined(__AVX2__)
    bool with_sign = type == DTYPE_Q8_0 || type == DTYPE_IQ4_NL;
    vec_words low = pair_sums(with_sign, u[0], x[0]), high = pair_sums(with_sign, u[1], x[1]);
    return with_sign ? widen_sums(low) + widen_sums(high) : widen_sums(low + high);
#elif defined(__ARM_FEATURE_DOTPROD)
    (void)type;
    int32x4_t sum = vdotq_s32(vdupq_n_s32(0), (int8x16_t)u[0], (int8x16_t)x[0]);
    return (vec_integers)vdotq_s32(sum, (int8x16_t)u[1], (int8x16_t)x[1]);
#elif defined(__aarch64__)
    (void)type;
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (int half = 0; half < 2; half++) {
        int8x16_t a = (int8x16_t)u[half], b = (int8x16_t)x[half];
        sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        sum = vpadalq_s16(sum, vmull_high_s8(a, b));
    }
    return (vec_integers)sum;
#else
    (void)type;
    vec_integers sum = {0};
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < VECTOR_BYTES; i++)
            sum[i / 4] += (int8_t)u[half][i] * (int8_t)x[half][i];
    return sum;
#endif
}

/* The blocks at p of one row, for some tokens. */
ALWAYS_INLINE void add_part(dtype type, const int tokens, const char *p, const part *const *x,
                            int64_t at, vec *sums) {
    const float offset = (float)-offset_of(type);
    vec_bytes u[2];
    load_weights(type, p, u);
    vec d = load_spread(type, p, 0), m = has_minimum(type) ? load_spread(type, p, 2) : d;
    UNROLL
    for (int t = 0; t < tokens; t++) {
        const part *of = x[t] + at;
        vec scale = load(of->scale);
        vec value = __builtin_convertvector(dot(type, u, of->q), vec);
        if (offset != 0)
            value = fused(splat(offset), load(of->sum), value);
        sums[t] = fused(d * scale, value, sums[t]);
        if (has_minimum(type))
            sums[t] = fused(m * scale, load(of->sum), sums[t]);
    }
}

ALWAYS_INLINE void dot_rows(dtype type, const int rows, const int tokens, const cpu_dot_product *a,
                            int first) {
    const int64_t bytes = BLOCKS * block_bytes(type);
    const char *row[MOST_ROWS];
    const part *x[CPU_DOT_TOKENS];
    vec sums[MOST_ROWS][CPU_DOT_TOKENS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        int64_t index = first + r < a->rows ? first + r : a->rows - 1;
        row[r] = a->weights + index * a->row_bytes;
        UNROLL
        for (int t = 0; t < tokens; t++)
            sums[r][t] = (vec){0};
    }
    UNROLL
    for (int t = 0; t < tokens; t++)
        x[t] = (const part *)(const void *)(a->x + (t < a->tokens ? t : 0) * a->x_stride);
    int64_t whole = a->width / PART, turn = whole > AHEAD / bytes ? whole - AHEAD / bytes : 0;
    /* At the end of the rows, the beginning of the next ones is what comes next. */
    int64_t next = first + rows < a->rows ? rows * a->row_bytes - turn * bytes : 0;
    for (int64_t at = 0; at < whole; at++) {
        int64_t ahead = at < turn ? AHEAD : next;
        UNROLL
        for (int r = 0; r < rows; r++) {
            const char *p = row[r] + at * bytes;
            UNROLL
            for (int64_t line = 0; line < bytes; line += LINE)
                __builtin_prefetch(p + ahead + line);
            add_part(type, tokens, p, x, at, sums[r]);
        }
    }
    int64_t left = (a->width - whole * PART) / BLOCK_ELEMENTS;
    if (left > 0)
        for (int r = 0; r < rows; r++) {
            char last[BLOCKS * sizeof(block_q8_0)] = {0};
            memcpy(last, row[r] + whole * bytes, (size_t)(left * block_bytes(type)));
            add_part(type, tokens, last, x, whole, sums[r]);
        }
    int count = first + rows < a->rows ? rows : a->rows - first;
    for (int t = 0; t < tokens && t < a->tokens; t++)
        for (int r = 0; r < rows && r < count; r++)
            a->z[t * a->z_stride + first + r] = fold(sums[r][t]);
}

/* Fewer rows at once where there are more tokens: their sums are to stay in registers. */
ALWAYS_INLINE void dot_all(dtype type, const cpu_dot_product *a) {
    enum { SOME = MOST_ROWS / 2 };
    if (a->tokens == 1)
        for (int row = 0; row < a->rows; row += MOST_ROWS)
            dot_rows(type, MOST_ROWS, 1, a, row);
    else if (a->tokens == 2)
        for (int row = 0; row < a->rows; row += SOME)
            dot_rows(type, SOME, 2, a, row);
    else
        for (int row = 0; row < a->rows; row += SOME)
            dot_rows(type, SOME, CPU_DOT_TOKENS, a, row);
}

static void multiply(const cpu_dot_product *a) {
    switch (a->type) {
    case DTYPE_Q8_0:
        dot_all(DTYPE_Q8_0, a);
        break;
    case DTYPE_Q5_0:
        dot_all(DTYPE_Q5_0, a);
        break;
    case DTYPE_Q5_1:
        dot_all(DTYPE_Q5_1, a);
        break;
    case DTYPE_Q4_0:
        dot_all(DTYPE_Q4_0, a);
        break;
    case DTYPE_Q4_1:
        dot_all(DTYPE_Q4_1, a);
        break;
    default:
        dot_all(DTYPE_IQ4_NL, a);
    }
}

const cpu_dot PER_ISA(cpu_dot) = {.quantise = quantise, .multiply = multiply};
