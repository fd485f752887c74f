/* JSON: what is taken, what is refused, and that errors say where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "format/json.h"
#include "support/support.h"

static void refuses_what_is_broken(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "name: not valid JSON: it is empty"},
        {"   ", "line 1, column 3"},
        {"1", "'[' or '{' expected"},
        {"[1, 2", "']' expected near end of file"},
        {"{\n\"a\": 1,\n\"a\": 2}", "line 3, column 3: duplicate object key near '\"a\"'"},
        {"[NaN]", "invalid token near 'NaN'"},
        {"[Infinity]", "invalid token"},
        {"[1e999]", "real number overflow"},
        {"[9223372036854775808]", "too big integer"},
        {"[01]", "invalid token"},
        {"[1,]", "near ']'"},
        {"{\"a\\u0000b\": 1}", "NUL byte in object key"},
        {"[\"\xff\"]", "unable to decode byte 0xff"},
        {"[\"\\ud800\"]", "invalid Unicode"},
        {"[\"line\nbreak\"]", "unexpected newline"},
        {"[1] [2]", "end of file expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *value = (json_t *)cases;
        assert_int_equal(json_parse(cases[i].text, strlen(cases[i].text), "name", &value),
                         XLSTM_FORMAT_ERROR);
        assert_null(value);
        test_expect_message(cases[i].part);
        assert_null(strchr(xlstm_last_error(), '\n'));
    }
}

static void bounds_the_depth(void **state) {
    (void)state;
    enum { DEPTH = 200000 };
    static const char *const units[] = {"[", "{\"a\":", "[{\"a\":"};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t size = strlen(units[i]);
        char *text = malloc(DEPTH * size);
        assert_non_null(text);
        for (size_t at = 0; at < DEPTH; at++)
            memcpy(text + at * size, units[i], size);
        json_t *value;
        assert_int_equal(json_parse(text, DEPTH * size, "deep", &value), XLSTM_FORMAT_ERROR);
        test_expect_message("deep: not valid JSON");
        test_expect_message("depth");
        free(text);
    }
}

static void takes_what_is_right(void **state) {
    (void)state;
    static const char text[] =
        "{\"zero\": \"a\\u0000b\", \"low\": -9223372036854775808, \"e\": 1e-06}";
    json_t *value;
    assert_int_equal(json_parse(text, sizeof text - 1, "name", &value), XLSTM_OK);
    const json_t *zero = json_object_get(value, "zero");
    assert_int_equal(json_string_length(zero), 3);
    assert_memory_equal(json_string_value(zero), "a\0b", 3);
    assert_true(json_integer_value(json_object_get(value, "low")) == INT64_MIN);
    assert_true(json_real_value(json_object_get(value, "e")) == 1e-6);
    json_decref(value);
}

static void opens_files(void **state) {
    (void)state;
    json_t *value;
    const char *path = test_path("some.json");
    test_write_file(path, "[1, 2, 3]", 9);
    assert_int_equal(json_open(path, 9, &value), XLSTM_OK);
    assert_int_equal(json_array_size(value), 3);
    json_decref(value);
    assert_int_equal(json_open(path, 8, &value), XLSTM_FORMAT_ERROR);
    test_expect_message("some.json is too large");
    assert_int_equal(json_open(test_path("absent.json"), 100, &value), XLSTM_IO_ERROR);
    test_expect_message("absent.json: No such file");
    assert_int_equal(json_open(test_folder(), 100, &value), XLSTM_IO_ERROR);
    assert_null(value);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_broken),
        cmocka_unit_test(bounds_the_depth),
        cmocka_unit_test(takes_what_is_right),
        cmocka_unit_test(opens_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
