/* Philox against the known answers of its authors (Random123, kat_vectors), and the distributions.
 */
#include <math.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/random.h"

static void test_known_answers(void **state) {
    (void)state;
    assert_true(random_bits(0, 0, 0) == 0xE169C58D6627E8D5u);
    assert_true(random_bits(UINT64_MAX, UINT64_MAX, UINT64_MAX) == 0x41C83B0E408F276Du);
    assert_true(random_bits(0x299F31D0A4093822u, 0x0370734413198A2Eu, 0x85A308D3243F6A88u) ==
                0x94FDCCEBD16CFE09u);
}

static void test_each_argument_matters(void **state) {
    (void)state;
    for (int bit = 0; bit < 64; bit++) {
        uint64_t one = (uint64_t)1 << bit, base = random_bits(1, 2, 3);
        assert_true(random_bits(1 ^ one, 2, 3) != base);
        assert_true(random_bits(1, 2 ^ one, 3) != base);
        assert_true(random_bits(1, 2, 3 ^ one) != base);
    }
}

/* The bounds are five standard deviations of the estimate. */
static void check_mean(double sum, double count, double mean, double deviation) {
    double bound = 5 * deviation / sqrt(count);
    if (fabs(sum / count - mean) > bound)
        print_error("mean %g, expected %g within %g\n", sum / count, mean, bound);
    assert_true(fabs(sum / count - mean) <= bound);
}

static void test_uniform(void **state) {
    (void)state;
    enum { COUNT = 200000, BINS = 64 };
    double sum = 0, squares = 0, neighbours = 0, before = 0.5;
    int bins[BINS] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        double u = random_uniform(42, 1, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
        neighbours += (u - 0.5) * (before - 0.5);
        before = u;
        bins[(int)(u * BINS)]++;
    }
    check_mean(sum, COUNT, 0.5, sqrt(1.0 / 12));
    check_mean(squares, COUNT, 1.0 / 3, sqrt(4.0 / 45));
    check_mean(neighbours, COUNT, 0, 1.0 / 12);
    double chi = 0, expected = (double)COUNT / BINS;
    for (int i = 0; i < BINS; i++)
        chi += (bins[i] - expected) * (bins[i] - expected) / expected;
    assert_true(chi < (BINS - 1) + 5 * sqrt(2.0 * (BINS - 1)));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known_answers),
                                       cmocka_unit_test(test_each_argument_matters),
                                       cmocka_unit_test(test_uniform)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
