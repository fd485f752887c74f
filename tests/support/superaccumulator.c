/* The exact sum: a float is taken apart into an integer and a power of two, the integer is shifted to
 * its place and added limb by limb. */
#include "support/superaccumulator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOWEST = -298, LIMB_BITS = 32, MOST_ADDITIONS = 1 << 30 };

/* ---- Adding ---- */

/* Brings all limbs but the last into [0, 2^32), which makes the limbs a function of the sum. */
static void pass_carries(superaccumulator *s) {
    int64_t carry = 0;
    for (int i = 0; i < SUPERACCUMULATOR_LIMBS - 1; i++) {
        int64_t value = s->limb[i] + carry;
        s->limb[i] = value & 0xffffffff;
        carry = (value - s->limb[i]) / ((int64_t)1 << LIMB_BITS);
    }
    s->limb[SUPERACCUMULATOR_LIMBS - 1] += carry;
    s->additions = 0;
}

/* sum += integer * 2^exponent, or -=. The largest exponent, 2 * 104, is in limb 15. */
static void add_integer(superaccumulator *s, bool negative, uint64_t integer, int exponent) {
    int place = exponent - LOWEST, limb = place / LIMB_BITS, shift = place % LIMB_BITS;
    uint64_t low = integer << shift, high = shift ? integer >> (64 - shift) : 0;
    const int64_t part[3] = {(int64_t)(low & 0xffffffff), (int64_t)(low >> LIMB_BITS),
                             (int64_t)high};
    for (int i = 0; i < 3; i++)
        s->limb[limb + i] += negative ? -part[i] : part[i];
    if (++s->additions == MOST_ADDITIONS)
        pass_carries(s);
}

static void add_special(superaccumulator *s, float x) {
    s->nan = s->nan || isnan(x);
    s->plus_infinity = s->plus_infinity || (isinf(x) && x > 0);
    s->minus_infinity = s->minus_infinity || (isinf(x) && x < 0);
}

/* |x| = integer * 2^exponent, integer < 2^24, exponent >= -149 */
static uint64_t take_apart(float x, int *exponent) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t field = bits >> 23 & 0xff, fraction = bits & 0x7fffff;
    *exponent = (field ? (int)field : 1) - 150;
    return field ? fraction | 0x800000 : fraction;
}

void superaccumulator_add(superaccumulator *s, float x) {
    if (!isfinite(x)) {
        add_special(s, x);
        return;
    }
    int exponent;
    uint64_t integer = take_apart(x, &exponent);
    add_integer(s, signbit(x), integer, exponent);
}

void superaccumulator_add_product(superaccumulator *s, float x, float y) {
    if (!isfinite(x) || !isfinite(y)) {
        add_special(s, x * y);
        return;
    }
    int x_exponent, y_exponent;
    uint64_t integer = take_apart(x, &x_exponent) * take_apart(y, &y_exponent);
    add_integer(s, signbit(x) != signbit(y), integer, x_exponent + y_exponent);
}

void superaccumulator_merge(superaccumulator *sum, const superaccumulator *other) {
    superaccumulator passed = *other;
    pass_carries(&passed);
    pass_carries(sum);
    for (int i = 0; i < SUPERACCUMULATOR_LIMBS; i++)
        sum->limb[i] += passed.limb[i];
    sum->additions = 1;
    sum->nan = sum->nan || other->nan;
    sum->plus_infinity = sum->plus_infinity || other->plus_infinity;
    sum->minus_infinity = sum->minus_infinity || other->minus_infinity;
}

bool superaccumulator_equal(const superaccumulator *a, const superaccumulator *b) {
    superaccumulator x = *a, y = *b;
    pass_carries(&x);
    pass_carries(&y);
    return memcmp(x.limb, y.limb, sizeof x.limb) == 0 && x.nan == y.nan &&
           x.plus_infinity == y.plus_infinity && x.minus_infinity == y.minus_infinity;
}

/* ---- Rounding ---- */

/* The magnitude of the sum as plain 32-bit limbs; returns whether it is negative. */
static bool magnitude(const superaccumulator *s, uint32_t *limbs) {
    superaccumulator passed = *s;
    pass_carries(&passed);
    bool negative = passed.limb[SUPERACCUMULATOR_LIMBS - 1] < 0;
    if (negative) {
        for (int i = 0; i < SUPERACCUMULATOR_LIMBS; i++)
            passed.limb[i] = -passed.limb[i];
        pass_carries(&passed);
    }
    for (int i = 0; i < SUPERACCUMULATOR_LIMBS; i++)
        limbs[i] = (uint32_t)passed.limb[i];
    return negative;
}

static bool bit(const uint32_t *limbs, int at) {
    return at >= 0 && limbs[at / LIMB_BITS] >> at % LIMB_BITS & 1;
}

static bool any_bit_below(const uint32_t *limbs, int at) {
    for (int i = 0; i < at; i++)
        if (bit(limbs, i))
            return true;
    return false;
}

/* The nearest number of `digits` bits that is a multiple of 2^lowest, as a double, which holds it
 * exactly. */
static double rounded(const superaccumulator *s, int digits, int lowest) {
    if (s->nan || (s->plus_infinity && s->minus_infinity))
        return NAN;
    if (s->plus_infinity || s->minus_infinity)
        return s->plus_infinity ? INFINITY : -INFINITY;
    uint32_t limbs[SUPERACCUMULATOR_LIMBS];
    bool negative = magnitude(s, limbs);
    int top = SUPERACCUMULATOR_LIMBS * LIMB_BITS - 1;
    while (top >= 0 && !bit(limbs, top))
        top--;
    int last = top - digits + 1; /* the place of the last digit that stays */
    if (last < lowest - LOWEST)
        last = lowest - LOWEST;
    uint64_t integer = 0;
    for (int i = top; i >= last; i--)
        integer = integer << 1 | bit(limbs, i);
    if (bit(limbs, last - 1) && ((integer & 1) || any_bit_below(limbs, last - 1)))
        integer++;
    double value = ldexp((double)integer, last + LOWEST);
    return negative ? -value : value;
}

float superaccumulator_float(const superaccumulator *s) {
    double value = rounded(s, 24, -149);
    return fabs(value) > 3.4028234663852886e38 ? (value > 0 ? INFINITY : -INFINITY) : (float)value;
}

double superaccumulator_double(const superaccumulator *s) {
    return rounded(s, 53, -1074);
}
