/* The vector kernels of the mLSTM in two-float arithmetic (ops/two_float.h): what runs per element of
 * a state, whose every number is a pair in two arrays, high and low.
 *
 * kernels_compensated.c is compiled once for every instruction set. All operations are elementwise in
 * a fixed order, so that every instruction set gives the same bits. */
#ifndef OPS_CPU_COMPENSATED_H
#define OPS_CPU_COMPENSATED_H

#include <stdint.h>

#include "ops/two_float.h"

/* state = keep state + sum over tokens l of (write[l] x[l]) y[l]^T, tokens with write 0 left out.
 * With keep 1 and nothing written the state keeps its bits. */
typedef struct cpu_compensated_update {
    float *high, *low; /* [rows][columns] */
    int64_t rows, columns;
    two_float keep;
    int tokens;
    const float *write; /* [tokens] */
    const float *x;     /* [tokens][rows]; NULL: 1 */
    int64_t x_stride;
    const float *y; /* [tokens][columns] */
    int64_t y_stride;
} cpu_compensated_update;

/* h = (inter q^T C + sum over tokens l of p[l] v[l]) / denominator, tokens with p 0 left out. */
typedef struct cpu_compensated_read {
    const float *high, *low; /* C [rows][columns] */
    int64_t rows, columns;
    const float *q; /* [rows] */
    two_float inter, denominator;
    int tokens;
    const float *p; /* [tokens] */
    const float *v; /* [tokens][columns] */
    int64_t v_stride;
    float *sum_high, *sum_low; /* [columns]: work memory */
    float *h;                  /* [columns] */
} cpu_compensated_read;

/* out = a x + b y + c z, x and y pairs; what has weight 0 is left out. */
typedef struct cpu_compensated_sum {
    int64_t count;
    two_float a, b, c;
    const float *x_high, *x_low, *y_high, *y_low, *z; /* [count] */
    float *out;                                       /* [count] */
} cpu_compensated_sum;

typedef struct cpu_compensated {
    void (*update)(const cpu_compensated_update *);
    void (*read)(const cpu_compensated_read *);
    /* sum of x y, and of x times pairs */
    two_float (*dot)(const float *x, const float *y, int64_t count);
    two_float (*dot_pairs)(const float *x, const float *high, const float *low, int64_t count);
    /* pairs = keep pairs + weight y; weight 0 is left out, and keep 1 keeps their bits */
    void (*blend)(float *high, float *low, int64_t count, two_float keep, two_float weight,
                  const float *y);
    /* sums += weight pairs */
    void (*add_pairs)(float *sum_high, float *sum_low, int64_t count, float weight,
                      const float *high, const float *low);
    void (*sum)(const cpu_compensated_sum *);
} cpu_compensated;

#endif
