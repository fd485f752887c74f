/* The growing string: content, the NUL, sticking failures. */
#include <stdint.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/buffer.h"

static void test_grows_and_ends(void **state) {
    (void)state;
    buffer b = {0};
    char expected[3001];
    for (int i = 0; i < 3000; i++) {
        expected[i] = (char)('a' + i % 26);
        buffer_append(&b, &expected[i], 1);
        assert_int_equal(b.data[b.size], '\0');
    }
    assert_int_equal(b.size, 3000);
    assert_memory_equal(b.data, expected, 3000);
    size_t capacity = b.capacity;
    buffer_clear(&b);
    assert_int_equal(b.size, 0);
    assert_int_equal(b.capacity, capacity);
    assert_string_equal(b.data, "");
    buffer_print(&b, "%d %s", 42, "x");
    buffer_append(&b, "\0y", 2);
    assert_int_equal(b.size, 6);
    assert_memory_equal(b.data, "42 x\0y", 7);
    buffer_free(&b);
    assert_null(b.data);
}

static void test_failure_sticks(void **state) {
    (void)state;
    buffer b = {0};
    buffer_append(&b, "kept", 4);
    buffer_append(&b, "kept", SIZE_MAX - 2); /* the size overflows: nothing is read */
    assert_true(b.failed);
    buffer_append(&b, "more", 4);
    buffer_print(&b, "more");
    assert_string_equal(b.data, "kept");
    buffer_clear(&b);
    assert_false(b.failed);
    buffer_append(&b, "", 0);
    assert_string_equal(b.data, "");
    buffer_free(&b);
    buffer_append(&b, "", 0);
    assert_string_equal(b.data, ""); /* an appended nothing is an empty string */
    buffer_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_grows_and_ends),
                                       cmocka_unit_test(test_failure_sticks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
