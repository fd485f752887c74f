/* The ziggurat: moments, the share of every part of the axis, sequences that differ, and values that
 * never change, since the bytes of checkpoints are made of them. */
#include <math.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/normal.h"

static normal_table table;

/* The bounds are five standard deviations of the estimate. */
static void check_mean(double sum, double count, double mean, double deviation) {
    double bound = 5 * deviation / sqrt(count);
    if (fabs(sum / count - mean) > bound)
        print_error("mean %g, expected %g within %g\n", sum / count, mean, bound);
    assert_true(fabs(sum / count - mean) <= bound);
}

static void test_moments(void **state) {
    (void)state;
    enum { COUNT = 400000 };
    double sum = 0, squares = 0, cubes = 0, fourths = 0, streams = 0, neighbours = 0, before = 0;
    normal_generator g = normal_sequence(&table, 42, 1, 0);
    normal_generator other = normal_sequence(&table, 42, 2, 0);
    for (int i = 0; i < COUNT; i++) {
        double x = normal_next(&g);
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
        cubes += x * x * x;
        fourths += x * x * x * x;
        streams += x * normal_next(&other);
        neighbours += x * before;
        before = x;
    }
    check_mean(sum, COUNT, 0, 1);
    check_mean(squares, COUNT, 1, sqrt(2.0));
    check_mean(cubes, COUNT, 0, sqrt(15.0));
    check_mean(fourths, COUNT, 3, sqrt(96.0));
    check_mean(streams, COUNT, 0, 1);
    check_mean(neighbours, COUNT, 0, 1);
}

/* Every quarter of a deviation, and both tails beyond where the layers end (3.44). */
static void test_distribution(void **state) {
    (void)state;
    enum { COUNT = 2000000, BINS = 30 };
    static const double width = 0.25, last = 3.4427;
    double bins[BINS + 2] = {0};
    normal_generator g = normal_sequence(&table, 1, 2, 3);
    for (int i = 0; i < COUNT; i++) {
        double x = normal_next(&g);
        if (fabs(x) > last)
            bins[x < 0 ? BINS : BINS + 1]++;
        else
            bins[(int)floor(x / width) + BINS / 2]++;
    }
    for (int i = 0; i < BINS + 2; i++) {
        double from = (i - BINS / 2) * width, to = from + width;
        from = i >= BINS ? last : fmax(from, -last);
        to = i >= BINS ? INFINITY : fmin(to, last);
        double share = to > from ? 0.5 * (erfc(from / sqrt(2)) - erfc(to / sqrt(2))) : 0;
        check_mean(bins[i], COUNT, share, sqrt(share * (1 - share)));
    }
}

static void test_sequences(void **state) {
    (void)state;
    static const uint64_t arguments[][3] = {{5, 6, 7}, {4, 6, 7}, {5, 4, 7}, {5, 6, 4}};
    double first[4];
    for (int i = 0; i < 4; i++) {
        const uint64_t *a = arguments[i];
        normal_generator g = normal_sequence(&table, a[0], a[1], a[2]);
        normal_generator again = normal_sequence(&table, a[0], a[1], a[2]);
        first[i] = normal_next(&g);
        assert_true(first[i] == normal_next(&again));
        for (int j = 0; j < i; j++)
            assert_true(first[i] != first[j]);
    }
}

/* The beginning of a sequence, from an implementation in Python. */
static void test_known_values(void **state) {
    (void)state;
    static const double known[] = {0.7493209014607084,   -1.5080159470732588, 1.2517197649016667,
                                   -0.16969554981544865, -1.0367976677043802, -0.64449374037370477};
    normal_generator g = normal_sequence(&table, 0, 0, 0);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_true(fabs(normal_next(&g) - known[i]) <= 1e-15);
}

int main(void) {
    normal_table_init(&table);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_known_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
