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
 * do not depend on the machine.
 *
 * A block whose errors are carried on (quantise.h) is searched in the same way: every trial carries
 * its own errors from value to value. */
#include "format/quantise_search.h"

#include <math.h>

/* ---- Types ---- */

const search_grid *search_grid_of(dtype type) {
    static const search_grid q8_0 = {-127, 127, .widest = 127, 1, 1, {{127.75f, 124, 0}}};
    static const search_grid q5_0 = {-16, 15, .widest = 16,
                                     2,   2,  {{-18.5f, -11, 0}, {18.5f, 11, 0}}};
    static const search_grid q4_0 = {-8, 7, .widest = 8, 2, 2, {{-11.5f, -4, 0}, {11.5f, 4, 0}}};
    static const search_grid iq4_nl = {
        -127, 113, .table = true, .widest = 127, 1, 3, {{0}, {-155, -80, 0}, {145, 70, 0}}};
    static const search_grid q5_1 = {
        0, 31, .offset = true, .widest = 31, 3, 3, {{34, 19, 0}, {34, 19, 0.5f}, {34, 19, 1}}};
    static const search_grid q4_1 = {0,
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

/* ---- Trials ---- */

/* Helpers are inlined into one copy of the search for every instruction set. */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(SEARCH_LANES * 4)));
typedef int32_t lane_bits __attribute__((vector_size(SEARCH_LANES * 4)));

typedef struct problem {
    const search_grid *grid;
    float unit; /* x * unit are the values: a power of two */
    float x[BLOCK_ELEMENTS], w[BLOCK_ELEMENTS];
    float lowest, highest; /* of x */
    float extreme;         /* the x furthest from 0 */
    float origin;          /* sums are of x - origin; 0 without an offset */

    /* What is carried on within the block. Errors after it are linear in what they were before: if e
     * are the errors of the values as given, those that count are r with r (1 + carry) = e. So a fit
     * of d and m is one of x, q and 1 after the same change. */
    const float *carry; /* NULL: none, and changed_x is x - origin, changed_one 1 */
    int64_t stride;
    float changed_x[BLOCK_ELEMENTS], changed_one[BLOCK_ELEMENTS];
    float sum_w, sum_wx; /* of changed_one^2, and of it times changed_x */
    float sum_wxx;       /* without the origin */
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
INLINE void nearest_levels(const search_grid *g, const lanes *x, const lanes *m,
                           const lanes *inverse, lanes *q) {
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
INLINE void measure_plain(const problem *p, trials *t) {
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

/* The same, with the error of each value carried on to those after it. */
INLINE void measure_carrying(const problem *p, trials *t) {
    lanes error = {0}, wq = {0}, wqq = {0}, wqx = {0}, inverse;
    lanes miss[BLOCK_ELEMENTS] = {{0}}, changed_q[BLOCK_ELEMENTS] = {{0}};
    invert(&t->d, &inverse);
    for (int j = 0; j < BLOCK_ELEMENTS; j++) {
        lanes q, x = (lanes){0} + p->x[j], carried = {0};
        for (int i = 0; i < j; i++) {
            float part = p->carry[i * p->stride + j];
            x -= miss[i] * part;
            carried += changed_q[i] * part;
        }
        nearest_levels(p->grid, &x, &t->m, &inverse, &q);
        miss[j] = x - (q * t->d + t->m);
        changed_q[j] = q - carried;
        lanes weighted = changed_q[j] * p->w[j];
        error += miss[j] * miss[j] * p->w[j];
        wq += weighted * p->changed_one[j];
        wqq += weighted * changed_q[j];
        wqx += weighted * p->changed_x[j];
    }
    t->error = error;
    t->sum_wq = wq, t->sum_wqq = wqq, t->sum_wqx = wqx;
}

INLINE void measure(const problem *p, trials *t) {
    if (p->carry)
        measure_carrying(p, t);
    else
        measure_plain(p, t);
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
    const search_grid *g = p->grid;
    const search_starts *s = &g->pass[pass];
    lanes level = {0};
    for (int j = 0; j < SEARCH_LANES; j++)
        level[j] = g->table && pass == 0
                       ? (float)block_levels[j]
                       : s->first + (s->last - s->first) * (float)j / (SEARCH_LANES - 1);
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
    for (int j = 0; j < SEARCH_LANES; j++)
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

/* ---- Posing the problem ---- */

/* Values of a block as its errors are changed by what is carried on. */
static void change(const problem *p, const float *values, float *changed) {
    for (int j = 0; j < BLOCK_ELEMENTS; j++) {
        changed[j] = values[j];
        for (int i = 0; i < j && p->carry; i++)
            changed[j] -= changed[i] * p->carry[i * p->stride + j];
    }
}

static void sum_up(problem *p) {
    float from_origin[BLOCK_ELEMENTS], one[BLOCK_ELEMENTS], x[BLOCK_ELEMENTS];
    for (int i = 0; i < BLOCK_ELEMENTS; i++)
        from_origin[i] = p->x[i] - p->origin, one[i] = 1;
    change(p, p->x, x);
    change(p, from_origin, p->changed_x);
    change(p, one, p->changed_one);
    p->sum_w = p->sum_wx = p->sum_wxx = 0;
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        p->sum_w += p->w[i] * p->changed_one[i] * p->changed_one[i];
        p->sum_wx += p->w[i] * p->changed_one[i] * p->changed_x[i];
        p->sum_wxx += p->w[i] * x[i] * x[i];
    }
}

/* False: all values are 0, or nearer to 0 than to anything else that a block could give. */
static bool pose(const search_problem *from, problem *p) {
    float largest = 0, most = 0;
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        largest = fmaxf(largest, fabsf(from->values[i]));
        most = fmaxf(most, from->importance ? from->importance[i] : 0);
    }
    if (largest < 0x1p-26f)
        return false;
    int exponent;
    frexpf(largest, &exponent);
    p->unit = ldexpf(1, exponent);
    p->lowest = INFINITY, p->highest = -INFINITY;
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        p->x[i] = from->values[i] / p->unit;
        p->w[i] = most > 0 ? from->importance[i] / most : 1;
        p->lowest = fminf(p->lowest, p->x[i]);
        p->highest = fmaxf(p->highest, p->x[i]);
    }
    p->extreme = -p->lowest > p->highest ? p->lowest : p->highest;
    p->origin = p->grid->offset ? p->lowest : 0;
    p->carry = from->carry, p->stride = from->stride;
    sum_up(p);
    return true;
}

bool search_block_scale(const search_grid *grid, const search_problem *from, search_scale *scale) {
    problem p = {.grid = grid};
    *scale = (search_scale){.unit = 1};
    if (!pose(from, &p))
        return false;
    found best = search(&p);
    *scale = (search_scale){.unit = p.unit, .d = best.d, .m = best.m};
    return true;
}

float search_nearest(const search_grid *g, float t) {
    if (!g->table)
        return rintf(fminf(fmaxf(t, g->lowest), g->highest));
    int i = 0;
    while (i < 15 && 2 * t > (float)(block_levels[i] + block_levels[i + 1]))
        i++;
    return block_levels[i];
}
