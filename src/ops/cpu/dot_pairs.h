/* Products of quantised activations with weights in blocks for two to four tokens, where the processor
 * multiplies matrices of bytes: for kernels_dot.c, on arm64.
 *
 * One instruction multiplies two rows of eight bytes with two tokens of as many and adds up four whole
 * sums, where a product of vectors leaves each sum in four parts: half of the instructions, and nothing
 * to fold at the end. A vector of sums is a square: row 0 with tokens 0 and 1, row 1 with the same. */
#ifndef OPS_CPU_DOT_PAIRS_H
#define OPS_CPU_DOT_PAIRS_H

enum { PAIRED_ROWS = 4, EIGHTS = 4 };

/* A block of two rows, or of two tokens: eight bytes of the one, and the same eight of the other. */
typedef struct paired {
    int8x16_t eight[EIGHTS];
} paired;

ALWAYS_INLINE paired pair(const vec_bytes a[2], const vec_bytes b[2]) {
    paired p;
    UNROLL
    for (int half = 0; half < 2; half++) {
        int64x2_t x = (int64x2_t)a[half], y = (int64x2_t)b[half];
        p.eight[2 * half] = (int8x16_t)vzip1q_s64(x, y);
        p.eight[2 * half + 1] = (int8x16_t)vzip2q_s64(x, y);
    }
    return p;
}

/* Two tokens, as a square has them: the same for each row. */
typedef struct paired_tokens {
    paired q;
    vec scale;
    vec_integers sum;
} paired_tokens;

ALWAYS_INLINE paired_tokens pair_tokens(const part *a, const part *b) {
    return (paired_tokens){pair(a->q, b->q),
                           {a->scale[0], b->scale[0], a->scale[0], b->scale[0]},
                           {a->sum[0], b->sum[0], a->sum[0], b->sum[0]}};
}

/* A scale of each row, as a square has them: the same for each token. */
ALWAYS_INLINE vec pair_scales(dtype type, const char *const p[2], const int place) {
    return (vec)vcombine_f32(vget_low_f32((float32x4_t)load_group(type, p, place)),
                             vget_low_f32((float32x4_t)load_group(type, p + 1, place)));
}

/* A block of two rows. */
ALWAYS_INLINE void add_pairs(dtype type, const int pairs, const char *const p[2],
                             const paired_tokens *tokens, vec *sums) {
    vec_bytes u[2][2];
    load_weights(type, SHIFT, p[0], u[0]);
    load_weights(type, SHIFT, p[1], u[1]);
    const paired rows = pair(u[0], u[1]);
    const vec d = pair_scales(type, p, 0);
    const vec m = has_minimum(type) ? pair_scales(type, p, 2) : d;
    UNROLL
    for (int t = 0; t < pairs; t++) {
        int32x4_t square = (int32x4_t)(tokens[t].sum * -offset_of(type));
        UNROLL
        for (int i = 0; i < EIGHTS; i++)
            square = vmmlaq_s32(square, rows.eight[i], tokens[t].q.eight[i]);
        sums[t] =
            fused(d * tokens[t].scale, __builtin_convertvector((vec_integers)square, vec), sums[t]);
        if (has_minimum(type))
            sums[t] =
                fused(m, tokens[t].scale * __builtin_convertvector(tokens[t].sum, vec), sums[t]);
    }
}

/* PAIRED_ROWS rows, `step` apart, for as many pairs of tokens; what is more than there are is computed and
 * not stored. */
ALWAYS_INLINE void pair_rows(dtype type, const int pairs, const cpu_dot_product *a, const int first,
                             const int step) {
    const int64_t bytes = block_bytes(type);
    const char *row[PAIRED_ROWS];
    const part *x[TOKENS];
    vec sums[PAIRED_ROWS / 2][TOKENS / 2] = {{{0}}};
    for (int r = 0; r < PAIRED_ROWS; r++) {
        int64_t index = first + r * step < a->rows ? first + r * step : a->rows - 1;
        row[r] = a->weights + index * a->row_bytes;
    }
    for (int t = 0; t < 2 * pairs; t++)
        x[t] = parts_of(a->x, a->width, t < a->tokens ? t : 0);
    for (int64_t at = 0; at < a->width / BLOCK_ELEMENTS; at++) {
        paired_tokens tokens[TOKENS / 2];
        UNROLL
        for (int t = 0; t < pairs; t++)
            tokens[t] = pair_tokens(x[2 * t] + at, x[2 * t + 1] + at);
        UNROLL
        for (int r = 0; r < PAIRED_ROWS; r += 2) {
            const char *const p[2] = {row[r] + at * bytes, row[r + 1] + at * bytes};
            __builtin_prefetch(p[0] + AHEAD);
            __builtin_prefetch(p[1] + AHEAD);
            add_pairs(type, pairs, p, tokens, sums[r / 2]);
        }
    }
    for (int t = 0; t < a->tokens; t++)
        for (int r = 0; r < PAIRED_ROWS && first + r * step < a->rows; r++)
            a->z[t * a->z_stride + first + r * step] = sums[r / 2][t / 2][r % 2 * 2 + t % 2];
}

ALWAYS_INLINE void dot_pairs(dtype type, const int pairs, const cpu_dot_product *a) {
    const int step = (a->rows + PAIRED_ROWS - 1) / PAIRED_ROWS;
    for (int row = 0; row < step; row++)
        pair_rows(type, pairs, a, row, step);
}

#endif
