/* The Unicode tables and NFC against the `tokenizers` package: the class of every code point, what
 * NFC changes, and sequences of marks; UTF-8 against its definition. */
#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "fixture.h"
#include "text/normalize.h"
#include "text/unicode.h"

static void check_nfc(const char *text, size_t size, const char *expected, size_t expected_size) {
    buffer out = {0};
    assert_true(normalize_nfc((const uint8_t *)text, size, &out));
    assert_int_equal(out.size, expected_size);
    assert_memory_equal(out.data, expected, expected_size);
    /* Text that changes must be noticed beforehand; a normal form is one. */
    if (size != expected_size || memcmp(text, expected, size) != 0)
        assert_true(normalize_first_needed((const uint8_t *)text, size) < size);
    buffer again = {0};
    assert_true(normalize_nfc((const uint8_t *)out.data, out.size, &again));
    assert_int_equal(again.size, expected_size);
    assert_memory_equal(again.data, expected, expected_size);
    buffer_free(&again);
    buffer_free(&out);
}

static bool is_surrogate(uint32_t c) {
    return c >= 0xD800 && c < 0xE000;
}

/* Reads the runs of classes; returns the number of code points that differ. */
static size_t count_class_differences(fixture *f) {
    uint64_t runs = fixture_number(f), differences = 0;
    uint32_t c = 0;
    for (uint64_t i = 0; i < runs; i++) {
        unicode_class expected = (unicode_class)fixture_number(f);
        for (uint64_t left = fixture_number(f); left > 0; left--, c++)
            differences += !is_surrogate(c) && unicode_class_of(c) != expected;
    }
    assert_int_equal(c, UNICODE_LAST + 1);
    return (size_t)differences;
}

static void test_every_code_point(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, "tests/text/data/unicode.bin");
    assert_int_equal(count_class_differences(&f), 0);
    uint64_t changed = fixture_number(&f);
    assert_true(changed > 1000);
    uint32_t next =
        0; /* the code points that NFC changes are in order; between them nothing does */
    for (uint64_t i = 0; i <= changed; i++) {
        fixture_string from = {0}, to = {0};
        uint32_t c = UNICODE_LAST + 1;
        if (i < changed) {
            from = fixture_read_string(&f);
            to = fixture_read_string(&f);
            assert_int_equal(utf8_decode((const uint8_t *)from.text, from.size, &c), from.size);
            check_nfc(from.text, from.size, to.text, to.size);
        }
        for (; next < c; next++) {
            uint8_t text[4];
            size_t size = utf8_encode(next, text);
            if (!is_surrogate(next))
                check_nfc((const char *)text, size, (const char *)text, size);
        }
        next++;
    }
    uint64_t sequences = fixture_number(&f);
    assert_true(sequences > 1000);
    for (uint64_t i = 0; i < sequences; i++) {
        fixture_string from = fixture_read_string(&f), to = fixture_read_string(&f);
        check_nfc(from.text, from.size, to.text, to.size);
    }
    fixture_close(&f);
}

/* From the Unicode Standard, annex 15 and chapter 3.12. */
static void test_published_examples(void **state) {
    (void)state;
    static const char *const examples[][2] = {
        {"\xE2\x84\xAB", "\xC3\x85"},                             /* ANGSTROM SIGN */
        {"A\xCC\x8A", "\xC3\x85"},                                /* A, ring */
        {"\xE1\xB8\x8A\xCC\xA3", "\xE1\xB8\x8C\xCC\x87"},         /* D dot above, dot below */
        {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},               /* reordered, nothing composed */
        {"\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"}, /* Hangul HAN */
        {"\xED\x95\x98\xE1\x86\xAB", "\xED\x95\x9C"},             /* HA, final N */
        {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"},             /* composition exclusion QA */
        {"\xEF\xAC\x81", "\xEF\xAC\x81"},                         /* a ligature stays */
        {"", ""},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        check_nfc(examples[i][0], strlen(examples[i][0]), examples[i][1], strlen(examples[i][1]));
}

static void test_invalid_bytes_pass_and_separate(void **state) {
    (void)state;
    static const char *const examples[][2] = {
        {"e\xFF\xCC\x81", "e\xFF\xCC\x81"}, /* the mark does not reach over the byte */
        {"e\xCC\x81\xCC", "\xC3\xA9\xCC"},  /* cut off after a whole mark */
        {"\xCC\x81\xC3(e\xCC\x81", "\xCC\x81\xC3(\xC3\xA9"},
        {"\xED\xA0\x80\xE2\x84\xAB", "\xED\xA0\x80\xC3\x85"}, /* a surrogate */
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        check_nfc(examples[i][0], strlen(examples[i][0]), examples[i][1], strlen(examples[i][1]));
}

/* Every sequence of up to four bytes with interesting values, against table 3-7 of the standard. */
static void test_utf8_forms(void **state) {
    (void)state;
    for (uint32_t c = 0; c <= UNICODE_LAST; c++) {
        uint8_t text[4];
        uint32_t back = 0;
        size_t size = utf8_encode(c, text);
        assert_int_equal(utf8_decode(text, size, &back), is_surrogate(c) ? 0 : size);
        if (is_surrogate(c))
            continue;
        assert_int_equal(back, c);
        for (size_t cut = 1; cut < size; cut++) {
            assert_int_equal(utf8_decode(text, cut, &back), 0);
            assert_int_equal(utf8_incomplete_tail(text, cut), cut);
        }
        assert_int_equal(utf8_incomplete_tail(text, size), 0);
    }
    static const char *const wrong[] = {
        "\x80",         "\xC0\x80",         "\xC1\xBF",         "\xE0\x9F\xBF",
        "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
        "\xFF"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint32_t c;
        assert_int_equal(utf8_decode((const uint8_t *)wrong[i], strlen(wrong[i]), &c), 0);
        assert_int_equal(utf8_incomplete_tail((const uint8_t *)wrong[i], strlen(wrong[i])), 0);
    }
}

/* Table 3-8 of the standard and its neighbours: one U+FFFD for each maximal subpart. */
static void test_replacement(void **state) {
    (void)state;
#define R "\xEF\xBF\xBD"
    static const char *const examples[][2] = {
        {"", ""},
        {"a\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80", "a\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80"},
        {"a\xF1\x80\x80\xE1\x80\xC2"
         "b\x80"
         "c\x80\xBF"
         "d",
         "a" R R R "b" R "c" R R "d"}, /* table 3-8 */
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
         "A",
         R R R R R R R R "A"}, /* table 3-9 */
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
         "A",
         R R R R R R R R "A"}, /* table 3-10 */
        {"\xF4\x91\x92\x93\xFF"
         "A\x80\xBF"
         "B",
         R R R R R "A" R R "B"}, /* table 3-11 */
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
         "A",
         R R R R "A"}, /* table 3-12 */
        {"\xE1", R},
        {"x\xF0\x9F\x98", "x" R},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        const uint8_t *text = (const uint8_t *)examples[i][0];
        size_t size = strlen(examples[i][0]);
        buffer out = {0};
        buffer_append(&out, "", 0);
        utf8_append_valid(text, size, &out);
        assert_string_equal(out.data, examples[i][1]);
        assert_int_equal(utf8_valid_length((const uint8_t *)out.data, out.size), out.size);
        bool same = out.size == size && memcmp(out.data, text, size) == 0;
        assert_int_equal(utf8_valid_length(text, size) == size, same);
        buffer_free(&out);
    }
#undef R
}

/* A megabyte of marks on one letter must take no more than a moment. */
static void test_one_long_cluster(void **state) {
    (void)state;
    enum { PAIRS = 200000 };
    buffer text = {0}, expected = {0}, out = {0};
    buffer_append(&text, "x", 1);
    for (int i = 0; i < PAIRS; i++)
        buffer_append(&text, "\xCC\x87\xCC\xA3", 4); /* dot above (230), dot below (220) */
    /* All dots below come first; none of them blocks a dot above, which composes with x. */
    buffer_append(&expected, "\xE1\xBA\x8B", 3);
    for (int i = 0; i < PAIRS; i++)
        buffer_append(&expected, "\xCC\xA3", 2);
    for (int i = 1; i < PAIRS; i++)
        buffer_append(&expected, "\xCC\x87", 2);
    assert_true(normalize_nfc((const uint8_t *)text.data, text.size, &out));
    assert_int_equal(out.size, expected.size);
    assert_memory_equal(out.data, expected.data, out.size);
    buffer_free(&text);
    buffer_free(&expected);
    buffer_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_published_examples),
        cmocka_unit_test(test_invalid_bytes_pass_and_separate),
        cmocka_unit_test(test_utf8_forms),
        cmocka_unit_test(test_replacement),
        cmocka_unit_test(test_one_long_cluster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
