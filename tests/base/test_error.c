/* Messages: what is set is what is told, a thread at a time; lists keep every line. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/error.h"

static void test_set_prefix_system(void **state) {
    (void)state;
    assert_int_equal(error_set(XLSTM_FORMAT_ERROR, "head count is %d", 0), XLSTM_FORMAT_ERROR);
    assert_string_equal(xlstm_last_error(), "head count is 0");
    error_set(XLSTM_FORMAT_ERROR, "first\nsecond");
    assert_int_equal(error_prefix(XLSTM_IO_ERROR, "in %s", "x.json"), XLSTM_IO_ERROR);
    assert_string_equal(xlstm_last_error(), "in x.json: first\nin x.json: second");
    error_set(XLSTM_IO_ERROR, "outer: %s",
              xlstm_last_error()); /* the message as its own argument */
    assert_string_equal(xlstm_last_error(), "outer: in x.json: first\nin x.json: second");
    errno = ENOENT;
    assert_int_equal(error_system("open", "/no/such"), XLSTM_IO_ERROR);
    assert_string_equal(xlstm_last_error(), "cannot open /no/such: No such file or directory");
    assert_int_equal(error_memory(12, "a tensor"), XLSTM_OUT_OF_MEMORY);
    assert_string_equal(xlstm_last_error(), "out of memory: 12 bytes for a tensor");
}

static void test_hostile_and_long_text(void **state) {
    (void)state;
    error_set(XLSTM_FORMAT_ERROR, "tensor \"%s\"", "a\x1b[2Jb\r\x7f");
    assert_string_equal(xlstm_last_error(), "tensor \"a?[2Jb??\"");
    enum { LENGTH = 100000 };
    char *text = malloc(LENGTH + 1);
    assert_non_null(text);
    for (int i = 0; i < LENGTH; i += 2)
        memcpy(text + i, "\xC3\xA9", 2); /* é: a cut must not fall within */
    text[LENGTH] = '\0';
    for (int shift = 0; shift < 2; shift++) {
        error_set(XLSTM_FORMAT_ERROR, "%s%s", shift ? "x" : "", text);
        const char *told = xlstm_last_error();
        size_t length = strlen(told);
        assert_true(length > 1000 && length < LENGTH);
        assert_string_equal(told + length - 4, " ...");
        assert_int_equal((unsigned char)told[length - 5], 0xA9);
        assert_memory_equal(told + shift, text, length - 4 - (size_t)shift);
    }
    free(text);
}

static void test_list(void **state) {
    (void)state;
    error_list list = {0};
    assert_int_equal(error_list_finish(&list, XLSTM_FORMAT_ERROR), XLSTM_OK);
    error_list_add(&list, "one %d", 1);
    error_list_add(&list, "two\nlines"); /* a name with a line end stays one line */
    error_set(XLSTM_FORMAT_ERROR, "three\nfour");
    error_list_add_last(&list);
    assert_int_equal(list.count, 4);
    assert_int_equal(error_list_finish(&list, XLSTM_FORMAT_ERROR), XLSTM_FORMAT_ERROR);
    assert_string_equal(xlstm_last_error(), "one 1\ntwo?lines\nthree\nfour");
    assert_null(list.text);
    assert_int_equal(list.count, 0);

    for (int i = 0; i < 250; i++)
        error_list_add(&list, "fault %d", i);
    error_list_finish(&list, XLSTM_FORMAT_ERROR);
    int lines = 1;
    for (const char *c = xlstm_last_error(); *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 101);
    assert_non_null(strstr(xlstm_last_error(), "fault 99\nand 150 more"));
}

static void *other_thread(void *argument) {
    (void)argument;
    int empty = xlstm_last_error()[0] == '\0';
    error_set(XLSTM_IO_ERROR, "of the other thread");
    return empty ? NULL : (void *)1;
}

static void test_threads_do_not_share(void **state) {
    (void)state;
    error_set(XLSTM_IO_ERROR, "of this thread");
    pthread_t thread;
    void *result;
    assert_int_equal(pthread_create(&thread, NULL, other_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_null(result);
    assert_string_equal(xlstm_last_error(), "of this thread");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_prefix_system), cmocka_unit_test(test_hostile_and_long_text),
        cmocka_unit_test(test_list), cmocka_unit_test(test_threads_do_not_share)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
