/* Conversions between number formats against an independent definition: the value of a pattern is
 * computed with ldexp, and rounding is a search for the nearest of all 65,536 values, ties to the
 * even pattern. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/dtype.h"
#include "base/random.h"
#include "support/support.h"

typedef struct format {
    dtype type;
    int fraction_bits, exponent_bits;
} format;

static const format formats[] = {{DTYPE_F16, 10, 5}, {DTYPE_BF16, 7, 8}};

static double value_of(const format *f, unsigned pattern) {
    int bias = (1 << (f->exponent_bits - 1)) - 1, most = (1 << f->exponent_bits) - 1;
    int exponent = (int)(pattern >> f->fraction_bits) & most;
    int fraction = (int)pattern & ((1 << f->fraction_bits) - 1);
    double sign = pattern & 0x8000 ? -1.0 : 1.0;
    if (exponent == most)
        return fraction ? (double)NAN : sign * (double)INFINITY;
    int whole = exponent ? fraction + (1 << f->fraction_bits) : fraction;
    return sign * ldexp(whole, (exponent ? exponent : 1) - bias - f->fraction_bits);
}

/* Positive patterns are in the order of their values, so the neighbours are found by bisection. The
 * value after the largest finite one stands for infinity: as if the exponent went on. */
static unsigned nearest(const format *f, double value) {
    if (isnan(value))
        return 0xFFFFFFFF;
    unsigned sign = signbit(value) ? 0x8000 : 0, infinity = 0x7FFFu << f->fraction_bits & 0x7FFF;
    double magnitude = fabs(value);
    unsigned low = 0, high = infinity;
    if (isinf(magnitude))
        return sign | infinity;
    double beyond = 2 * value_of(f, 1u << (f->fraction_bits + f->exponent_bits - 1)) *
                    ldexp(1, (1 << (f->exponent_bits - 1)) - 2);
    if (magnitude >= beyond)
        return sign | infinity;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (value_of(f, middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    double below = magnitude - value_of(f, low);
    double above = (high == infinity ? beyond : value_of(f, high)) - magnitude;
    if (below < above || (below == above && low % 2 == 0))
        return sign | low;
    return sign | high;
}

static uint16_t from_float(const format *f, float value) {
    return f->type == DTYPE_F16 ? float_to_f16(value) : float_to_bf16(value);
}

static float to_float(const format *f, uint16_t bits) {
    return f->type == DTYPE_F16 ? f16_to_float(bits) : bf16_to_float(bits);
}

static bool pattern_is_nan(const format *f, unsigned pattern) {
    return isnan(value_of(f, pattern));
}

static void test_every_pattern(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        const format *f = &formats[k];
        for (unsigned pattern = 0; pattern < 65536; pattern++) {
            float value = to_float(f, (uint16_t)pattern);
            uint16_t back = from_float(f, value);
            if (pattern_is_nan(f, pattern)) {
                assert_true(isnan(value));
                assert_int_equal(back, pattern);
                continue;
            }
            double expected = value_of(f, pattern);
            assert_true((double)value == expected);
            assert_int_equal(signbit(value) != 0, signbit(expected) != 0);
            assert_int_equal(back, pattern);
        }
    }
}

static void check_double(const format *f, double value) {
    unsigned expected = nearest(f, value);
    uint16_t got;
    dtype_store(f->type, &got, 0, value);
    if (got != expected)
        print_error("%s of %a: %04x, not %04x\n", dtype_name(f->type), value, got, expected);
    assert_int_equal(got, expected);
    if ((double)(float)value == value)
        assert_int_equal(from_float(f, (float)value), expected);
}

/* Between each pair of neighbours: the middle, and the nearest floats and doubles on both sides of
 * it. The doubles would go wrong if they were rounded to float first. */
static void test_rounding_at_every_border(void **state) {
    (void)state;
    unsigned stride = test_is_quick() ? 7 : 1;
    for (int k = 0; k < 2; k++) {
        const format *f = &formats[k];
        for (unsigned pattern = 0; pattern < 0x7FFF; pattern += stride) {
            double low = value_of(f, pattern), high = value_of(f, pattern + 1);
            if (isnan(low) || isnan(high) || isinf(low))
                continue;
            if (isinf(high))
                high = low + (low - value_of(f, pattern - 1));
            double middle = low + (high - low) / 2;
            float middle_float = (float)middle;
            double values[] = {middle,
                               nextafter(middle, 0),
                               nextafter(middle, (double)INFINITY),
                               (double)nextafterf(middle_float, 0),
                               (double)nextafterf(middle_float, (float)INFINITY),
                               low + (high - low) * 0.3};
            for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
                check_double(f, values[i]);
                check_double(f, -values[i]);
            }
        }
    }
}

static void test_rounding_of_random_floats(void **state) {
    (void)state;
    uint64_t count = test_is_quick() ? 20000 : 500000;
    for (int k = 0; k < 2; k++) {
        for (uint64_t i = 0; i < count; i++) {
            uint32_t bits = (uint32_t)random_bits(7, 0, i);
            float value;
            memcpy(&value, &bits, sizeof value);
            if (!isnan(value))
                check_double(&formats[k], (double)value);
        }
    }
}

static void test_extremes(void **state) {
    (void)state;
    assert_int_equal(float_to_f16(65504.0f), 0x7BFF);
    assert_int_equal(float_to_f16(65519.996f), 0x7BFF);
    assert_int_equal(float_to_f16(65520.0f), 0x7C00);
    assert_int_equal(float_to_f16(-1e30f), 0xFC00);
    assert_int_equal(float_to_f16(0x1p-24f), 0x0001);
    assert_int_equal(float_to_f16(0x1p-25f), 0x0000); /* a tie, to even */
    assert_int_equal(float_to_f16(0x1.000002p-25f), 0x0001);
    assert_int_equal(float_to_f16(-0.0f), 0x8000);
    assert_int_equal(float_to_bf16(1.0f), 0x3F80);
    assert_int_equal(float_to_bf16(3.4028235e38f), 0x7F80);
    assert_int_equal(float_to_bf16(-0x1p-149f), 0x8000);
    uint32_t narrow_payload = 0x7F800001; /* a NaN whose kept bits are all 0 */
    float nan;
    memcpy(&nan, &narrow_payload, sizeof nan);
    assert_true(isnan(bf16_to_float(float_to_bf16(nan))));
    assert_true(isnan(f16_to_float(float_to_f16(nan))));
    uint16_t bits;
    dtype_store(DTYPE_BF16, &bits, 0, 1e300);
    assert_int_equal(bits, 0x7F80);
    dtype_store(DTYPE_F16, &bits, 0, -1e-300);
    assert_int_equal(bits, 0x8000);
    dtype_store(DTYPE_F16, &bits, 0, (double)NAN);
    assert_true(isnan(f16_to_float(bits)));
}

static void test_convert_every_pair(void **state) {
    (void)state;
    enum { COUNT = 37 };
    const dtype types[] = {DTYPE_F64, DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            double source[COUNT], target[COUNT], expected[COUNT];
            for (int i = 0; i < COUNT; i++)
                dtype_store(types[a], source, i, test_normal(1, 2, (uint64_t)i));
            memset(target, 0xA5, sizeof target);
            memset(expected, 0xA5, sizeof expected);
            for (int i = 0; i < COUNT; i++)
                dtype_store(types[b], expected, i, dtype_load(types[a], source, i));
            dtype_convert(types[a], source, types[b], target, COUNT);
            assert_memory_equal(target, expected, sizeof target);
            dtype_convert(types[a], source, types[b], target, 0);
            assert_memory_equal(target, expected, sizeof target);
        }
    }
}

/* Blocks are copied as they are, and no byte more. */
static void test_copies_blocks(void **state) {
    (void)state;
    for (dtype type = DTYPE_Q8_0; type <= DTYPE_IQ4_NL; type++) {
        uint8_t source[3 * 34], target[3 * 34];
        for (size_t i = 0; i < sizeof source; i++)
            source[i] = (uint8_t)(i * 7 + 1);
        memset(target, 0, sizeof target);
        dtype_convert(type, source, type, target, 64);
        assert_memory_equal(target, source, 2 * dtype_size(type));
        for (size_t i = 2 * dtype_size(type); i < sizeof target; i++)
            assert_int_equal(target[i], 0);
    }
}

static void test_names(void **state) {
    (void)state;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        dtype type;
        assert_true(dtype_from_name(dtype_name((dtype)i), &type));
        assert_int_equal(type, i);
        bool block = type >= DTYPE_Q8_0;
        assert_int_equal(dtype_block(type), block ? 32 : 1);
        assert_true(dtype_size(type) >= 1 && dtype_size(type) <= (block ? 34 : 8));
        assert_int_equal(dtype_bytes(type, 96), (block ? 3 : 96) * (int64_t)dtype_size(type));
        assert_int_equal(dtype_is_weight(type), dtype_is_float(type) || block);
        assert_int_equal(dtype_is_float(type), i <= DTYPE_F16);
    }
    dtype type;
    assert_false(dtype_from_name("f12", &type));
    assert_int_equal(dtype_size(DTYPE_COUNT), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_pattern),
                                       cmocka_unit_test(test_rounding_at_every_border),
                                       cmocka_unit_test(test_rounding_of_random_floats),
                                       cmocka_unit_test(test_extremes),
                                       cmocka_unit_test(test_convert_every_pair),
                                       cmocka_unit_test(test_copies_blocks),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
