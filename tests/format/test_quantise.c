/* Encoding: never worse than plain rounding, close to the best there is, exact on the grid, and what
 * it does with zeros, tiny values and values that it cannot take. Plain rounding and the exhaustive
 * search are written here, from the definition of the blocks alone. */
#include "format/quantise.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/blocks.h"
#include "base/normal.h"
#include "base/random.h"

enum { BLOCKS = 64, COUNT = BLOCKS * 32 };

static const dtype kinds[] = {DTYPE_Q8_0, DTYPE_Q5_0, DTYPE_Q5_1,
                              DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_IQ4_NL};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static bool has_offset(dtype type) {
    return type == DTYPE_Q5_1 || type == DTYPE_Q4_1;
}

/* The levels of a type, rising. */
static int levels_of(dtype type, int *levels) {
    static const struct {
        dtype type;
        int lowest, highest;
    } ranges[] = {{DTYPE_Q8_0, -127, 127},
                  {DTYPE_Q5_0, -16, 15},
                  {DTYPE_Q5_1, 0, 31},
                  {DTYPE_Q4_0, -8, 7},
                  {DTYPE_Q4_1, 0, 15}};
    int count = 0;
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        for (int q = ranges[i].lowest; type == ranges[i].type && q <= ranges[i].highest; q++)
            levels[count++] = q;
    for (int i = 0; type == DTYPE_IQ4_NL && i < 16; i++)
        levels[count++] = block_levels[i];
    return count;
}

static double weight_of(const float *importance, int i) {
    return importance ? (double)importance[i] : 1;
}

static double error_of(const float *a, const float *b, const float *importance, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += weight_of(importance, i) * pow((double)a[i] - (double)b[i], 2);
    return sum;
}

/* The least error of a block with this scale and offset. */
static double error_with(dtype type, double d, double m, const float *x, const float *importance) {
    int levels[256], count = levels_of(type, levels);
    double sum = 0;
    for (int i = 0; i < 32; i++) {
        double least = INFINITY;
        for (int j = 0; j < count; j++)
            least = fmin(least, fabs((double)x[i] - (d * levels[j] + m)));
        sum += weight_of(importance, i) * least * least;
    }
    return sum;
}

static double to_f16(double value) {
    return (double)f16_to_float(float_to_f16((float)value));
}

/* The scale that puts the largest value at the outermost level. */
static double plain_error(dtype type, const float *x, const float *importance) {
    int levels[256], count = levels_of(type, levels);
    double lowest = (double)x[0], highest = (double)x[0];
    for (int i = 1; i < 32; i++) {
        lowest = fmin(lowest, (double)x[i]);
        highest = fmax(highest, (double)x[i]);
    }
    if (has_offset(type))
        return error_with(type, to_f16((highest - lowest) / (count - 1)), to_f16(lowest), x,
                          importance);
    double extreme = -lowest > highest ? lowest : highest;
    return error_with(type, to_f16(extreme / levels[0]), 0, x, importance);
}

/* Over all scales: every f16 from a third of the plain one to one and a half times it. */
static double best_error(dtype type, const float *x, const float *importance) {
    int levels[256];
    levels_of(type, levels);
    double largest = 0, best = INFINITY;
    for (int i = 0; i < 32; i++) /* with fmax here, gcc 12 for arm64 fails */
        largest = fabs((double)x[i]) > largest ? fabs((double)x[i]) : largest;
    double plain = largest / abs(levels[0]);
    for (uint16_t bits = float_to_f16((float)(plain / 3)); bits <= float_to_f16((float)plain * 2);
         bits++) {
        double d = (double)f16_to_float(bits);
        best = fmin(best, error_with(type, d, 0, x, importance));
        best = fmin(best, error_with(type, -d, 0, x, importance));
    }
    return best;
}

typedef struct data {
    float x[COUNT], importance[COUNT], decoded[COUNT];
    uint8_t blocks[COUNT * 2];
} data;

/* Normal values, some blocks with an offset or one far value; importances over two decades, some of
 * them 0. */
static data *make_data(float scale) {
    static data values;
    normal_table table;
    normal_table_init(&table);
    normal_generator g = normal_sequence(&table, 1, 2, 3);
    for (int i = 0; i < COUNT; i++) {
        int block = i / 32;
        double x = normal_next(&g);
        if (block % 4 == 1)
            x += 3;
        if (block % 4 == 2 && i % 32 == 5)
            x *= 8;
        values.x[i] = scale * (float)x;
        double power = 2 * random_uniform(1, 5, (uint64_t)i) - 1;
        values.importance[i] = i % 32 == 7 || block % 16 == 15 ? 0 : (float)pow(10, power);
    }
    return &values;
}

static void encode(dtype type, data *values, const float *importance) {
    assert_int_equal(quantise_row(type, values->x, importance, COUNT, values->blocks), COUNT);
    blocks_decode(type, values->blocks, COUNT, values->decoded);
}

/* NULL where the block's are all 0. */
static const float *own_importance(const float *importance, int first) {
    for (int i = 0; importance && i < 32; i++)
        if (importance[first + i] > 0)
            return importance + first;
    return NULL;
}

/* 1e-5: errors are summed as floats in the search. */
static void test_never_worse_than_plain(void **state) {
    (void)state;
    data *v = make_data(0.02f);
    for (int k = 0; k < KINDS; k++) {
        for (int weighted = 0; weighted < 2; weighted++) {
            const float *importance = weighted ? v->importance : NULL;
            double sum = 0, plain_sum = 0;
            encode(kinds[k], v, importance);
            for (int i = 0; i < COUNT; i += 32) {
                const float *own = own_importance(importance, i);
                double plain = plain_error(kinds[k], v->x + i, own);
                double error = error_of(v->x + i, v->decoded + i, own, 32);
                assert_true(error <= plain * (1 + 1e-5));
                sum += error, plain_sum += plain;
            }
            assert_true(sum < 0.95 * plain_sum);
        }
    }
}

/* Without an offset all scales can be tried: the search must come near the best of them. */
static void test_near_the_best(void **state) {
    (void)state;
    data *v = make_data(0.02f);
    static const dtype symmetric[] = {DTYPE_Q5_0, DTYPE_Q4_0, DTYPE_IQ4_NL};
    for (int k = 0; k < 3; k++) {
        for (int weighted = 0; weighted < 2; weighted++) {
            const float *importance = weighted ? v->importance : NULL;
            encode(symmetric[k], v, importance);
            double sum = 0;
            int blocks = 0;
            for (int i = 0; i < COUNT; i += 32 * 3, blocks++) {
                const float *own = own_importance(importance, i);
                double best = best_error(symmetric[k], v->x + i, own);
                sum += error_of(v->x + i, v->decoded + i, own, 32) / best;
            }
            print_message("%s%s: %.4f of the least error\n", dtype_name(symmetric[k]),
                          weighted ? ", weighted" : "", sum / blocks);
            assert_true(sum / blocks < (weighted ? 1.1 : 1.01));
        }
    }
}

/* Values that lie on a grid, some of which is the outermost level, come back as they are. */
static void test_exact_on_the_grid(void **state) {
    (void)state;
    data *v = make_data(1);
    for (int k = 0; k < KINDS; k++) {
        int levels[256], count = levels_of(kinds[k], levels);
        for (int i = 0; i < COUNT; i++) {
            float d = f16_to_float(float_to_f16(0.001f * (float)(1 + i / 32)));
            float m = has_offset(kinds[k]) ? f16_to_float(float_to_f16(-7 * d)) : 0;
            int level = i % 32 == 0    ? 0
                        : i % 32 == 31 ? count - 1
                                       : (int)(random_uniform(3, 1, (uint64_t)i) * count);
            v->x[i] = (i / 32 % 2 && m == 0 ? -d : d) * (float)levels[level] + m;
        }
        encode(kinds[k], v, NULL);
        for (int i = 0; i < COUNT; i++)
            assert_true(v->x[i] == v->decoded[i]);
    }
}

/* What was encoded once stays as it is. */
static void test_twice_is_once(void **state) {
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        data *v = make_data(0.02f);
        encode(kinds[k], v, NULL);
        memcpy(v->x, v->decoded, sizeof v->x);
        encode(kinds[k], v, NULL);
        int different = 0;
        for (int i = 0; i < COUNT; i += 32)
            different += memcmp(v->x + i, v->decoded + i, 32 * sizeof(float)) != 0;
        print_message("%s: %d of %d blocks differ\n", dtype_name(kinds[k]), different, BLOCKS);
        assert_true(error_of(v->x, v->decoded, NULL, COUNT) <=
                    1e-6 * error_of(v->x, (const float[COUNT]){0}, NULL, COUNT));
    }
}

static void test_zeros(void **state) {
    (void)state;
    data *v = make_data(1);
    memset(v->x, 0, sizeof v->x);
    v->x[3] = -0.0f;
    for (int k = 0; k < KINDS; k++) {
        encode(kinds[k], v, NULL);
        for (int i = 0; i < COUNT; i++)
            assert_true(v->decoded[i] == 0);
    }
}

/* The scale is a subnormal f16, or 0: never worse than nothing at all, and no larger than half a
 * step of the smallest scale where that reaches. */
static void test_tiny(void **state) {
    (void)state;
    static const float scales[] = {1e-4f, 1e-6f, 3e-7f, 5e-8f, 1e-8f, 1e-30f, FLT_TRUE_MIN};
    for (size_t s = 0; s < sizeof scales / sizeof scales[0]; s++) {
        data *v = make_data(scales[s]);
        for (int k = 0; k < KINDS; k++) {
            encode(kinds[k], v, NULL);
            for (int i = 0; i < COUNT; i += 32) {
                double error = error_of(v->x + i, v->decoded + i, NULL, 32);
                assert_true(error <= plain_error(kinds[k], v->x + i, NULL) * (1 + 1e-5));
                if (!has_offset(kinds[k]))
                    assert_true(error <=
                                    error_with(kinds[k], 0x1p-24, 0, v->x + i, NULL) * (1 + 1e-5) ||
                                scales[s] > 1e-7f);
            }
        }
    }
}

/* The index of the first value that cannot be encoded comes back. */
static void test_what_cannot_be_encoded(void **state) {
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        const float wrong[] = {NAN,       -NAN,    INFINITY,
                               -INFINITY, FLT_MAX, -1.01f * quantise_limit(kinds[k])};
        for (size_t w = 0; w < sizeof wrong / sizeof wrong[0]; w++) {
            data *v = make_data(1);
            v->x[77] = wrong[w];
            v->x[200] = wrong[w];
            assert_int_equal(quantise_row(kinds[k], v->x, NULL, COUNT, v->blocks), 77);
        }
        data *v = make_data(1);
        float limit = quantise_limit(kinds[k]);
        v->x[77] = limit, v->x[78] = -limit;
        encode(kinds[k], v, NULL);
        for (int i = 0; i < COUNT; i++)
            assert_true(isfinite(v->decoded[i]));
        assert_true(fabsf(v->decoded[77] - limit) <= 0.13f * limit);
        assert_true(fabsf(v->decoded[78] + limit) <= 0.13f * limit);
    }
}

/* A column that counts a million times as much is kept better. */
static void test_importance_counts(void **state) {
    (void)state;
    data *v = make_data(0.02f);
    float importance[COUNT];
    for (int i = 0; i < COUNT; i++)
        importance[i] = i % 32 == 9 ? 1e6f : 1;
    for (int k = 0; k < KINDS; k++) {
        double error[2] = {0};
        for (int weighted = 0; weighted < 2; weighted++) {
            encode(kinds[k], v, weighted ? importance : NULL);
            for (int i = 9; i < COUNT; i += 32)
                error[weighted] += pow((double)v->x[i] - (double)v->decoded[i], 2);
        }
        assert_true(error[1] < 0.2 * error[0]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_worse_than_plain),
        cmocka_unit_test(test_near_the_best),
        cmocka_unit_test(test_exact_on_the_grid),
        cmocka_unit_test(test_twice_is_once),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_what_cannot_be_encoded),
        cmocka_unit_test(test_importance_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
