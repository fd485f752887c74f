/* Two-float arithmetic against exact sums (superaccumulator): the transforms are error-free, the
 * operations on pairs within their bounds; exp and log sigmoid against long double. */
#include <float.h>
#include <math.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/random.h"
#include "ops/two_float.h"
#include "support/superaccumulator.h"
#include "support/support.h"

static const double u = 0x1p-24;
static const uint64_t seed = 6;

/* ---- Numbers ---- */

/* A float of random sign and fraction with an exponent in [-range, range]; `stream` names it. */
static float draw(uint64_t stream, uint64_t index, int range) {
    uint64_t r = random_bits(seed, stream, index);
    int exponent = (int)(r >> 32 & 0xffff) % (2 * range + 1) - range;
    float value = ldexpf(1 + (float)(r & 0x7fffff) * 0x1p-23f, exponent);
    return r >> 63 ? -value : value;
}

/* A pair whose low part is at most half a unit of the last place of its high part, often exactly. */
static two_float draw_pair(uint64_t stream, uint64_t index, int range) {
    float high = draw(stream, index, range), low = draw(stream + 1, index, 4);
    float ulp = ldexpf(1, ilogbf(high) - 23);
    uint64_t shape = random_bits(seed, stream + 2, index) % 8;
    if (shape == 0)
        return two_float_make(high, 0);
    if (shape == 1 && ((uint32_t)fabsf(ldexpf(high, 23 - ilogbf(high))) & 1) == 0)
        return two_float_make(high, low < 0 ? -ulp / 2 : ulp / 2);
    return fast_two_sum(high, ldexpf(low, ilogbf(high) - 30 - (int)shape));
}

/* x near -y for every second index, so that sums cancel. */
static two_float draw_partner(two_float x, uint64_t stream, uint64_t index, int range) {
    if (index % 2)
        return draw_pair(stream, index, range);
    float high = -x.high;
    for (uint64_t steps = random_bits(seed, stream + 3, index) % 4; steps > 0; steps--)
        high = nextafterf(high, index % 4 ? INFINITY : 0);
    return fast_two_sum(high, x.low * draw(stream, index, 0));
}

/* ---- Transforms ---- */

static void check_sum(float a, float b, two_float s) {
    superaccumulator rest = {0};
    superaccumulator_add(&rest, a);
    superaccumulator_add(&rest, b);
    assert_true(s.high == superaccumulator_float(&rest));
    superaccumulator_add(&rest, -s.high);
    superaccumulator_add(&rest, -s.low);
    assert_true(superaccumulator_double(&rest) == 0);
}

static void check_product(float a, float b) {
    two_float p = two_product(a, b);
    superaccumulator rest = {0};
    superaccumulator_add_product(&rest, a, b);
    assert_true(p.high == superaccumulator_float(&rest));
    superaccumulator_add(&rest, -p.high);
    superaccumulator_add(&rest, -p.low);
    double lost = fabs(superaccumulator_double(&rest));
    assert_true(lost == 0 || (fabs((double)a * (double)b) < 0x1p-102 && lost <= 0x1p-150));
}

/* All pairs of a set of numbers with the fractions that are hardest: ends, halves, patterns. */
static void test_all_pairs(void **state) {
    (void)state;
    static const uint32_t fractions[] = {0,        1,        2,        0x7fffff, 0x7ffffe,
                                         0x400000, 0x400001, 0x3fffff, 0x555555, 0x2aaaab};
    enum { FRACTIONS = sizeof fractions / sizeof *fractions, MOST = 2 * FRACTIONS * 64 + 1 };
    static float numbers[MOST];
    int count = 0, step = test_is_quick() ? 10 : test_is_large() ? 1 : 3;
    numbers[count++] = 0;
    for (int e = -30; e <= 30; e += step)
        for (int f = 0; f < FRACTIONS; f++) {
            numbers[count] = ldexpf(1 + (float)fractions[f] * 0x1p-23f, e);
            numbers[count + 1] = -numbers[count];
            count += 2;
        }
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++) {
            float a = numbers[i], b = numbers[j];
            check_sum(a, b, two_sum(a, b));
            if (fabsf(a) >= fabsf(b) || a == 0)
                check_sum(a, b, fast_two_sum(a, b));
            check_product(a, b);
        }
}

/* The whole range, down to products and sums among subnormal numbers. */
static void test_range(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        float a = draw(1, i, 62), b = draw(2, i, 62), shrink = i % 3 ? 1 : 0x1p-80f;
        check_sum(a * shrink, b * shrink, two_sum(a * shrink, b * shrink));
        check_product(a * shrink, b);
    }
}

/* ---- Pairs ---- */

static double rest_of(superaccumulator *exact, two_float result) {
    superaccumulator_add(exact, -result.high);
    superaccumulator_add(exact, -result.low);
    return fabs(superaccumulator_double(exact));
}

static double magnitude(two_float x) {
    return fabs((double)x.high + (double)x.low);
}

static void check_normalised(two_float x) {
    assert_true(x.high + x.low == x.high);
}

/* `exact` is within the bound of `result`. */
static void check_pair(superaccumulator exact, two_float result, double bound) {
    double value = fabs(superaccumulator_double(&exact));
    check_normalised(result);
    assert_true(rest_of(&exact, result) <= bound * value);
}

static superaccumulator sum_of(two_float x, two_float y) {
    superaccumulator s = {0};
    superaccumulator_add(&s, x.high);
    superaccumulator_add(&s, x.low);
    superaccumulator_add(&s, y.high);
    superaccumulator_add(&s, y.low);
    return s;
}

static superaccumulator product_of(two_float x, two_float y) {
    superaccumulator s = {0};
    superaccumulator_add_product(&s, x.high, y.high);
    superaccumulator_add_product(&s, x.high, y.low);
    superaccumulator_add_product(&s, x.low, y.high);
    superaccumulator_add_product(&s, x.low, y.low);
    return s;
}

static void test_pairs(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        int range = i % 5 == 0 ? 40 : 2;
        two_float x = draw_pair(10, i, range), y = draw_partner(x, 20, i, range);
        two_float single = two_float_make(y.high, 0);
        check_normalised(x);
        check_normalised(y);
        check_pair(sum_of(x, y), two_float_add(x, y), 3 * u * u / (1 - 4 * u));
        two_float minus = two_float_make(-y.high, -y.low);
        check_pair(sum_of(x, minus), two_float_subtract(x, y), 3 * u * u / (1 - 4 * u));
        check_pair(sum_of(x, single), two_float_add_float(x, y.high), 2 * u * u);
        check_pair(product_of(x, y), two_float_multiply(x, y), 6 * u * u);
        check_pair(product_of(x, single), two_float_multiply_float(x, y.high), 2 * u * u);

        /* a b near -x where y is */
        float a = draw(30, i, 1), b = y.high / a;
        superaccumulator exact = sum_of(x, two_float_make(0, 0));
        superaccumulator_add_product(&exact, a, b);
        two_float result = two_float_add_product(x, a, b);
        check_normalised(result);
        assert_true(rest_of(&exact, result) <=
                    4 * u * u * (magnitude(x) + fabs((double)a * (double)b)));
    }
}

static void test_quotient(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        two_float x = draw_pair(70, i, 20), y = draw_pair(80, i, 20);
        long double exact =
            ((long double)x.high + (long double)x.low) / ((long double)y.high + (long double)y.low);
        long double error = fabsl((long double)two_float_quotient(x, y) - exact);
        assert_true(error <= (long double)(u + 8 * u * u) * fabsl(exact));

        two_float pair = two_float_divide(x, y);
        check_normalised(pair);
        error = fabsl((long double)pair.high + (long double)pair.low - exact);
        assert_true(error <= (long double)(16 * u * u) * fabsl(exact));
    }
    const two_float one = {1, 0}, none = {0, 0}, infinite = {INFINITY, 0};
    assert_true(two_float_quotient(one, infinite) == 0);
    assert_true(two_float_divide(one, infinite).high == 0);
    assert_true(two_float_divide(one, infinite).low == 0);
    assert_true(two_float_quotient(infinite, one) == INFINITY);
    assert_true(two_float_quotient(one, none) == INFINITY);
    assert_true(isnan(two_float_quotient(none, none)));
}

/* Sums of n products, of one sign and cancelling, rounded to a float. */
static void test_accumulated(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        int64_t n = test_is_quick() ? 10000 : 1000000;
        superaccumulator exact = {0};
        double absolute = 0;
        two_float sum = {0, 0};
        float plain = 0;
        for (int64_t i = 0; i < n; i++) {
            /* kind 2: the second half undoes the first but for one term */
            int64_t at = kind == 2 && i > n / 2 ? n - i : i;
            float a = draw(40, (uint64_t)at, 3), b = draw(41, (uint64_t)at, 3);
            a = kind == 0 ? fabsf(a) : kind == 2 && i > n / 2 ? -a : a;
            b = kind == 0 ? fabsf(b) : b;
            superaccumulator_add_product(&exact, a, b);
            absolute += fabs((double)a * (double)b);
            sum = two_float_add_product(sum, a, b);
            plain = fmaf(a, b, plain);
        }
        double value = superaccumulator_double(&exact);
        double bound = u * fabs(value) + 4 * (double)n * u * u * absolute;
        assert_true(fabs((double)sum.high - value) <= bound);
        /* and it is needed: plain summation is not */
        assert_true(test_is_quick() || fabs((double)plain - value) > 2 * u * fabs(value));
    }
}

/* ---- Functions ---- */

/* Where long double has no more digits than double, these references still have 20 more than a
 * pair's bound needs. */
static void check_exp(two_float x) {
    long double at = (long double)x.high + (long double)x.low, expected = expl(at);
    two_float y = two_float_exp(x);
    long double error = fabsl((long double)y.high + (long double)y.low - expected);
    if (at > -70)
        assert_true(error <= (long double)u / 4 * expected);
    else
        assert_true(error <= (long double)u * expected + 0x1p-148L);
    if (fabsl(at) < 0.1L) {
        long double small = (long double)(y.high - 1) + (long double)y.low - expm1l(at);
        assert_true(fabsl(small) <= 2 * (long double)u * (at * at + (long double)u));
    }
}

static void test_exp(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        float x = (float)(-103 * random_uniform(seed, 50, i));
        check_exp(fast_two_sum(x, x * 0x1p-25f * draw(51, i, 0)));
        check_exp(two_float_make(x * -0.86f, 0));
        check_exp(two_float_make(-fabsf(draw(52, i, 40)) * 0x1p-42f, 0));
    }
    for (int n = 0; n < 149; n++) /* between two powers of two, on both sides */
        for (int side = -2; side <= 2; side++) {
            float x = -((float)n + 0.5f) * 0.693147182f;
            check_exp(two_float_make(x + (float)side * x * 0x1p-23f, 0));
        }
    assert_true(two_float_exp(two_float_make(0, 0)).high == 1);
    assert_true(two_float_exp(two_float_make(-0.0f, 0)).low == 0);
    assert_true(two_float_exp(two_float_make(INFINITY, 0)).high == INFINITY);
    assert_true(two_float_exp(two_float_make(88.7229f, 0)).high == INFINITY);
    assert_true(isfinite(two_float_exp(two_float_make(88.7228f, 0)).high));
    assert_true(two_float_exp(two_float_make(-INFINITY, 0)).high == 0);
    assert_true(two_float_exp(two_float_make(-1e30f, 0)).high == 0);
    assert_true(isnan(two_float_exp(two_float_make(NAN, 0)).high));
}

static void check_log_sigmoid(float x) {
    long double at = (long double)x;
    long double expected = x >= 0 ? -log1pl(expl(-at)) : at - log1pl(expl(at));
    two_float y = two_float_log_sigmoid(x);
    check_normalised(y);
    long double error = fabsl((long double)y.high + (long double)y.low - expected);
    assert_true(error <= (long double)u / 2 * fabsl(expected) || (x > 80 && error < 0x1p-148L));
}

static void test_log_sigmoid(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        check_log_sigmoid((float)(200 * random_uniform(seed, 60, i) - 100));
        check_log_sigmoid(draw(61, i, 20));
    }
    assert_true(two_float_log_sigmoid(INFINITY).high == 0);
    assert_true(two_float_log_sigmoid(-INFINITY).high == -INFINITY);
    assert_true(two_float_log_sigmoid(-INFINITY).low == 0);
    assert_true(isnan(two_float_log_sigmoid(NAN).high));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_pairs),   cmocka_unit_test(test_range),
        cmocka_unit_test(test_pairs),       cmocka_unit_test(test_accumulated),
        cmocka_unit_test(test_quotient),    cmocka_unit_test(test_exp),
        cmocka_unit_test(test_log_sigmoid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
