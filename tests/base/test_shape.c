/* Shapes: products that overflow, and in messages every rank, and texts that do not fit. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/shape.h"

static void test_texts(void **state) {
    (void)state;
    const int64_t shape[] = {384, 1, -1, INT64_MAX};
    char text[64];
    assert_string_equal(shape_text(0, shape, text, sizeof text), "[]");
    assert_string_equal(shape_text(1, shape, text, sizeof text), "[384]");
    assert_string_equal(shape_text(4, shape, text, sizeof text),
                        "[384, 1, any, 9223372036854775807]");
}

static void test_short_of_room(void **state) {
    (void)state;
    const int64_t shape[] = {384, 1024};
    for (size_t size = 1; size <= 12; size++) {
        char text[16] = "................";
        shape_text(2, shape, text, size);
        assert_memory_equal(text, "[384, 1024]", size - 1);
        assert_int_equal(text[size - 1], '\0');
        assert_int_equal(text[size], '.');
    }
}

static void test_elements(void **state) {
    (void)state;
    int64_t elements = -1;
    assert_true(shape_elements(0, NULL, &elements));
    assert_int_equal(elements, 1);
    assert_true(shape_elements(3, (int64_t[]){7, 1, 11}, &elements));
    assert_int_equal(elements, 77);
    assert_true(shape_elements(2, (int64_t[]){INT64_MAX, 1}, &elements));
    assert_true(elements == INT64_MAX);
    assert_true(shape_elements(2, (int64_t[]){INT64_MAX, 0}, &elements));
    assert_int_equal(elements, 0);
    assert_false(shape_elements(2, (int64_t[]){INT64_MAX, 2}, &elements));
    /* Within 64 bits without a sign, and nothing is left of it: still too large on the way. */
    assert_false(shape_elements(3, (int64_t[]){2768240640, 4294967300, 0}, &elements));
    assert_false(shape_elements(3, (int64_t[]){0, 2768240640, 4294967300}, &elements));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_short_of_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
