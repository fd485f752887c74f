/* Writing GGUF: a file's bytes, round trips of everything that a file of the `gguf` package has, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "format/expect_gguf.h"
#include "support/support.h"

#define FIXTURE "tests/format/data/written_by_gguf_py.gguf"

/* Every byte of a file, worked out by hand. */
static void writes_these_bytes(void **state) {
    (void)state;
    static const char expected[] = "GGUF\3\0\0\0"
                                   "\2\0\0\0\0\0\0\0"
                                   "\3\0\0\0\0\0\0\0" /* 24 */
                                   "\1\0\0\0\0\0\0\0a"
                                   "\4\0\0\0"
                                   "\7\0\0\0" /* 41 */
                                   "\1\0\0\0\0\0\0\0t"
                                   "\x09\0\0\0"
                                   "\x08\0\0\0"
                                   "\2\0\0\0\0\0\0\0"
                                   "\2\0\0\0\0\0\0\0xy"
                                   "\0\0\0\0\0\0\0\0" /* 84 */
                                   "\x11\0\0\0\0\0\0\0general.alignment"
                                   "\4\0\0\0"
                                   "\x20\0\0\0" /* 117 */
                                   "\1\0\0\0\0\0\0\0m"
                                   "\2\0\0\0"
                                   "\3\0\0\0\0\0\0\0"
                                   "\1\0\0\0\0\0\0\0"
                                   "\x18\0\0\0"
                                   "\0\0\0\0\0\0\0\0" /* 158 */
                                   "\1\0\0\0\0\0\0\0n"
                                   "\1\0\0\0"
                                   "\1\0\0\0\0\0\0\0"
                                   "\1\0\0\0"
                                   "\x20\0\0\0\0\0\0\0" /* 191 */
                                   "\0"
                                   "123"
                                   "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                                   "45"
                                   "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    static const stored_entry entries[] = {{"m", DTYPE_I8, 2, {1, 3}}, {"n", DTYPE_F16, 1, {1}}};
    const char *path = test_path("bytes.gguf");
    gguf_metadata m = {0};
    gguf_writer *writer;
    gguf_put_u32(&m, "a", 7);
    gguf_put_texts(&m, "t", (gguf_text[]){{"xy", 2}, {"", 0}}, 2);
    assert_int_equal(gguf_writer_open(path, &m, entries, 2, &writer), XLSTM_OK);
    gguf_writer_write(writer, "12", 2);
    gguf_writer_write(writer, "345", 3); /* across a border */
    assert_int_equal(gguf_writer_commit(writer), XLSTM_OK);
    gguf_metadata_free(&m);
    buffer bytes = {0};
    assert_int_equal(file_read(path, 4096, &bytes), XLSTM_OK);
    assert_int_equal(bytes.size, sizeof expected - 1);
    assert_memory_equal(bytes.data, expected, bytes.size);
    buffer_free(&bytes);
}

/* Everything of the package's file written anew and read again, in pieces of `step` bytes. */
static void check_round_trip(const gguf_file *f, size_t step) {
    const char *path = test_path("again.gguf");
    stored_entry entries[64];
    gguf_metadata m = {0};
    gguf_writer *writer;
    const int8_t i8 = -100;
    const double f64 = 0.1;
    const uint64_t large = UINT64_MAX;
    gguf_put(&m, "i8", GGUF_I8, &i8);
    gguf_put(&m, "f64", GGUF_F64, &f64);
    gguf_put(&m, "large", GGUF_U64, &large);
    gguf_put_f32(&m, "f32", 0.15625f);
    gguf_put_bool(&m, "bool", true);
    gguf_put_text(&m, "text", "a\0b", 3);
    gguf_put_array(&m, "numbers", GGUF_U16, (uint16_t[]){1, 65535}, 2);
    for (size_t i = 0; i < f->tensors.count; i++) {
        const stored_tensor *t = &f->tensors.tensors[i];
        entries[i] = (stored_entry){.name = t->name, .dtype = t->dtype, .rank = t->rank};
        memcpy(entries[i].shape, t->shape, sizeof t->shape);
    }
    entries[f->tensors.count] = (stored_entry){"empty", DTYPE_F32, 3, {2, 0, 4}};
    if (gguf_writer_open(path, &m, entries, f->tensors.count + 1, &writer) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    for (size_t i = 0; i < f->tensors.count; i++) {
        const stored_tensor *t = &f->tensors.tensors[i];
        for (size_t at = 0; at < t->size; at += step)
            gguf_writer_write(writer, t->data + at, t->size - at < step ? t->size - at : step);
    }
    assert_int_equal(gguf_writer_commit(writer), XLSTM_OK);
    gguf_metadata_free(&m);
    gguf_file again;
    if (gguf_open(path, &again) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    gguf_expect_integer(&again, "i8", GGUF_I8, -100);
    gguf_expect_integer(&again, "general.alignment", GGUF_U32, 32);
    assert_memory_equal(gguf_find(&again, "f64")->data, &f64, 8);
    assert_memory_equal(gguf_find(&again, "large")->data, &large, 8);
    assert_memory_equal(gguf_find(&again, "numbers")->data, "\1\0\xff\xff", 4);
    gguf_text text;
    assert_true(gguf_get_text(gguf_find(&again, "text"), &text) && text.size == 3);
    assert_memory_equal(text.bytes, "a\0b", 3);
    assert_int_equal(again.value_count, 8);
    assert_int_equal(again.tensors.count, f->tensors.count + 1);
    assert_int_equal(stored_find(&again.tensors, "empty")->size, 0);
    for (size_t i = 0; i < f->tensors.count; i++) {
        const stored_tensor *t = &f->tensors.tensors[i];
        const stored_tensor *u = gguf_expect_tensor(&again, t->name, t->dtype, t->rank);
        assert_memory_equal(t->shape, u->shape, sizeof t->shape);
        assert_int_equal(t->size, u->size);
        assert_memory_equal(t->data, u->data, t->size);
    }
    gguf_close(&again);
}

static void round_trips(void **state) {
    (void)state;
    gguf_file f;
    assert_int_equal(gguf_open(FIXTURE, &f), XLSTM_OK);
    check_round_trip(&f, 1 << 20);
    check_round_trip(&f, 13);
    gguf_close(&f);
}

static void refuses_to_write(void **state) {
    (void)state;
    static const struct {
        stored_entry entries[2];
        const char *part;
    } cases[] = {
        {{{"a", DTYPE_F32, 1, {1}}, {"a", DTYPE_F32, 1, {1}}}, "tensor a: the name is used twice"},
        {{{"a", DTYPE_F32, 1, {1}}, {"", DTYPE_F32, 1, {1}}}, "tensor : a name in a GGUF file has"},
        {{{"a", DTYPE_F32, 1, {1}},
          {"1234567890123456789012345678901234567890123456789012345678901234", DTYPE_F32, 1, {1}}},
         "a name in a GGUF file has 1 to 63 bytes"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_U8, 1, {1}}}, "tensor b: GGUF files have no such"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_F32, 5, {1, 1, 1, 1, 1}}}, "tensor b: a tensor of"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_F32, 1, {-1}}}, "tensor b: its shape is too large"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_F32, 2, {INT64_MAX, 3}}}, "tensor b: its shape is"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_F32, 1, {INT64_MAX}}}, "tensor b: its shape is"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_Q8_0, 2, {32, 16}}}, "tensor b: its rows are not"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_Q8_0, 0, {0}}}, "tensor b: its rows are not"},
        {{{"a", DTYPE_I8, 1, {INT64_MAX - 99}}, {"b", DTYPE_I8, 1, {100}}},
         "the file would be too"},
    };
    const char *path = test_path("unwritten.gguf");
    int before = test_count_entries(test_folder());
    const gguf_metadata none = {0};
    gguf_writer *writer;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(gguf_writer_open(path, &none, cases[i].entries, 2, &writer),
                         XLSTM_INVALID_ARGUMENT);
        assert_null(writer);
        test_expect_message(cases[i].part);
    }
    for (size_t bytes = 0; bytes < 6; bytes++) {
        assert_int_equal(gguf_writer_open(path, &none, cases[0].entries, 1, &writer), XLSTM_OK);
        gguf_writer_write(writer, "12345", bytes);
        if (bytes == 4) {
            gguf_writer_cancel(writer);
            continue;
        }
        assert_int_equal(gguf_writer_commit(writer), XLSTM_INVALID_ARGUMENT);
        test_expect_message(bytes < 4 ? "less data was written than the tensors need"
                                      : "more data was");
    }
    gguf_writer_cancel(NULL);
    assert_int_equal(test_count_entries(test_folder()), before); /* nothing is left behind */
    assert_int_equal(gguf_writer_open(test_path("no/such"), &none, cases[0].entries, 1, &writer),
                     XLSTM_IO_ERROR);
}

static void refuses_wrong_metadata(void **state) {
    (void)state;
    static const char *const keys[][2] = {
        {"", "a key has 1 to"}, {"k", "given twice"}, {"general.alignment", "is the writer's"}};
    gguf_writer *writer;
    for (size_t i = 0; i < 3; i++) {
        gguf_metadata m = {0};
        gguf_put_u32(&m, "k", 1);
        gguf_put_u32(&m, keys[i][0], 1);
        assert_int_equal(gguf_writer_open(test_path("un.gguf"), &m, NULL, 0, &writer),
                         XLSTM_INVALID_ARGUMENT);
        test_expect_message(keys[i][1]);
        gguf_metadata_free(&m);
    }
    gguf_metadata m = {0};
    gguf_put_array(&m, "k", GGUF_TEXT, "", 1);
    assert_int_equal(gguf_writer_open(test_path("un.gguf"), &m, NULL, 0, &writer),
                     XLSTM_INVALID_ARGUMENT);
    test_expect_message("a value has a wrong type");
    gguf_metadata_free(&m);
}

static void names_file_types(void **state) {
    (void)state;
    static const struct {
        dtype type;
        uint32_t number; /* of the format's documentation */
    } cases[] = {{DTYPE_F32, 0},  {DTYPE_F16, 1},     {DTYPE_Q4_0, 2},
                 {DTYPE_Q4_1, 3}, {DTYPE_Q8_0, 7},    {DTYPE_Q5_0, 8},
                 {DTYPE_Q5_1, 9}, {DTYPE_IQ4_NL, 25}, {DTYPE_BF16, 32}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(gguf_file_type(cases[i].type), cases[i].number);
        assert_string_equal(gguf_file_type_name(cases[i].number), dtype_name(cases[i].type));
    }
    assert_null(gguf_file_type_name(15));
    assert_null(gguf_file_type_name(-1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_these_bytes), cmocka_unit_test(round_trips),
        cmocka_unit_test(refuses_to_write),   cmocka_unit_test(refuses_wrong_metadata),
        cmocka_unit_test(names_file_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
