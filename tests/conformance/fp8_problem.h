/* Products of fp8: a problem, and what its outputs are in double (test_fp8.c). */
#ifndef TESTS_CONFORMANCE_FP8_PROBLEM_H
#define TESTS_CONFORMANCE_FP8_PROBLEM_H

#include "conformance/side.h"

enum ending { PLAIN, CAPPED, ADDED, GATED, ENDINGS };
#define FP8_CAP 3.0 /* of CAPPED */

typedef struct fp8_problem {
    int64_t tokens, rows, width;
    enum ending ending;
    dtype weight;
    bool normed, biased;
    bool
        narrow; /* between ops: what is added to the residual stream comes in bf16, all else goes out so */
} fp8_problem;

typedef struct fp8_operands {
    ops_tensor x, norm, weight[2], bias[2], residual, out;
} fp8_operands;

/* A product of one matrix with its bias, and the sum of the magnitudes of what was added. */
typedef struct fp8_product {
    double *z, *size; /* [tokens][rows], to be freed */
} fp8_product;
/* That of weight `which`; fp8: x [tokens][width] is rounded already, by these scales [tokens], and the weights will be. */
fp8_product fp8_multiply(side *s, const fp8_problem *p, const fp8_operands *o, int which,
                         const double *x, const float *x_scale, bool fp8);

/* The outputs [tokens][rows], of factors that are rounded to e4m3 or not, and in `room` how far errors of the sums of `part` of
 * their sizes may take them. To be freed. */
double *fp8_expected(side *s, const fp8_problem *p, const fp8_operands *o, bool fp8, double part,
                     double *room);

#endif
