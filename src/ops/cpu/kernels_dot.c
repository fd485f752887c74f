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
#include "ops/cpu/vector_dot.h"

enum {
#if defined(__AVX2__) || defined(__aarch64__)
    MOST_ROWS = 8,
#else
    MOST_ROWS = 2, /* bytes one by one: the memory waits */
#endif
    AHEAD = 1024, /* bytes from a read to what is prefetched meanwhile */
    LINE = 64,
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    SHIFT = 128 /* the instruction multiplies bytes without sign by such with sign */
#else
    SHIFT = 0
#endif
};

/* Activations of PART columns. */
typedef struct part {
    vec_bytes q[2];     /* values 0 … 15, and 16 … 31, of every block */
    vec_integers sum;   /* of the integers of a block, in the first of its four lanes */
    float scale[LANES]; /* of the blocks, for all of their lanes */
} __attribute__((aligned(64))) part;
enum { TOKENS = 4 };
_Static_assert(TOKENS * sizeof(part) <= PART * CPU_DOT_BYTES, "memory of quantised activations");

static part *parts_of(const void *quantised, int64_t width, int token) {
    return (part *)quantised + token * ((width + PART - 1) / PART);
}

/* ---- Activations ---- */

/* The last part of a row that is no whole number of them holds the last BLOCKS blocks: those that the
 * part before has count nothing there. A row that is shorter than a part has zeros at its end. */
static void quantise(const float *x, int64_t width, int token, void *quantised) {
    part *p = parts_of(quantised, width, token);
    for (int64_t first = 0; first < width; first += PART, p++) {
        const int64_t left = width - first < PART ? width - first : PART;
        const int skipped = first > 0 ? (int)((PART - left) / BLOCK_ELEMENTS) : 0;
        *p = (part){0};
        for (int i = 0; i < left / BLOCK_ELEMENTS; i++) {
            const int b = skipped + i;
            int8_t q[BLOCK_ELEMENTS];
            int32_t sum;
            float scale = quantise_group(x + first + i * BLOCK_ELEMENTS, q, &sum);
            p->sum[b * WORDS] = sum;
            for (int lane = 0; lane < WORDS; lane++)
                p->scale[b * WORDS + lane] = scale;
            memcpy((char *)&p->q[0] + 16 * b, q, 16);
            memcpy((char *)&p->q[1] + 16 * b, q + 16, 16);
        }
    }
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

/* `sum` and the products u x over the bytes of each lane, of both halves. */
ALWAYS_INLINE vec_integers dot(dtype type, vec_integers sum, const vec_bytes u[2],
                               const vec_bytes x[2]) {
#if defined(__AVX512VNNI__)
    (void)type;
    __m512i low = _mm512_dpbusd_epi32((__m512i)sum, (__m512i)u[0], (__m512i)x[0]);
    return (vec_integers)_mm512_dpbusd_epi32(low, (__m512i)u[1], (__m512i)x[1]);
#elif defined(__AVXVNNI__)
    (void)type;
    __m256i low = _mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)u[0], (__m256i)x[0]);
    return (vec_integers)_mm256_dpbusd_avx_epi32(low, (__m256i)u[1], (__m256i)x[1]);
#elif defined(__AVX2__)
    const bool with_sign = has_sign(type);
    vec_words low = pair_sums(with_sign, u[0], x[0]), high = pair_sums(with_sign, u[1], x[1]);
    return sum + (with_sign ? widen_sums(low) + widen_sums(high) : widen_sums(low + high));
#elif defined(__ARM_FEATURE_DOTPROD)
    (void)type;
    int32x4_t low = vdotq_s32((int32x4_t)sum, (int8x16_t)u[0], (int8x16_t)x[0]);
    return (vec_integers)vdotq_s32(low, (int8x16_t)u[1], (int8x16_t)x[1]);
#elif defined(__aarch64__)
    (void)type;
    int32x4_t sums = (int32x4_t)sum;
    UNROLL
    for (int half = 0; half < 2; half++) {
        int8x16_t a = (int8x16_t)u[half], b = (int8x16_t)x[half];
        sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        sums = vpadalq_s16(sums, vmull_high_s8(a, b));
    }
    return (vec_integers)sums;
#else
    (void)type;
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < VECTOR_BYTES; i++)
            sum[i / 4] += (int8_t)u[half][i] * (int8_t)x[half][i];
    return sum;
#endif
}

/* The blocks at `at` of GROUP rows, for some tokens. */
ALWAYS_INLINE void add_parts(dtype type, const int tokens, const char *const p[GROUP],
                             const part *const *x, int64_t at, vec (*sums)[TOKENS]) {
    const int offset = has_sign(type) ? SHIFT : offset_of(type);
    const vec d = load_group(type, p, 0), m = has_minimum(type) ? load_group(type, p, 2) : d;
    UNROLL
    for (int r = 0; r < GROUP; r++) {
        vec_bytes u[2];
        load_weights(type, SHIFT, p[r], u);
        UNROLL
        for (int t = 0; t < tokens; t++) {
            const part *of = x[t] + at;
            const vec scale = load(of->scale);
            vec value = __builtin_convertvector(dot(type, of->sum * -offset, u, of->q), vec);
            sums[r][t] = fused(of_row(d * scale, r), value, sums[r][t]);
            if (has_minimum(type))
                sums[r][t] =
                    fused(of_row(m, r), scale * __builtin_convertvector(of->sum, vec), sums[r][t]);
        }
    }
}

ALWAYS_INLINE void dot_rows(dtype type, const int rows, const int tokens, const cpu_dot_product *a,
                            const int first, const int step) {
    const int64_t bytes = BLOCKS * block_bytes(type);
    const char *row[MOST_ROWS];
    const part *x[TOKENS];
    vec sums[MOST_ROWS][TOKENS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        int64_t index = first + r * step < a->rows ? first + r * step : a->rows - 1;
        row[r] = a->weights + index * a->row_bytes;
        UNROLL
        for (int t = 0; t < tokens; t++)
            sums[r][t] = (vec){0};
    }
    UNROLL
    for (int t = 0; t < tokens; t++)
        x[t] = parts_of(a->x, a->width, t < a->tokens ? t : 0);
    int64_t whole = a->width / PART, turn = whole > AHEAD / bytes ? whole - AHEAD / bytes : 0;
    /* A row ends where the stream's next one begins; after the last, those of the next call come. */
    const int64_t next = AHEAD + (first + 1 < step ? 0 : (a->rows - step) * a->row_bytes);
    for (int64_t at = 0; at < whole; at++) {
        const int64_t ahead = at < turn ? AHEAD : next;
        const char *p[MOST_ROWS];
        UNROLL
        for (int r = 0; r < rows; r++) {
            p[r] = row[r] + at * bytes;
            UNROLL
            for (int64_t line = 0; line < bytes; line += LINE)
                __builtin_prefetch(p[r] + ahead + line, 0, 2); /* into the second cache */
        }
        UNROLL
        for (int r = 0; r < rows; r += GROUP)
            add_parts(type, tokens, p + r, x, at, sums + r);
    }
    const int64_t row_bytes = a->width / BLOCK_ELEMENTS * block_bytes(type);
    if (row_bytes % bytes > 0)
        for (int r = 0; r < rows; r += GROUP) {
            char whole_part[GROUP][BLOCKS * sizeof(block_q8_0)] = {0};
            const char *p[GROUP];
            for (int g = 0; g < GROUP; g++) {
                p[g] = whole > 0 ? row[r + g] + row_bytes - bytes : whole_part[g];
                if (whole == 0)
                    memcpy(whole_part[g], row[r + g], (size_t)row_bytes);
            }
            add_parts(type, tokens, p, x, whole, sums + r);
        }
    for (int t = 0; t < tokens && t < a->tokens; t++)
        for (int r = 0; r < rows && first + r * step < a->rows; r++)
            a->z[t * a->z_stride + first + r * step] = fold(sums[r][t]);
}

/* Every stream of addresses walks rows that follow each other. */
ALWAYS_INLINE void dot_streams(dtype type, const int streams, const int tokens,
                               const cpu_dot_product *a) {
    const int step = (a->rows + streams - 1) / streams;
    for (int row = 0; row < step; row++)
        dot_rows(type, streams, tokens, a, row, step);
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "ops/cpu/dot_pairs.h"
#endif

/* Fewer rows at once where there are more tokens: their sums are to stay in registers. */
ALWAYS_INLINE void dot_all(dtype type, const cpu_dot_product *a) {
    enum { SOME = MOST_ROWS / 2 };
    if (a->tokens == 1)
        dot_streams(type, MOST_ROWS, 1, a);
#if defined(__ARM_FEATURE_MATMUL_INT8)
    else if (a->tokens == 2)
        dot_pairs(type, 1, a);
    else
        dot_pairs(type, TOKENS / 2, a);
#else
    else if (a->tokens == 2)
        dot_streams(type, SOME, 2, a);
    else
        dot_streams(type, SOME, TOKENS, a);
#endif
}

static void multiply(const cpu_dot_product *a) {
    FOR_BLOCK_TYPE(a->type, dot_all, a)
}

const cpu_dot PER_ISA(cpu_dot) = {
    .most_tokens = TOKENS, .quantise = quantise, .multiply = multiply};
