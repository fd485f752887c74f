/* YAML: compared with the JSON that PyYAML's safe_load gives for the same text, except for numbers,
 * where strtod is the rule. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "format/yaml.h"
#include "support/support.h"

static void assert_same(const char *yaml, const char *json) {
    json_t *value, *expected = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(expected);
    if (yaml_parse(yaml, strlen(yaml), "name", &value) != XLSTM_OK)
        fail_msg("%s: %s", yaml, xlstm_last_error());
    if (!json_equal(value, expected))
        fail_msg("%s is read as %s, not as %s", yaml, json_dumps(value, JSON_ENCODE_ANY), json);
    json_decref(value);
    json_decref(expected);
}

static void reads_scalars(void **state) {
    (void)state;
    assert_same("[~, null, Null, NULL, ]", "[null, null, null, null]");
    assert_same("a:\nb: 1", "{\"a\": null, \"b\": 1}");
    assert_same("[true, True, TRUE, yes, Yes, YES, on, On, ON]",
                "[true, true, true, true, true, true, true, true, true]");
    assert_same("[false, False, FALSE, no, No, NO, off, Off, OFF]",
                "[false, false, false, false, false, false, false, false, false]");
    assert_same("[tRue, y, n, nULL]", "[\"tRue\", \"y\", \"n\", \"nULL\"]");
    assert_same("[1, -1, +1, 0, 0x10, -0xff, 0o17, 9223372036854775807, -9223372036854775808]",
                "[1, -1, 1, 0, 16, -255, 15, 9223372036854775807, -9223372036854775808]");
    assert_same("[1.5, 1e-06, 1e3, .5, 5., -2.5E+2, 9223372036854775808]",
                "[1.5, 1e-06, 1000.0, 0.5, 5.0, -250.0, 9223372036854775808.0]");
    assert_same(
        "[.inf, .nan, inf, nan, -inf, 1e999, 1_000, 0b1, 1:30, 0o8, 0x, +-5, 1 2]",
        "[\".inf\", \".nan\", \"inf\", \"nan\", \"-inf\", \"1e999\", \"1_000\", \"0b1\", \"1:30\", "
        "\"0o8\", \"0x\", \"+-5\", \"1 2\"]");
    assert_same("['1', \"true\", '~', '', \"a\\tb\"]", "[\"1\", \"true\", \"~\", \"\", \"a\\tb\"]");
    assert_same("a: |\n  1\n", "{\"a\": \"1\\n\"}");
}

static void reads_structures(void **state) {
    (void)state;
    assert_same("", "null");
    assert_same("# only a comment\n", "null");
    assert_same("%YAML 1.1\n---\na: 1\n...\n", "{\"a\": 1}");
    assert_same("a: 1 # comment\nb: {c: [1, x], d: }\ne:\n  - f: 2\n    g: 3\n  - h\n",
                "{\"a\": 1, \"b\": {\"c\": [1, \"x\"], \"d\": null}, \"e\": [{\"f\": 2, \"g\": 3}, "
                "\"h\"]}");
    assert_same("'a b': 1\n2: x\ntrue: y", "{\"a b\": 1, \"2\": \"x\", \"true\": \"y\"}");
}

static void does_not_depend_on_the_locale(void **state) {
    (void)state;
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8") == NULL &&
        setlocale(LC_NUMERIC, "fr_FR.UTF-8") == NULL)
        skip(); /* no such locale on this machine */
    assert_same("[0.5]", "[0.5]");
    setlocale(LC_NUMERIC, "C");
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"a: 1\nb: 2\na: 3\n", "name: YAML line 3, column 1: the key \"a\" is there twice"},
        {"a: &x 1", "line 1, column 4: anchors and tags are not supported"},
        {"a: &x {b: 1}", "anchors and tags"},
        {"&x [1]", "anchors and tags"},
        {"a: !!str 1", "anchors and tags"},
        {"a: ! 1", "anchors and tags"},
        {"a: !!map {}", "anchors and tags"},
        {"a: *x", "line 1, column 4: aliases are not supported"},
        {"<<: {a: 1}", "merge keys"},
        {"a: 1\n---\nb: 2\n", "line 2, column 1: a second document begins"},
        {"---\n---\n", "a second document"},
        {"? [a]\n: 1", "a key must be a scalar"},
        {"? {a: 1}\n: 1", "a key must be a scalar"},
        {"\"a\\0b\": 1", "a key contains a NUL"},
        {"a: [1, 2", "line 2, column 1: did not find expected ',' or ']'"},
        {"a: 'x", "unexpected end of stream"},
        {"a: b: c", "mapping values are not allowed"},
        {"\tb: 1", "cannot start any token"},
        {"a: \xff", "YAML byte 3: invalid leading UTF-8 octet"},
        {"a: \x01", "control characters are not allowed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *value = (json_t *)cases;
        if (yaml_parse(cases[i].text, strlen(cases[i].text), "name", &value) != XLSTM_FORMAT_ERROR)
            fail_msg("%s: not refused", cases[i].text);
        assert_null(value);
        test_expect_message(cases[i].part);
    }
}

static void bounds_the_depth(void **state) {
    (void)state;
    enum { DEPTH = 200000 };
    static const char *const units[] = {"[", "{a: ", "- ", "? ", "!a "};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t size = strlen(units[i]);
        char *text = malloc(DEPTH * size);
        assert_non_null(text);
        for (size_t at = 0; at < DEPTH; at++)
            memcpy(text + at * size, units[i], size);
        json_t *value;
        assert_int_equal(yaml_parse(text, DEPTH * size, "deep", &value), XLSTM_FORMAT_ERROR);
        test_expect_message("deep: YAML");
        free(text);
    }
    char text[130];
    json_t *value;
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    assert_int_equal(yaml_parse(text + 1, 128, "name", &value), XLSTM_OK);
    json_decref(value);
    assert_int_equal(yaml_parse(text, 130, "name", &value), XLSTM_FORMAT_ERROR);
    test_expect_message("nested more than 64 deep");
}

static void opens_files(void **state) {
    (void)state;
    json_t *value;
    const char *path = test_path("some.yaml");
    test_write_file(path, "a: 1\n", 5);
    assert_int_equal(yaml_open(path, 5, &value), XLSTM_OK);
    assert_int_equal(json_integer_value(json_object_get(value, "a")), 1);
    json_decref(value);
    assert_int_equal(yaml_open(path, 4, &value), XLSTM_FORMAT_ERROR);
    test_expect_message("some.yaml is too large");
    assert_int_equal(yaml_open(test_path("absent.yaml"), 100, &value), XLSTM_IO_ERROR);
    test_expect_message("absent.yaml: No such file");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_scalars),
        cmocka_unit_test(reads_structures),
        cmocka_unit_test(does_not_depend_on_the_locale),
        cmocka_unit_test(refuses),
        cmocka_unit_test(bounds_the_depth),
        cmocka_unit_test(opens_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
