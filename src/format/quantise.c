/* The search behind every quantised block.
 *
 * A block holds d q (+ m): q are small integers, or for iq4_nl entries of a table of levels; d and
 * m are f16. With d and m fixed the best q are the nearest ones; with q fixed the best d and m are
 * a weighted least-squares fit. Alternating the two descends, but only to the nearest valley: so
 * the descent begins at many scales, those that put the largest value of the block at various
 * levels, within the range of q and a little beyond it (clipping the largest value pays for finer
 * steps everywhere else), and with both signs where the levels are not symmetric. Among the starts
 * are whole levels, which find blocks that lie on a grid already, and what plain rounding takes, so
 * that the result is never worse.
 *
 * The rounding of d and m to f16 is part of every trial: an error is always that of the bytes that
 * would be stored. Values are scaled by a power of two to lie near 1, which is exact, so that
 * squares of tiny values do not vanish. Sixteen trials run at a time, one in each lane of a vector;
 * lanes do not meet before the best of them is chosen, and nothing is contracted, so that the bytes
 * do not depend on the machine. */
#include "format/quantise.h"

#include <math.h>

#include "base/blocks.h"

/* ---- Types ---- */

enum { LANES = 16, MOST_PASSES = 3 };

/* Where sixteen descents begin: the extreme value lies at levels from `first` to `last`, in equal
 * steps. With an offset, the range of the values is that many steps of q, and `anchor` says which
 * part of a range longer or shorter than that of q sticks out below. */
typedef struct starts {
    float first, last, anchor;
} starts;

typedef struct grid {
    float lowest, highest; /* q, as blocks.h multiplies it with d */
    bool offset;           /* d q + m */
    bool table;            /* q is one of block_levels, which are the starts of a pass too */
    float widest;          /* the level of the extreme value in plain rounding */
    int rounds;            /* of fitting; more improve little */
    int passes;
    starts pass[MOST_PASSES];
} grid;

static const grid *grid_of(dtype type) {
    static const grid q8_0 = {-127, 127, .widest = 127, 1, 1, {{127.75f, 124, 0}}};
    static const grid q5_0 = {-16, 15, .widest = 16, 2, 2, {{-18.5f, -11, 0}, {18.5f, 11, 0}}};
    static const grid q4_0 = {-8, 7, .widest = 8, 2, 2, {{-11.5f, -4, 0}, {11.5f, 4, 0}}};
    static const grid iq4_nl = {
        -127, 113, .table = true, .widest = 127, 1, 3, {{0}, {-155, -80, 0}, {145, 70, 0}}};
    static const grid q5_1 = {
        0, 31, .offset = true, .widest = 31, 3, 3, {{34, 19, 0}, {34, 19, 0.5f}, {34, 19, 1}}};
    static const grid q4_1 = {0,
                              15,
                              .offset = true,
                              .widest = 15,
                              2,
                              3,
                              {{17, 9.5f, 0}, {17, 9.5f, 0.5f}, {17, 9.5f, 1}}};
    switch (type) {
    case DTYPE_Q8_0:
        return &q8_0;
    case DTYPE_Q5_0:
        return &q5_0;
    case DTYPE_Q4_0:
        return &q4_0;
    case DTYPE_IQ4_NL:
        return &iq4_nl;
    case DTYPE_Q5_1:
        return &q5_1;
    default:
        return &q4_1;
    }
}

float quantise_limit(dtype type) {
    const float largest_f16 = 65504;
    const grid *g = grid_of(type);
    return g->offset ? largest_f16 : largest_f16 * g->widest;
}

/* ---- Trials ---- */

/* Helpers are inlined into one copy of the search for every instruction set. */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t lane_bits __attribute__((vector_size(LANES * 4)));

typedef struct problem {
    const grid *grid;
    float unit; /* x * unit are the values: a power of two */
    float x[BLOCK_ELEMENTS], w[BLOCK_ELEMENTS];
    float origin; /* sums are of x - origin; 0 without an offset */
    float sum_w, sum_wx;
    float sum_wxx;         /* without the origin */
    float lowest, highest; /* of x */
    float extreme;         /* the x furthest from 0 */
} problem;

/* Scales and offsets, f16 once multiplied with the unit, and what they come to. */
typedef struct trials {
    lanes d, m;
    lanes error;
    lanes sum_wq, sum_wqq, sum_wqx;
} trials;

typedef struct found {
    float d, m, error;
} found;

INLINE void choose(const lane_bits *mask, const lanes *yes, lanes *no_and_result) {
    *no_and_result = (lanes)(((lane_bits)*yes & *mask) | ((lane_bits)*no_and_result & ~*mask));
}

INLINE void nearest_in_table(const lanes *t, lanes *q) {
    *q = (lanes){0} + block_levels[0];
    for (int j = 1; j < 16; j++) {
        float border = 0.5f * (float)(block_levels[j - 1] + block_levels[j]);
        lanes step = (lanes){0} + (float)(block_levels[j] - block_levels[j - 1]);
        *q += (lanes)((lane_bits)step & (*t > border));
    }
}

/* The best q for d and m; `inverse` is 1 / d, or 0. */
INLINE void nearest_levels(const grid *g, const lanes *x, const lanes *m, const lanes *inverse,
                           lanes *q) {
    const float round = 12582912.0f; /* 1.5 * 2^23: sums near it have no bits behind the point */
    lanes t = (*x - *m) * *inverse, low = (lanes){0} + g->lowest, high = (lanes){0} + g->highest;
    if (g->table) {
        nearest_in_table(&t, q);
        return;
    }
    lane_bits below = ~(t > low);
    choose(&below, &low, &t);
    lane_bits above = t > high;
    choose(&above, &high, &t);
    *q = t + round - round;
}

INLINE void invert(const lanes *d, lanes *inverse) {
    *inverse = (lanes)((lane_bits)(1 / *d) & (*d != 0));
}

/* The errors of t->d and t->m with their best q, and the sums of those for a fit. */
INLINE void measure(const problem *p, trials *t) {
    lanes error = {0}, wq = {0}, wqq = {0}, wqx = {0}, inverse;
    invert(&t->d, &inverse);
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        lanes q, x = (lanes){0} + p->x[i];
        nearest_levels(p->grid, &x, &t->m, &inverse, &q);
        lanes miss = x - (q * t->d + t->m), weighted = q * p->w[i];
        error += miss * miss * p->w[i];
        wq += weighted;
        wqq += weighted * q;
        wqx += weighted * (p->x[i] - p->origin);
    }
    t->error = error;
    t->sum_wq = wq, t->sum_wqq = wqq, t->sum_wqx = wqx;
}

/* Values as they will be decoded: rounded to f16; NaN where they are too large for it. */
INLINE void round_stored(const problem *p, lanes *value) {
    lanes v = *value * p->unit, tiny = v + 0.75f - 0.75f; /* whole multiples of 2^-24 */
    lane_bits bits = (lane_bits)v, magnitude = bits & 0x7FFFFFFF;
    bits = (bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF;
    v = (lanes)(bits | ((magnitude >= 0x477FF000) & 0x7FC00000));
    lane_bits subnormal = magnitude < 0x38800000;
    choose(&subnormal, &tiny, &v);
    *value = v / p->unit;
}

/* ---- The search ---- */

/* The scales and offsets that suit the q of `t` best; NaN where there is nothing to fit. */
INLINE void fit(const problem *p, trials *t) {
    if (!p->grid->offset) {
        t->d = t->sum_wqx / t->sum_wqq;
        round_stored(p, &t->d);
        return;
    }
    t->d = (t->sum_wqx * p->sum_w - t->sum_wq * p->sum_wx) /
           (t->sum_wqq * p->sum_w - t->sum_wq * t->sum_wq);
    round_stored(p, &t->d);
    t->m = (p->sum_wx - t->d * t->sum_wq) / p->sum_w + p->origin;
    round_stored(p, &t->m);
}

INLINE void begin(const problem *p, int pass, trials *t) {
    const grid *g = p->grid;
    const starts *s = &g->pass[pass];
    lanes level = {0};
    for (int j = 0; j < LANES; j++)
        level[j] = g->table && pass == 0 ? (float)block_levels[j]
                                         : s->first + (s->last - s->first) * (float)j / (LANES - 1);
    *t = (trials){0};
    if (!g->offset) {
        t->d = p->extreme / level;
        round_stored(p, &t->d);
        lane_bits vanished = t->d == 0;
        lanes smallest = {0};
        smallest += 0x1p-24f / p->unit;
        choose(&vanished, &smallest, &t->d);
        return;
    }
    float range = p->highest - p->lowest;
    t->d = range / level;
    round_stored(p, &t->d);
    t->m = (range - t->d * g->highest) * s->anchor + p->lowest;
    round_stored(p, &t->m);
}

INLINE void keep_best(const trials *t, found *best) {
    for (int j = 0; j < LANES; j++)
        if (t->error[j] < best->error) /* not NaN */
            *best = (found){.d = t->d[j], .m = t->m[j], .error = t->error[j]};
}

INLINE found search_block(const problem *p) {
    found best = {.error = p->sum_wxx}; /* of a block of zeros */
    for (int pass = 0; pass < p->grid->passes && best.error > 0; pass++) {
        trials t;
        begin(p, pass, &t);
        measure(p, &t);
        keep_best(&t, &best);
        for (int round = 0; round < p->grid->rounds && best.error > 0; round++) {
            fit(p, &t);
            measure(p, &t);
            keep_best(&t, &best);
        }
    }
    return best;
}

static found search_generic(const problem *p) {
    return search_block(p);
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static found
search_avx512(const problem *p) {
    return search_block(p);
}

__attribute__((target("avx2"))) static found search_avx2(const problem *p) {
    return search_block(p);
}
#endif

static found search(const problem *p) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return search_avx512(p);
    if (__builtin_cpu_supports("avx2"))
        return search_avx2(p);
#endif
    return search_generic(p);
}

/* ---- Blocks ---- */

/* Index of the first value that is not within `limit`, or 32. */
static int first_outside(const float *values, float limit) {
    int i = 0;
    while (i < BLOCK_ELEMENTS && fabsf(values[i]) <= limit) /* false for NaN */
        i++;
    return i;
}

/* False: all values are 0, or nearer to 0 than to anything else that a block could give. */
static bool pose(problem *p, const float *values, const float *importance) {
    float largest = 0, most = 0;
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        largest = fmaxf(largest, fabsf(values[i]));
        most = fmaxf(most, importance ? importance[i] : 0);
    }
    if (largest < 0x1p-26f)
        return false;
    int exponent;
    frexpf(largest, &exponent);
    p->unit = ldexpf(1, exponent);
    p->lowest = INFINITY, p->highest = -INFINITY;
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        p->x[i] = values[i] / p->unit;
        p->w[i] = most > 0 ? importance[i] / most : 1;
        p->lowest = fminf(p->lowest, p->x[i]);
        p->highest = fmaxf(p->highest, p->x[i]);
    }
    p->extreme = -p->lowest > p->highest ? p->lowest : p->highest;
    p->origin = p->grid->offset ? p->lowest : 0;
    p->sum_w = p->sum_wx = p->sum_wxx = 0;
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        p->sum_w += p->w[i];
        p->sum_wx += p->w[i] * (p->x[i] - p->origin);
        p->sum_wxx += p->w[i] * p->x[i] * p->x[i];
    }
    return true;
}

/* Level q as the bits of `type`. */
static int code_of(dtype type, int q) {
    int code = 0;
    switch (type) {
    case DTYPE_Q4_0:
        return q + 8;
    case DTYPE_Q5_0:
        return q + 16;
    case DTYPE_IQ4_NL:
        while (code < 15 && block_levels[code] < q)
            code++;
        return code;
    default:
        return q;
    }
}

static void pack(dtype type, float d, float m, const int *q, uint8_t *block) {
    uint16_t half = float_to_f16(d);
    memcpy(block, &half, sizeof half), block += sizeof half;
    if (grid_of(type)->offset) {
        half = float_to_f16(m);
        memcpy(block, &half, sizeof half), block += sizeof half;
    }
    if (type == DTYPE_Q8_0) {
        for (int i = 0; i < BLOCK_ELEMENTS; i++)
            *block++ = (uint8_t)q[i];
        return;
    }
    int code[BLOCK_ELEMENTS];
    for (int i = 0; i < BLOCK_ELEMENTS; i++)
        code[i] = code_of(type, q[i]);
    for (int i = 0; (type == DTYPE_Q5_0 || type == DTYPE_Q5_1) && i < BLOCK_ELEMENTS; i += 8) {
        int high = 0;
        for (int j = 0; j < 8; j++)
            high |= (code[i + j] >> 4) << j;
        *block++ = (uint8_t)high;
    }
    for (int i = 0; i < 16; i++)
        *block++ = (uint8_t)((code[i] & 15) | (code[i + 16] & 15) << 4);
}

/* The best scale and offset; false where all is to be 0. */
static bool solve(problem *p, const float *values, const float *importance, found *best) {
    *best = (found){0};
    if (!pose(p, values, importance))
        return false;
    *best = search(p);
    return true;
}

static void encode(problem *p, dtype type, const float *values, const float *importance,
                   uint8_t *block) {
    int q[BLOCK_ELEMENTS];
    found best;
    bool some = solve(p, values, importance, &best);
    lanes d = (lanes){0} + best.d, m = (lanes){0} + best.m, inverse;
    invert(&d, &inverse);
    for (int i = 0; i < BLOCK_ELEMENTS; i += LANES) {
        lanes x = {0}, levels;
        if (some)
            memcpy(&x, p->x + i, sizeof x);
        nearest_levels(p->grid, &x, &m, &inverse, &levels);
        for (int j = 0; j < LANES; j++)
            q[i + j] = (int)levels[j];
    }
    pack(type, some ? best.d * p->unit : 0, some ? best.m * p->unit : 0, q, block);
}

int64_t quantise_row(dtype type, const float *values, const float *importance, int64_t count,
                     void *blocks) {
    problem p = {.grid = grid_of(type)};
    float limit = quantise_limit(type);
    uint8_t *block = blocks;
    for (int64_t first = 0; first < count; first += BLOCK_ELEMENTS, block += dtype_size(type)) {
        int outside = first_outside(values + first, limit);
        if (outside < BLOCK_ELEMENTS)
            return first + outside;
        encode(&p, type, values + first, importance ? importance + first : NULL, block);
    }
    return count;
}

/* ---- Carrying errors on ---- */

/* The level of a single value. */
static int nearest_level(const grid *g, float t) {
    if (!g->table)
        return (int)rintf(fminf(fmaxf(t, g->lowest), g->highest));
    int i = 0;
    while (i < 15 && 2 * t > (float)(block_levels[i] + block_levels[i + 1]))
        i++;
    return block_levels[i];
}

/* values[i] -= sum over j of error[j] * carry[j][i], for one block of them. */
static void make_good(const float *error, const float *carry, int64_t window, float *values) {
    float sum[BLOCK_ELEMENTS];
    memcpy(sum, values, sizeof sum);
    for (int j = 0; j < BLOCK_ELEMENTS; j++)
        for (int i = 0; i < BLOCK_ELEMENTS; i++)
            sum[i] -= error[j] * carry[j * window + i];
    memcpy(values, sum, sizeof sum);
}

/* Rounds the first block of `values`, of which `left` come before the end of its window; `carry` are
 * its rows, from its own columns on. */
static void encode_carrying(problem *p, dtype type, float *values, const float *importance,
                            const float *carry, int64_t window, int64_t left, uint8_t *block) {
    int q[BLOCK_ELEMENTS];
    float error[BLOCK_ELEMENTS], d = 0, m = 0;
    found best;
    if (solve(p, values, importance, &best))
        d = best.d * p->unit, m = best.m * p->unit;
    for (int j = 0; j < BLOCK_ELEMENTS; j++) {
        q[j] = nearest_level(p->grid, d != 0 ? (values[j] - m) / d : 0);
        error[j] = values[j] - (d * (float)q[j] + m);
        for (int k = j + 1; k < BLOCK_ELEMENTS; k++)
            values[k] -= error[j] * carry[j * window + k];
    }
    for (int64_t k = BLOCK_ELEMENTS; k < left; k += BLOCK_ELEMENTS)
        make_good(error, carry + k, window, values + k);
    pack(type, d, m, q, block);
}

int64_t quantise_row_carrying(dtype type, float *values, const quantise_columns *columns,
                              int64_t count, void *blocks) {
    problem p = {.grid = grid_of(type)};
    float limit = quantise_limit(type);
    uint8_t *block = blocks;
    for (int64_t i = 0; i < count; i += BLOCK_ELEMENTS) { /* before anything was carried */
        int outside = first_outside(values + i, limit);
        if (outside < BLOCK_ELEMENTS)
            return i + outside;
    }
    for (int64_t first = 0; first < count; first += BLOCK_ELEMENTS, block += dtype_size(type)) {
        int64_t end = (first / columns->window + 1) * columns->window;
        for (int j = 0; j < BLOCK_ELEMENTS; j++) /* what was carried may have led beyond */
            values[first + j] = fminf(fmaxf(values[first + j], -limit), limit);
        encode_carrying(&p, type, values + first, columns->importance + first,
                        columns->carry + first * columns->window + first % columns->window,
                        columns->window, (end < count ? end : count) - first, block);
    }
    return count;
}
