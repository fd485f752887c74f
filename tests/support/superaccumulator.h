/* Sums of floats and of products of two floats without any rounding error, in any order.
 *
 * The sum is one large fixed-point number: every float and every product of two floats is a multiple
 * of 2^-298 below 2^256, so 640 bits hold 2^64 of them exactly. It is kept in 20 limbs of 32 bits,
 * each in an int64_t whose upper half takes up carries that are passed on every 2^30 additions
 * (Kulisch's long accumulator). Rounding happens once, when the sum is asked for: it is the float or
 * double nearest to the true sum, ties to even. Infinities and NaN are counted beside it, and behave
 * as they do in a sum of floats. */
#ifndef SUPPORT_SUPERACCUMULATOR_H
#define SUPPORT_SUPERACCUMULATOR_H

#include <stdbool.h>
#include <stdint.h>

enum { SUPERACCUMULATOR_LIMBS = 20 };

/* All zero is the empty sum. */
typedef struct superaccumulator {
    int64_t limb[SUPERACCUMULATOR_LIMBS]; /* limb[i] counts 2^(32 i - 298) */
    int64_t additions;                    /* since carries were passed on */
    bool nan, plus_infinity, minus_infinity;
} superaccumulator;

void superaccumulator_add(superaccumulator *, float x);
void superaccumulator_add_product(superaccumulator *, float x, float y);
/* sum += other: what a thread or a part of a sum has collected. */
void superaccumulator_merge(superaccumulator *sum, const superaccumulator *other);

/* The nearest float or double; a sum of 0 is +0. */
float superaccumulator_float(const superaccumulator *);
double superaccumulator_double(const superaccumulator *);
/* Whether two sums are the same number, exactly. */
bool superaccumulator_equal(const superaccumulator *, const superaccumulator *);

#endif
