/* States in two-float arithmetic. The loops over columns and lanes are plain, for the compiler to make
 * vectors of; nothing depends on whether and how it does. */
#include "ops/cpu/compensated.h"

#include "ops/cpu/vector.h"

enum { DOT_LANES = 16 }; /* for every instruction set */

static void decay_row(float *restrict high, float *restrict low, int64_t columns, two_float keep) {
    for (int64_t e = 0; e < columns; e++) {
        two_float c = two_float_multiply(two_float_make(high[e], low[e]), keep);
        high[e] = c.high;
        low[e] = c.low;
    }
}

static void add_row(float *restrict high, float *restrict low, int64_t columns, float weight,
                    const float *restrict y) {
    for (int64_t e = 0; e < columns; e++) {
        two_float c = two_float_add_product(two_float_make(high[e], low[e]), weight, y[e]);
        high[e] = c.high;
        low[e] = c.low;
    }
}

static void add_pairs(float *restrict sum_high, float *restrict sum_low, int64_t columns,
                      float weight, const float *restrict high, const float *restrict low) {
    for (int64_t e = 0; e < columns; e++) {
        two_float c = two_float_multiply_float(two_float_make(high[e], low[e]), weight);
        two_float sum = two_float_accumulate(two_float_make(sum_high[e], sum_low[e]), c);
        sum_high[e] = sum.high;
        sum_low[e] = sum.low;
    }
}

static void update_state(const cpu_compensated_update *a) {
    for (int64_t d = 0; d < a->rows; d++) {
        float *high = a->high + d * a->columns, *low = a->low + d * a->columns;
        if (a->keep.high != 1 || a->keep.low != 0)
            decay_row(high, low, a->columns, a->keep);
        for (int l = 0; l < a->tokens; l++)
            if (a->write[l] != 0)
                add_row(high, low, a->columns,
                        a->x ? a->write[l] * a->x[l * a->x_stride + d] : a->write[l],
                        a->y + l * a->y_stride);
    }
}

static void read_state(const cpu_compensated_read *a) {
    for (int64_t e = 0; e < a->columns; e++)
        a->sum_high[e] = a->sum_low[e] = 0;
    if (a->inter.high != 0)
        for (int64_t d = 0; d < a->rows; d++)
            add_pairs(a->sum_high, a->sum_low, a->columns, a->q[d], a->high + d * a->columns,
                      a->low + d * a->columns);
    decay_row(a->sum_high, a->sum_low, a->columns, a->inter);
    for (int l = 0; l < a->tokens; l++)
        if (a->p[l] != 0)
            add_row(a->sum_high, a->sum_low, a->columns, a->p[l], a->v + l * a->v_stride);
    for (int64_t e = 0; e < a->columns; e++)
        a->h[e] = two_float_quotient(two_float_make(a->sum_high[e], a->sum_low[e]), a->denominator);
}

static two_float dot_pairs(const float *x, const float *high, const float *low, int64_t count) {
    float sum_high[DOT_LANES] = {0}, sum_low[DOT_LANES] = {0};
    int64_t whole = count - count % DOT_LANES;
    for (int64_t i = 0; i < whole; i += DOT_LANES)
        for (int j = 0; j < DOT_LANES; j++) {
            two_float y = two_float_make(high[i + j], low[i + j]);
            two_float sum = two_float_accumulate(two_float_make(sum_high[j], sum_low[j]),
                                                 two_float_multiply_float(y, x[i + j]));
            sum_high[j] = sum.high;
            sum_low[j] = sum.low;
        }
    two_float sum = {0, 0};
    for (int64_t i = whole; i < count; i++)
        sum = two_float_accumulate(sum,
                                   two_float_multiply_float(two_float_make(high[i], low[i]), x[i]));
    for (int j = 0; j < DOT_LANES; j++)
        sum = two_float_accumulate(sum, two_float_make(sum_high[j], sum_low[j]));
    return sum;
}

static two_float dot(const float *x, const float *y, int64_t count) {
    float sum_high[DOT_LANES] = {0}, sum_low[DOT_LANES] = {0};
    int64_t whole = count - count % DOT_LANES;
    for (int64_t i = 0; i < whole; i += DOT_LANES)
        for (int j = 0; j < DOT_LANES; j++) {
            two_float sum =
                two_float_add_product(two_float_make(sum_high[j], sum_low[j]), x[i + j], y[i + j]);
            sum_high[j] = sum.high;
            sum_low[j] = sum.low;
        }
    two_float sum = {0, 0};
    for (int64_t i = whole; i < count; i++)
        sum = two_float_add_product(sum, x[i], y[i]);
    for (int j = 0; j < DOT_LANES; j++)
        sum = two_float_accumulate(sum, two_float_make(sum_high[j], sum_low[j]));
    return sum;
}

static void blend(float *restrict high, float *restrict low, int64_t count, two_float keep,
                  two_float weight, const float *restrict y) {
    if (keep.high != 1 || keep.low != 0)
        decay_row(high, low, count, keep);
    for (int64_t e = 0; weight.high != 0 && e < count; e++) {
        two_float sum = two_float_accumulate(two_float_make(high[e], low[e]),
                                             two_float_multiply_float(weight, y[e]));
        high[e] = sum.high;
        low[e] = sum.low;
    }
}

static two_float plus(two_float sum, two_float weight, float high, float low) {
    return two_float_accumulate(sum, two_float_multiply(two_float_make(high, low), weight));
}

static void sum_rows(const cpu_compensated_sum *a) {
    for (int64_t e = 0; e < a->count; e++) {
        two_float sum = {0, 0};
        if (a->a.high != 0)
            sum = plus(sum, a->a, a->x_high[e], a->x_low[e]);
        if (a->b.high != 0)
            sum = plus(sum, a->b, a->y_high[e], a->y_low[e]);
        if (a->c.high != 0)
            sum = plus(sum, a->c, a->z[e], 0);
        a->out[e] = sum.high;
    }
}

const cpu_compensated PER_ISA(cpu_compensated) = {.update = update_state,
                                                  .read = read_state,
                                                  .dot = dot,
                                                  .dot_pairs = dot_pairs,
                                                  .blend = blend,
                                                  .add_pairs = add_pairs,
                                                  .sum = sum_rows};
