/* The exact sum against 128-bit integers, whose conversion to float and double rounds correctly; the
 * order and the cut of a sum; cancellation; the ends of the range; ties. */
#include <float.h>
#include <math.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/random.h"
#include "support/superaccumulator.h"
#include "support/support.h"

enum { TERMS = 1000 };
static const uint64_t seed = 20;

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Any finite float: every pattern is as likely as any other, so most are very large or small. */
static float any_float(uint64_t stream, uint64_t index) {
    uint32_t bits = (uint32_t)random_bits(seed, stream, index);
    return float_of_bits((bits >> 23 & 0xff) == 0xff ? bits & ~(1u << 30) : bits);
}

static void subtract_product(superaccumulator *s, float x, float y) {
    superaccumulator_add_product(s, -x, y);
}

/* The sum of (x 2^shift) (y 2^shift), x and y integers of 24 bits times a small power of two. */
static void check_against_integers(uint64_t stream, int terms, int shift) {
    superaccumulator s = {0};
    __int128 exact = 0;
    for (int i = 0; i < terms; i++) {
        uint64_t r = random_bits(seed, stream, (uint64_t)i);
        int64_t x = (int64_t)(r & 0xffffff) << (r >> 48 & 7);
        int64_t y = (int64_t)(r >> 24 & 0xffffff) << (r >> 51 & 7);
        x = r >> 63 ? -x : x;
        exact += (__int128)x * y;
        superaccumulator_add_product(&s, ldexpf((float)x, shift), ldexpf((float)y, shift));
    }
    assert_true(superaccumulator_double(&s) == ldexp((double)exact, 2 * shift));
    assert_true(superaccumulator_float(&s) == ldexpf((float)exact, 2 * shift));
}

static void test_integers(void **state) {
    (void)state;
    for (uint64_t stream = 0; stream < 500; stream++)
        check_against_integers(stream, 1 + (int)(stream % 50) * 4, (int)(stream % 60) - 40);
}

/* Sums of patterns from the whole range are the same in any order and from any parts. */
static void test_order(void **state) {
    (void)state;
    superaccumulator forward = {0}, backward = {0}, strided = {0}, parts[7];
    memset(parts, 0, sizeof parts);
    for (uint64_t i = 0; i < TERMS; i++) {
        uint64_t j = TERMS - 1 - i, k = i * 617 % TERMS;
        superaccumulator_add_product(&forward, any_float(1, i), any_float(2, i));
        superaccumulator_add_product(&backward, any_float(1, j), any_float(2, j));
        superaccumulator_add_product(&strided, any_float(1, k), any_float(2, k));
        superaccumulator_add_product(&parts[i % 7], any_float(1, i), any_float(2, i));
    }
    for (int p = 1; p < 7; p++)
        superaccumulator_merge(&parts[0], &parts[p]);
    assert_true(superaccumulator_equal(&forward, &backward));
    assert_true(superaccumulator_equal(&forward, &strided));
    assert_true(superaccumulator_equal(&forward, &parts[0]));
    assert_true(superaccumulator_double(&forward) == superaccumulator_double(&backward));
    superaccumulator_add_product(&backward, FLT_TRUE_MIN, FLT_TRUE_MIN);
    assert_false(superaccumulator_equal(&forward, &backward));
}

/* What was added and taken away in another order leaves what is left, however small it is. */
static void test_cancellation(void **state) {
    (void)state;
    const superaccumulator empty = {0};
    superaccumulator s = {0};
    for (uint64_t i = 0; i < TERMS; i++)
        superaccumulator_add_product(&s, any_float(3, i), any_float(4, i));
    superaccumulator_add_product(&s, FLT_TRUE_MIN, FLT_TRUE_MIN);
    for (uint64_t i = TERMS; i-- > 0;)
        subtract_product(&s, any_float(3, i), any_float(4, i));
    assert_true(superaccumulator_double(&s) == ldexp(1, -298));
    subtract_product(&s, FLT_TRUE_MIN, FLT_TRUE_MIN);
    assert_true(superaccumulator_equal(&s, &empty));
    assert_true(superaccumulator_double(&s) == 0 && !signbit(superaccumulator_double(&s)));

    for (int i = 0; i < 1000; i++)
        superaccumulator_add_product(&s, FLT_MAX, FLT_MAX);
    superaccumulator_add(&s, 1);
    for (int i = 0; i < 1000; i++)
        subtract_product(&s, FLT_MAX, FLT_MAX);
    assert_true(superaccumulator_float(&s) == 1);
}

static float rounded_sum(int count, const float *terms) {
    superaccumulator s = {0}, negative = {0};
    for (int i = 0; i < count; i++) {
        superaccumulator_add(&s, terms[i]);
        superaccumulator_add(&negative, -terms[i]);
    }
    assert_true(superaccumulator_float(&negative) == -superaccumulator_float(&s));
    return superaccumulator_float(&s);
}

static void test_ties(void **state) {
    (void)state;
    const float u = ldexpf(1, -24), least = FLT_TRUE_MIN, ulp = ldexpf(1, 104);
    assert_true(rounded_sum(2, (float[]){1, u}) == 1);
    assert_true(rounded_sum(3, (float[]){1, u, least}) == 1 + 2 * u);
    assert_true(rounded_sum(3, (float[]){1, u, -least}) == 1);
    assert_true(rounded_sum(2, (float[]){1 + 2 * u, u}) == 1 + 4 * u);
    assert_true(rounded_sum(2, (float[]){2, -u}) == 2);
    assert_true(rounded_sum(2, (float[]){FLT_MAX, ulp / 2}) == INFINITY);
    assert_true(rounded_sum(3, (float[]){FLT_MAX, ulp / 2, -least}) == FLT_MAX);

    /* halves of the smallest float, and the border to the normal ones */
    superaccumulator s = {0};
    superaccumulator_add_product(&s, least, 0.5f);
    assert_true(superaccumulator_float(&s) == 0);
    superaccumulator_add(&s, least);
    assert_true(superaccumulator_float(&s) == 2 * least);
    superaccumulator_add_product(&s, -least, 0.5f);
    assert_true(superaccumulator_float(&s) == least);
    superaccumulator_add(&s, FLT_MIN - 2 * least);
    superaccumulator_add_product(&s, least, 0.5f);
    assert_true(superaccumulator_float(&s) == FLT_MIN);

    superaccumulator d = {0};
    superaccumulator_add(&d, 1);
    superaccumulator_add_product(&d, ldexpf(1, -30), ldexpf(1, -23));
    assert_true(superaccumulator_double(&d) == 1);
    superaccumulator_add_product(&d, least, least);
    assert_true(superaccumulator_double(&d) == 1 + DBL_EPSILON);
}

static void test_infinities(void **state) {
    (void)state;
    superaccumulator s = {0};
    superaccumulator_add(&s, INFINITY);
    superaccumulator_add_product(&s, -FLT_MAX, FLT_MAX);
    assert_true(superaccumulator_float(&s) == INFINITY);
    superaccumulator_add_product(&s, INFINITY, -2);
    assert_true(isnan(superaccumulator_double(&s)));
    superaccumulator n = {0}, m = {0};
    superaccumulator_add_product(&n, 0, INFINITY);
    assert_true(isnan(superaccumulator_float(&n)));
    superaccumulator_merge(&m, &n);
    assert_true(isnan(superaccumulator_float(&m)));
}

/* The limbs hold 2^30 additions, then carries are passed on: the largest terms on both sides of it,
 * and limbs as full as they can be. */
static void test_carries(void **state) {
    (void)state;
    superaccumulator s = {0}, expected = {0};
    for (int i = 0; i < SUPERACCUMULATOR_LIMBS - 1; i++)
        s.limb[i] = expected.limb[i] = (INT64_C(1) << 62) - (INT64_C(1) << 40);
    s.additions = (1 << 30) - 100;
    for (int i = 0; i < 200; i++) {
        superaccumulator_add_product(&s, FLT_MAX, FLT_MAX);
        superaccumulator_add_product(&expected, FLT_MAX, FLT_MAX);
    }
    assert_in_range(s.additions, 1, 300);
    assert_true(superaccumulator_equal(&s, &expected));
    assert_true(superaccumulator_double(&s) == superaccumulator_double(&expected));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),     cmocka_unit_test(test_order),
        cmocka_unit_test(test_cancellation), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_infinities),   cmocka_unit_test(test_carries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
