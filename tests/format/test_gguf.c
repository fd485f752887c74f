/* Reading GGUF: files that are wrong in every way, cut at every byte, a file of the `gguf` package.
 */
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

/* ---- Files that are wrong ---- */

typedef struct tensor_spec {
    const char *name;
    uint32_t rank;
    uint64_t dimensions[5];
    uint32_t type; /* 0 is F32 */
    uint64_t offset;
} tensor_spec;

/* What is 0 is right: two tensors of 8 floats each behind a value of alignment 32. */
typedef struct file_spec {
    const char *magic;
    uint32_t version;
    uint64_t more_tensors, more_values; /* than there are */
    const char *value;                  /* a second value, and its size */
    size_t value_size;
    uint32_t alignment, alignment_type;
    tensor_spec a, b;
    int64_t more_data; /* than 64 bytes */
} file_spec;

static void put(buffer *out, const void *bytes, size_t size) {
    buffer_append(out, bytes, size);
}

static void put_u32(buffer *out, uint32_t value) {
    put(out, &value, sizeof value);
}

static void put_u64(buffer *out, uint64_t value) {
    put(out, &value, sizeof value);
}

static void put_text(buffer *out, const char *text) {
    put_u64(out, strlen(text));
    put(out, text, strlen(text));
}

static void put_tensor(buffer *out, const tensor_spec *given, const tensor_spec *usual) {
    const tensor_spec *t = given->name ? given : usual;
    put_text(out, t->name);
    put_u32(out, t->rank);
    for (uint32_t i = 0; i < t->rank && i < 5; i++)
        put_u64(out, t->dimensions[i]);
    put_u32(out, t->type);
    put_u64(out, t->offset);
}

static buffer make_file(const file_spec *s) {
    static const tensor_spec a = {"a", 2, {4, 2}, 0, 0}, b = {"b", 1, {8}, 0, 32};
    static const uint8_t zeros[512];
    buffer out = {0};
    put(&out, s->magic ? s->magic : "GGUF", 4);
    put_u32(&out, s->version ? s->version : 3);
    put_u64(&out, 2 + s->more_tensors);
    put_u64(&out, (s->value ? 2 : 1) + s->more_values);
    put_text(&out, "general.alignment");
    put_u32(&out, s->alignment_type ? s->alignment_type : GGUF_U32);
    put_u32(&out, s->alignment ? s->alignment : 32);
    put(&out, s->value ? s->value : "", s->value_size);
    put_tensor(&out, &s->a, &a);
    put_tensor(&out, &s->b, &b);
    size_t alignment = s->alignment ? s->alignment : 32;
    put(&out, zeros, (alignment - out.size % alignment) % alignment);
    put(&out, zeros, (size_t)(64 + s->more_data));
    assert_false(out.failed);
    return out;
}

/* In memory of exactly that size, so that a sanitizer sees what reads beyond it. */
static xlstm_status parse(const void *bytes, size_t size) {
    uint8_t *copy = malloc(size + (size == 0));
    gguf_file file;
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    xlstm_status status = gguf_parse(copy, size, "f", &file);
    for (size_t i = 0; status == XLSTM_OK && i < file.tensors.count; i++) {
        const stored_tensor *t = &file.tensors.tensors[i];
        assert_true(t->data >= copy && t->data + t->size <= copy + size);
    }
    gguf_close(&file);
    free(copy);
    return status;
}

#define VALUE(text) .value = text, .value_size = sizeof text - 1
#define KEY "\1\0\0\0\0\0\0\0k"
#define LAST "\xff\xff\xff\xff\xff\xff\xff\xff"

static void refuses_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        file_spec spec;
        const char *error; /* the whole of it, or a part that begins with '~' */
    } cases[] = {
        {{.magic = "GGML"}, "f: not a GGUF file: it does not begin with \"GGUF\""},
        {{.version = 1}, "f: header: version 1 is not supported; 2 and 3 are"},
        {{.version = 4}, "f: header: version 4 is not supported; 2 and 3 are"},
        {{.version = 3u << 24}, "~header: the file is big-endian; only little-endian"},
        {{.more_values = UINT64_MAX - 4},
         "f: header: 18446744073709551612 values do not fit into a file of 224 bytes"},
        {{.more_tensors = UINT64_MAX - 4},
         "f: header: 18446744073709551613 tensors do not fit into a file of 224 bytes"},
        {{.more_values = 14},
         "f: header: 15 values do not fit into a file of 224 bytes"}, /* of 14 bytes each */
        {{.more_tensors = 7}, "f: header: 9 tensors do not fit into a file of 224 bytes"},
        {{.more_values = 1}, "~f: tensor 0: the file is cut short: "},
        {{.more_tensors = 1}, "~f: tensor 2: its name has 0 bytes"},
        {{VALUE("\0\0\0\0\0\0\0\0"
                "\4\0\0\0"
                "\0\0\0\0")},
         "f: value 1: its key has 0 bytes; 1 to 65535 are possible, none of them NUL"},
        {{VALUE("\2\0\0\0\0\0\0\0"
                "k\0"
                "\4\0\0\0"
                "\0\0\0\0")},
         "~f: value 1: its key has 2 bytes"},
        {{VALUE(LAST "k"
                     "\4\0\0\0"
                     "\0\0\0\0")},
         "~f: value 1: the file is cut short: 18446744073709551615 bytes are wanted at byte 65 of"},
        {{VALUE(KEY "\x0d\0\0\0"
                    "\0")},
         "f: value k: type 13 is unknown; types are 0 to 12"},
        {{VALUE(KEY "\x07\0\0\0"
                    "\2")},
         "f: value k: a boolean is 2; it must be 0 or 1"},
        {{VALUE(KEY "\x09\0\0\0"
                    "\x09\0\0\0"
                    "\1\0\0\0\0\0\0\0")},
         "f: value k: an array of arrays; such values are not supported"},
        {{VALUE(KEY "\x09\0\0\0"
                    "\x0e\0\0\0"
                    "\1\0\0\0\0\0\0\0")},
         "f: value k: type 14 is unknown; types are 0 to 12"},
        {{VALUE(KEY "\x09\0\0\0"
                    "\4\0\0\0" LAST)},
         "f: value k: an array of 18446744073709551615 elements is larger than any file"},
        {{VALUE(KEY "\x09\0\0\0"
                    "\0\0\0\0" LAST)},
         "~f: value k: the file is cut short"},
        {{VALUE(KEY "\x09\0\0\0"
                    "\x08\0\0\0" LAST)},
         "~f: value k: the file is cut short"},
        {{VALUE("\x11\0\0\0\0\0\0\0general.alignment"
                "\0\0\0\0"
                "\1")},
         "f: value general.alignment: the key is there twice"},
        {{.alignment = 24}, "f: value general.alignment: 24 is not a power of two"},
        {{.alignment_type = GGUF_F32}, "f: value general.alignment: it must be a u32"},
        {{.alignment_type = GGUF_I32}, "f: value general.alignment: it must be a u32"},
        {{.a = {"", 1, {8}, 0, 0}},
         "f: tensor 0: its name has 0 bytes; 1 to 64 are possible, none of them NUL"},
        {{.a = {"12345678901234567890123456789012345678901234567890123456789012345", 1, {8}, 0, 0}},
         "~f: tensor 0: its name has 65 bytes"},
        {{.b = {"a", 1, {8}, 0, 32}}, "f: tensor a: the name is there twice"},
        {{.a = {"a", 5, {8, 1, 1, 1, 1}, 0, 0}},
         "f: tensor a: it has 5 dimensions; at most 4 are possible"},
        {{.a = {"a", 2, {1ull << 63, 1}, 0, 0}}, "~f: tensor a: its shape overflows: the dim"},
        {{.a = {"a", 3, {1ull << 32, 1ull << 31, 4}, 0, 0}}, "~f: tensor a: its shape overflows"},
        {{.a = {"a", 2, {1ull << 32, 1ull << 30}, 0, 0}},
         "f: tensor a: its shape overflows: its size in bytes exceeds 64 bits"},
        {{.a = {"a", 1, {8}, 12, 0}}, "~f: tensor a: type 12 Q4_K is not supported; F32, F16"},
        {{.a = {"a", 1, {8}, 39, 0}}, "~f: tensor a: type 39 MXFP4 is not supported"},
        {{.a = {"a", 1, {8}, 31, 0}}, "~f: tensor a: type 31 is not supported"},
        {{.a = {"a", 1, {8}, UINT32_MAX, 0}}, "~f: tensor a: type 4294967295 is not supported"},
        {{.a = {"a", 2, {16, 2}, 8, 0}},
         "f: tensor a: rows of 16 elements are not whole blocks of 32, as q8_0 has them"},
        {{.a = {"a", 0, {0}, 8, 0}}, "~f: tensor a: rows of 1 elements are not whole blocks"},
        {{.b = {"b", 1, {8}, 0, 36}},
         "f: tensor b: it begins at byte 36 of the data, which is no multiple of 32"},
        {{.b = {"b", 1, {8}, 0, 0}},
         "f: tensor b: it begins at byte 0 of the data, within tensor a"},
        {{.b = {"b", 1, {8}, 0, 64}, .more_data = 32},
         "f: tensor b: it begins at byte 64 of the data instead of 32, where the one before ends"},
        {{.a = {"a", 1, {8}, 0, 32}, .b = {"b", 1, {8}, 0, 64}, .more_data = 32},
         "f: tensor a: it begins at byte 32 of the data instead of 0, where the one before ends"},
        {{.b = {"b", 1, {8}, 0, UINT64_MAX - 31}}, "~f: tensor b: it begins at byte 184467440737"},
        {{.b = {"b", 1, {9}, 0, 32}},
         "f: tensor b: the file is cut short: its data is bytes 32 to 68 of the data, and 64 are "
         "there"},
        {{.a = {"a", 2, {4, 1ull << 40}, 0, 0}},
         "~f: tensor a: the file is cut short: its data is bytes 0 to 1759"},
        {{.more_data = 1}, "f: 1 bytes follow the last tensor"},
        /* Several at once. */
        {{.a = {"a", 1, {8}, 12, 0}, .b = {"b", 2, {16, 2}, 8, 3}},
         "~\nf: tensor b: it begins at byte 3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *error = cases[i].error;
        buffer file = make_file(&cases[i].spec);
        xlstm_status status = parse(file.data, file.size);
        if (status != XLSTM_FORMAT_ERROR)
            fail_msg("case %zu: status %d instead of \"%s\"", i, (int)status, error);
        if (*error == '~')
            test_expect_message(error + 1);
        else
            assert_string_equal(xlstm_last_error(), error);
        buffer_free(&file);
    }
}

static void accepts_what_is_right(void **state) {
    (void)state;
    static const file_spec cases[] = {
        {0},
        {.version = 2},
        {.alignment = 1, .b = {"b", 1, {8}, 0, 32}},
        {.a = {"a", 0, {0}, 0, 0}},     /* a scalar */
        {.a = {"a", 2, {0, 5}, 0, 32}}, /* empty, where b begins */
        {.a = {"a", 1, {32}, 20, 0}, .b = {"b", 1, {8}, 0, 32}},
        {VALUE(KEY "\x09\0\0\0"
                   "\x08\0\0\0"
                   "\0\0\0\0\0\0\0\0")},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        buffer file = make_file(&cases[i]);
        if (i == 4) { /* `a` takes no bytes */
            buffer_free(&file);
            file_spec spec = cases[i];
            spec.b = (tensor_spec){"b", 1, {8}, 0, 0};
            spec.more_data = -32;
            file = make_file(&spec);
        }
        if (parse(file.data, file.size) != XLSTM_OK)
            fail_msg("case %zu: %s", i, xlstm_last_error());
        buffer_free(&file);
    }
}

/* ---- Damage everywhere ---- */

static buffer read_fixture(void) {
    buffer bytes = {0};
    if (file_read(FIXTURE, 1 << 20, &bytes) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return bytes;
}

static void refuses_every_cut(void **state) {
    (void)state;
    buffer small = make_file(&(file_spec){VALUE(KEY "\x09\0\0\0"
                                                    "\x08\0\0\0"
                                                    "\1\0\0\0\0\0\0\0" KEY)});
    buffer bytes[2] = {small, read_fixture()};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(parse(bytes[i].data, bytes[i].size), XLSTM_OK);
        for (size_t size = 0; size < bytes[i].size; size++) {
            if (parse(bytes[i].data, size) != XLSTM_FORMAT_ERROR)
                fail_msg("a file cut to %zu of %zu bytes was accepted", size, bytes[i].size);
            assert_null(strchr(xlstm_last_error(), '\n'));
            if (size >= 4 && !strstr(xlstm_last_error(), "cut short") &&
                !strstr(xlstm_last_error(), "do not fit"))
                fail_msg("cut to %zu: %s", size, xlstm_last_error());
        }
        buffer_free(&bytes[i]);
    }
}

/* Whatever a byte becomes: an error, or tensors within the file. */
static void survives_every_wrong_byte(void **state) {
    (void)state;
    static const uint8_t changes[] = {0x01, 0x80, 0xFF, 0x1F};
    buffer bytes = read_fixture();
    size_t refused = 0, head = 1600; /* the rest is data */
    for (size_t at = 0; at < head; at++) {
        for (size_t i = 0; i < sizeof changes; i++) {
            bytes.data[at] = (char)(bytes.data[at] ^ changes[i]);
            refused += parse(bytes.data, bytes.size) != XLSTM_OK;
            bytes.data[at] = (char)(bytes.data[at] ^ changes[i]);
        }
    }
    assert_true(refused > head * 2);
    buffer_free(&bytes);
}

/* ---- A file of the gguf package ---- */

static void check_values(const gguf_file *f) {
    gguf_expect_integer(f, "a.u8", GGUF_U8, 200);
    gguf_expect_integer(f, "a.i8", GGUF_I8, -100);
    gguf_expect_integer(f, "a.u16", GGUF_U16, 60000);
    gguf_expect_integer(f, "a.i16", GGUF_I16, -30000);
    gguf_expect_integer(f, "a.u32", GGUF_U32, 4000000000);
    gguf_expect_integer(f, "a.i32", GGUF_I32, -2000000000);
    gguf_expect_integer(f, "a.u64", GGUF_U64, INT64_MAX);
    gguf_expect_integer(f, "a.i64", GGUF_I64, INT64_MIN);
    int64_t integer;
    gguf_text text;
    assert_false(gguf_get_integer(gguf_find(f, "a.large"), &integer));
    assert_false(gguf_get_integer(gguf_find(f, "a.f32"), &integer));
    assert_false(gguf_get_integer(gguf_find(f, "a.bool"), &integer));
    assert_false(gguf_get_integer(gguf_find(f, "a.numbers"), &integer));
    assert_false(gguf_get_integer(NULL, &integer));
    assert_false(gguf_get_text(NULL, &text));
    assert_false(gguf_get_text(gguf_find(f, "a.u8"), &text));
    assert_true(gguf_get_text(gguf_find(f, "a.text"), &text));
    assert_int_equal(text.size, 8);
    assert_memory_equal(text.bytes,
                        "gr\xc3\xb6\xc3\x9f"
                        "er",
                        8);
    float f32;
    double f64;
    memcpy(&f32, gguf_find(f, "a.f32")->data, sizeof f32);
    memcpy(&f64, gguf_find(f, "a.f64")->data, sizeof f64);
    assert_true(f32 == 0.15625f && f64 == 0.1);
    assert_int_equal(gguf_find(f, "a.bool")->data[0], 1);
    const gguf_value *array = gguf_find(f, "a.numbers");
    int32_t numbers[3];
    assert_true(array->type == GGUF_ARRAY && array->element == GGUF_I32 && array->count == 3);
    memcpy(numbers, array->data, sizeof numbers);
    assert_true(numbers[0] == 1 && numbers[1] == -2 && numbers[2] == 3);
    array = gguf_find(f, "a.texts");
    assert_true(array->element == GGUF_TEXT && array->count == 3 && array->size == 24 + 7);
    assert_null(gguf_find(f, "a"));
    assert_null(gguf_find(f, "a.texts."));
}

static void reads_a_file_of_the_gguf_package(void **state) {
    (void)state;
    gguf_file f;
    if (gguf_open(FIXTURE, &f) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_int_equal(f.version, 3);
    assert_int_equal(f.alignment, 32);
    assert_int_equal(f.tensors.count, 21);
    check_values(&f);
    static const dtype reals[] = {DTYPE_F32, DTYPE_F64, DTYPE_F16};
    static const dtype integers[] = {DTYPE_I8, DTYPE_I16, DTYPE_I32, DTYPE_I64};
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "t.%s", dtype_name(reals[i]));
        const stored_tensor *t = gguf_expect_tensor(&f, name, reals[i], 3);
        assert_true(t->shape[0] == 2 && t->shape[1] == 3 && t->shape[2] == 4);
        for (int j = 0; j < 24; j++)
            assert_true(dtype_load(t->dtype, t->data, j) == j - 7);
    }
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "t.%s", dtype_name(integers[i]));
        const stored_tensor *t = gguf_expect_tensor(&f, name, integers[i], 1);
        assert_int_equal(t->size, 5 << i);
        int64_t first = 0;
        memcpy(&first, t->data + ((size_t)2 << i), (size_t)1 << i); /* -1 in the second place */
        assert_int_equal(t->data[0], 0xFE);
        assert_int_equal(first, 0);
    }
    static const dtype packed[] = {DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q5_0,  DTYPE_Q5_1,
                                   DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_IQ4_NL};
    for (size_t i = 0; i < sizeof packed / sizeof packed[0]; i++) {
        snprintf(name, sizeof name, "t.%s", dtype_name(packed[i]));
        const stored_tensor *t = gguf_expect_tensor(&f, name, packed[i], 2);
        strcat(name, ".values");
        const stored_tensor *values = gguf_expect_tensor(&f, name, DTYPE_F32, 2);
        assert_true(t->shape[0] == 3 && t->shape[1] == 64 && values->size == 3 * 64 * 4);
        float decoded[3 * 64];
        dtype_convert(packed[i], t->data, DTYPE_F32, decoded, 3 * 64);
        assert_memory_equal(decoded, values->data, values->size);
    }
    gguf_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_wrong),
        cmocka_unit_test(accepts_what_is_right),
        cmocka_unit_test(refuses_every_cut),
        cmocka_unit_test(survives_every_wrong_byte),
        cmocka_unit_test(reads_a_file_of_the_gguf_package),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
