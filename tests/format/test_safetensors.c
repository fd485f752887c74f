/* safetensors: headers and sizes that are wrong in every way, several faults in one error, round
 * trips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "format/safetensors.h"
#include "support/support.h"

static int count_lines(const char *text) {
    int lines = 1;
    for (; *text != '\0'; text++)
        lines += *text == '\n';
    return lines;
}

/* A file with that header and `size` bytes 0, 1, 2 … of data. Released with free. */
static uint8_t *make_file(const char *header, size_t size, size_t *total) {
    size_t length = strlen(header);
    uint8_t *bytes = malloc(8 + length + size);
    assert_non_null(bytes);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < size; i++)
        bytes[8 + length + i] = (uint8_t)i;
    *total = 8 + length + size;
    return bytes;
}

static xlstm_status parse(const char *header, size_t size) {
    size_t total;
    stored_tensors s;
    uint8_t *bytes = make_file(header, size, &total);
    xlstm_status status = safetensors_parse(bytes, total, "f", &s);
    stored_close(&s);
    free(bytes);
    return status;
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"a\": {\"dtype\": " dtype ", \"shape\": " shape ", \"data_offsets\": " offsets "}}"

static void refuses_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t size;
        const char *error; /* the whole of it, or a part that begins with '~' */
    } cases[] = {
        {"", 0, "f: not valid JSON: it is empty"},
        {"{", 0, "~f: not valid JSON: line 1, column 1"},
        {"[]", 0, "f: the header is not a JSON object"},
        {"{\"a\": 1}", 0, "f: tensor a: its entry is no object with dtype, shape and data_offsets"},
        {"{\"a\": {}, \"a\": {}}", 0, "~duplicate object key near '\"a\"'"},
        {ONE("\"F8_E4M3\"", "[2]", "[0, 2]"), 2,
         "~f: tensor a: dtype F8_E4M3 is not supported; F64, F32, BF16"},
        {ONE("\"f32\"", "[1]", "[0, 4]"), 4, "~tensor a: dtype f32 is not supported"},
        {ONE("7", "[1]", "[0, 4]"), 4, "f: tensor a: dtype is missing or no string"},
        {"{\"a\": {\"shape\": [1], \"data_offsets\": [0, 4]}}", 4,
         "f: tensor a: dtype is missing or no string"},
        {ONE("\"F32\"", "1", "[0, 4]"), 4, "f: tensor a: shape is missing or no array"},
        {ONE("\"F32\"", "[1.0]", "[0, 4]"), 4,
         "f: tensor a: dimension 0 of shape is not a non-negative integer"},
        {ONE("\"F32\"", "[1, -1]", "[0, 4]"), 4,
         "f: tensor a: dimension 1 of shape is not a non-negative integer"},
        {ONE("\"F32\"", "[\"1\"]", "[0, 4]"), 4,
         "f: tensor a: dimension 0 of shape is not a non-negative integer"},
        {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0, 4]"), 4,
         "f: tensor a: shape has 9 dimensions; at most 8 are supported"},
        {ONE("\"F32\"", "[4294967296, 4294967296]", "[0, 4]"), 4,
         "f: tensor a: shape overflows: its dimensions multiply to more than 63 bits"},
        {ONE("\"F32\"", "[4611686018427387904]", "[0, 0]"), 0,
         "f: tensor a: shape overflows: its size in bytes exceeds 64 bits"},
        {ONE("\"F32\"", "[9223372036854775808]", "[0, 0]"), 0, "~too big integer"},
        {ONE("\"F32\"", "[1]", "[0]"), 4,
         "f: tensor a: data_offsets is missing or not an array of two integers"},
        {ONE("\"F32\"", "[1]", "[0, 4, 8]"), 4,
         "f: tensor a: data_offsets is missing or not an array of two integers"},
        {ONE("\"F32\"", "[1]", "[0, 4.0]"), 4,
         "f: tensor a: data_offsets is missing or not an array of two integers"},
        {ONE("\"F32\"", "[1]", "{\"0\": 4}"), 4,
         "f: tensor a: data_offsets is missing or not an array of two integers"},
        {ONE("\"F32\"", "[1]", "[4, 0]"), 4,
         "f: tensor a: data_offsets [4, 0] is not a range: 0 <= begin <= end"},
        {ONE("\"F32\"", "[1]", "[-4, 0]"), 4,
         "f: tensor a: data_offsets [-4, 0] is not a range: 0 <= begin <= end"},
        {ONE("\"F32\"", "[2]", "[0, 4]"), 4,
         "f: tensor a: shape and dtype ask for 8 bytes, data_offsets [0, 4] hold 4"},
        {ONE("\"F32\"", "[]", "[0, 8]"), 8,
         "f: tensor a: shape and dtype ask for 4 bytes, data_offsets [0, 8] hold 8"},
        {ONE("\"F32\"", "[1]", "[4, 8]"), 8,
         "f: tensor a: begins at byte 4, but the data before it ends at 0: a gap"},
        {ONE("\"F32\"", "[1]", "[0, 4]"), 5,
         "f: 1 bytes follow the last tensor; no tensor accounts for them"},
        {"{}", 3, "f: 3 bytes follow the last tensor; no tensor accounts for them"},
        {ONE("\"F32\"", "[2]", "[0, 8]"), 7,
         "f: tensor a: the file is cut short: 8 bytes of data are announced, 7 are there; tensors "
         "affected: 1"},
        {ONE("\"U8\"", "[9223372036854775807]", "[0, 9223372036854775807]"), 7,
         "f: tensor a: the file is cut short: 9223372036854775807 bytes of data are announced, 7 "
         "are there; "
         "tensors affected: 1"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [0, 4]},"
         " \"b\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [3, 7]}}",
         7, "f: tensor b: overlaps tensor a: it begins at byte 3 before that ends at 4"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [9], \"data_offsets\": [1, 10]},"
         " \"b\": {\"dtype\": \"U8\", \"shape\": [0], \"data_offsets\": [0, 0]}}",
         9,
         "f: tensor a: begins at byte 1, but the data before it ends at 0: a gap\n"
         "f: tensor a: ends at byte 10 of the data, but the file has only 9"},
        {"{\"x\\ny\\u001b\": 1}", 0,
         "f: tensor x?y?: its entry is no object with dtype, shape and data_offsets"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (parse(cases[i].header, cases[i].size) != XLSTM_FORMAT_ERROR)
            fail_msg("not refused: %s", cases[i].header);
        if (cases[i].error[0] == '~')
            test_expect_message(cases[i].error + 1);
        else
            assert_string_equal(xlstm_last_error(), cases[i].error);
    }
}

static void refuses_bad_lengths(void **state) {
    (void)state;
    static const uint8_t absurd[16] = {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'};
    static const uint8_t above[16] = {0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, '{', '}'}; /* 10^8 + 1 */
    static const uint8_t beyond[10] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    stored_tensors s;
    for (size_t size = 0; size < 8; size++) {
        assert_int_equal(safetensors_parse(absurd, size, "f", &s), XLSTM_FORMAT_ERROR);
        test_expect_message(
            "bytes are no safetensors file: it begins with 8 bytes of header length");
    }
    assert_int_equal(safetensors_parse(absurd, sizeof absurd, "f", &s), XLSTM_FORMAT_ERROR);
    assert_string_equal(xlstm_last_error(),
                        "f: not a safetensors file: a header of 18446744073709551615 "
                        "bytes, at most 100000000 are allowed");
    assert_int_equal(safetensors_parse(above, sizeof above, "f", &s), XLSTM_FORMAT_ERROR);
    test_expect_message("a header of 100000001 bytes");
    assert_int_equal(safetensors_parse(beyond, sizeof beyond, "f", &s), XLSTM_FORMAT_ERROR);
    assert_string_equal(xlstm_last_error(),
                        "f: cut short within the header: it has 3 bytes, the file only 10");
}

static void bounds_the_depth(void **state) {
    (void)state;
    enum { DEPTH = 200000 };
    static const char *const units[] = {"[", "{\"a\":"};
    for (size_t i = 0; i < 2; i++) {
        size_t size = strlen(units[i]);
        char *header = calloc(DEPTH * size + 1, 1);
        assert_non_null(header);
        for (size_t at = 0; at < DEPTH; at++)
            memcpy(header + at * size, units[i], size);
        assert_int_equal(parse(header, 0), XLSTM_FORMAT_ERROR);
        test_expect_message("depth");
        free(header);
    }
}

/* Every fault of every file, a line each, in one error. */
static void reports_all_faults(void **state) {
    (void)state;
    const char *paths[3] = {test_path("one"), test_path("two"), test_path("none")};
    size_t size;
    uint8_t *bytes =
        make_file("{\"a\": {\"dtype\": \"F8_E5M2\", \"shape\": [4], \"data_offsets\": [0, 4]},"
                  " \"b\": {\"dtype\": \"U8\", \"shape\": [3], \"data_offsets\": [4, 8]},"
                  " \"c\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [8, 12]},"
                  " \"d\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [10, 14]}}",
                  12, &size);
    test_write_file(paths[0], bytes, size);
    free(bytes);
    bytes = make_file("{\"c\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [0, 4]}}", 4,
                      &size);
    test_write_file(paths[1], bytes, size);
    free(bytes);
    stored_tensors s;
    char expected[2000];
    snprintf(expected, sizeof expected,
             "%s: tensor a: dtype F8_E5M2 is not supported; F64, F32, BF16, F16, BOOL and integers "
             "of 8 to 64 "
             "bits are\n"
             "%s: tensor b: shape and dtype ask for 3 bytes, data_offsets [4, 8] hold 4\n"
             "%s: tensor d: overlaps tensor c: it begins at byte 10 before that ends at 12\n"
             "%s: tensor d: ends at byte 14 of the data, but the file has only 12\n"
             "cannot open %s: No such file or directory\n"
             "%s: tensor c: it is also in %s",
             paths[0], paths[0], paths[0], paths[0], paths[2], paths[1], paths[0]);
    assert_int_equal(safetensors_open(paths, 3, &s), XLSTM_FORMAT_ERROR);
    assert_string_equal(xlstm_last_error(), expected);
    assert_null(s.tensors);
    assert_int_equal(safetensors_open(paths + 2, 1, &s), XLSTM_IO_ERROR);
}

static void bounds_the_report(void **state) {
    (void)state;
    char *header = calloc(1, 100000);
    assert_non_null(header);
    size_t at = 0;
    for (int i = 0; i < 1000; i++)
        at += (size_t)sprintf(header + at, "%c\"%d\": 0", i == 0 ? '{' : ',', i);
    header[at] = '}';
    assert_int_equal(parse(header, 0), XLSTM_FORMAT_ERROR);
    assert_int_equal(count_lines(xlstm_last_error()), 101);
    test_expect_message("and 900 more");
    free(header);
}

static void refuses_what_is_no_file(void **state) {
    (void)state;
    const char *folder = test_folder(), *pipe = test_path("pipe"), *empty = test_path("empty");
    stored_tensors s;
    assert_int_equal(safetensors_open(&folder, 1, &s), XLSTM_IO_ERROR);
    test_expect_message("is a folder");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_int_equal(safetensors_open(&pipe, 1, &s), XLSTM_IO_ERROR);
    test_expect_message("not a regular file");
    test_write_file(empty, "", 0);
    assert_int_equal(safetensors_open(&empty, 1, &s), XLSTM_FORMAT_ERROR);
    test_expect_message("0 bytes are no safetensors file");
    if (geteuid() != 0) {
        assert_int_equal(chmod(empty, 0), 0);
        assert_int_equal(safetensors_open(&empty, 1, &s), XLSTM_IO_ERROR);
        test_expect_message("Permission denied");
    }
}

static void takes_what_is_right(void **state) {
    (void)state;
    static const char header[] =
        "{\"__metadata__\": {\"format\": \"pt\", \"odd\": [1]},"
        " \"scalar\": {\"dtype\": \"I8\", \"shape\": [], \"data_offsets\": [0, 1], \"extra\": "
        "null},"
        " \"odd\": {\"dtype\": \"BF16\", \"shape\": [1, 2], \"data_offsets\": [1, 5]},"
        " \"empty\": {\"dtype\": \"F64\", \"shape\": [7, 0], \"data_offsets\": [5, 5]},"
        " \"none\": {\"dtype\": \"F64\", \"shape\": [0], \"data_offsets\": [0, 0]},"
        " \"bool\": {\"dtype\": \"BOOL\", \"shape\": [1,1,1,1,1,1,1,1], \"data_offsets\": [5, 6]}} "
        "     ";
    size_t total;
    stored_tensors s;
    uint8_t *bytes = make_file(header, 6, &total);
    const uint8_t *data = bytes + total - 6;
    if (safetensors_parse(bytes, total, "f", &s) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_int_equal(s.count, 5);
    for (size_t i = 1; i < s.count; i++)
        assert_true(strcmp(s.tensors[i - 1].name, s.tensors[i].name) < 0);
    const stored_tensor *t = stored_find(&s, "odd");
    assert_int_equal(t->dtype, DTYPE_BF16);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[1], 2);
    assert_int_equal(t->size, 4);
    assert_ptr_equal(t->data, data + 1);
    assert_int_equal(stored_find(&s, "scalar")->rank, 0);
    assert_int_equal(stored_find(&s, "empty")->size, 0);
    assert_int_equal(stored_find(&s, "bool")->rank, 8);
    assert_null(stored_find(&s, "oddly"));
    assert_null(stored_find(&s, ""));
    stored_close(&s);
    free(bytes);
    assert_int_equal(parse("{}", 0), XLSTM_OK);
}

static void writes_what_it_reads(void **state) {
    (void)state;
    enum { TYPES = DTYPE_BOOL + 1 }; /* there are none for blocks */
    stored_entry entries[TYPES];
    char names[TYPES][16];
    uint8_t data[2000];
    size_t size = 0;
    for (int i = 0; i < TYPES; i++) {
        snprintf(names[i], sizeof names[i], "tensor \"%d\"\xc3\xa9", i);
        entries[i] = (stored_entry){names[i], (dtype)i, i % 4, {3, 2, i == 7 ? 0 : 1}};
        size_t elements = i % 4 == 0 ? 1 : i % 4 == 1 ? 3 : i == 7 ? 0 : 6;
        size += elements * dtype_size((dtype)i);
    }
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i * 31);
    const char *path = test_path("written.safetensors");
    safetensors_writer *writer;
    stored_tensors s;
    assert_int_equal(safetensors_writer_open(path, entries, TYPES, &writer), XLSTM_OK);
    safetensors_writer_write(writer, data, 5);
    safetensors_writer_write(writer, data + 5, size - 5);
    assert_int_equal(safetensors_writer_commit(writer), XLSTM_OK);
    assert_int_equal(safetensors_open(&path, 1, &s), XLSTM_OK);
    assert_int_equal(s.count, TYPES);
    size_t at = 0;
    for (int i = 0; i < TYPES; i++) {
        const stored_tensor *t = stored_find(&s, names[i]);
        assert_non_null(t);
        assert_int_equal(t->dtype, i);
        assert_int_equal(t->rank, i % 4);
        assert_memory_equal(t->shape, entries[i].shape, (size_t)t->rank * sizeof *t->shape);
        assert_memory_equal(t->data, data + at, t->size);
        assert_int_equal((size_t)(t->data - s.maps[0].data) % 64,
                         at % 64); /* the data begins aligned */
        at += t->size;
    }
    assert_int_equal(at, size);
    stored_close(&s);
}

static void refuses_to_write_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        stored_entry entries[2];
        const char *part;
    } cases[] = {
        {{{"a", DTYPE_U8, 1, {1}}, {"a", DTYPE_U8, 1, {1}}},
         "tensor a: the name is used twice or reserved"},
        {{{"a", DTYPE_U8, 1, {1}}, {"__metadata__", DTYPE_U8, 1, {1}}}, "used twice or reserved"},
        {{{"a", DTYPE_U8, 1, {1}}, {"b", DTYPE_U8, 1, {-1}}},
         "tensor b: its dtype or shape cannot be written"},
        {{{"a", DTYPE_U8, 1, {1}}, {"b", DTYPE_U8, 9, {1}}}, "tensor b: its dtype or shape"},
        {{{"a", DTYPE_U8, 1, {1}}, {"b", DTYPE_COUNT, 1, {1}}}, "tensor b: its dtype or shape"},
        {{{"a", DTYPE_U8, 1, {1}}, {"b", DTYPE_Q8_0, 1, {32}}}, "tensor b: its dtype or shape"},
        {{{"a", DTYPE_U8, 1, {1}}, {"b", DTYPE_U8, 2, {INT64_MAX, 3}}},
         "tensor b: its dtype or shape"},
        {{{"a", DTYPE_U8, 1, {1}}, {"b", DTYPE_U8, 1, {INT64_MAX}}},
         "tensor b: its dtype or shape"},
        {{{"a", DTYPE_U8, 1, {1}}, {"b\xff", DTYPE_U8, 1, {1}}}, "tensor 1: its name is not UTF-8"},
    };
    const char *path = test_path("unwritten.safetensors");
    int before = test_count_entries(test_folder());
    safetensors_writer *writer;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(safetensors_writer_open(path, cases[i].entries, 2, &writer),
                         XLSTM_INVALID_ARGUMENT);
        assert_null(writer);
        test_expect_message(cases[i].part);
    }
    assert_int_equal(safetensors_writer_open(path, cases[0].entries, 1, &writer), XLSTM_OK);
    assert_int_equal(safetensors_writer_commit(writer), XLSTM_INVALID_ARGUMENT);
    test_expect_message("less data was written than the tensors need");
    assert_int_equal(safetensors_writer_open(path, cases[0].entries, 1, &writer), XLSTM_OK);
    safetensors_writer_write(writer, "ab", 2);
    safetensors_writer_write(writer, "a", 1);
    assert_int_equal(safetensors_writer_commit(writer), XLSTM_INVALID_ARGUMENT);
    test_expect_message("more data was written than the tensors need");
    assert_int_equal(safetensors_writer_open(path, cases[0].entries, 1, &writer), XLSTM_OK);
    safetensors_writer_cancel(writer);
    safetensors_writer_cancel(NULL);
    assert_int_equal(test_count_entries(test_folder()), before); /* nothing is left behind */
    assert_int_equal(safetensors_writer_open(test_path("no/such"), cases[0].entries, 1, &writer),
                     XLSTM_IO_ERROR);
    assert_null(writer);
}

/* The number of tensors of the 7B model, over a sparse file of its size: only the header may be
 * touched. */
static void opens_a_large_file_quickly(void **state) {
    (void)state;
    enum { TENSORS = 483 };
    const int64_t bytes = 14 * 1000 * 1000;
    char *header = calloc(1, TENSORS * 200);
    assert_non_null(header);
    size_t at = 0, size;
    for (int i = 0; i < TENSORS; i++) {
        at += (size_t)sprintf(
            header + at,
            "%c\"backbone.blocks.%d.weight\": {\"dtype\": \"U8\", \"shape\": [1000, 14000],"
            " \"data_offsets\": [%lld, %lld]}",
            i == 0 ? '{' : ',', i, (long long)(i * bytes), (long long)((i + 1) * bytes));
    }
    header[at] = '}';
    const char *path = test_path("large.safetensors");
    uint8_t *file = make_file(header, 0, &size);
    test_write_file(path, file, size);
    free(file);
    free(header);
    if (truncate(path, (off_t)size + TENSORS * (off_t)bytes) != 0)
        skip(); /* no sparse files here */
    stored_tensors s;
    clock_t start = clock(); /* of the processor: others may be busy too */
    assert_int_equal(safetensors_open(&path, 1, &s), XLSTM_OK);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    assert_int_equal(s.count, TENSORS);
    assert_true(seconds < 0.5); /* some ms; a pass over 6.8 GB takes seconds even from memory */
    stored_close(&s);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_wrong),
        cmocka_unit_test(refuses_bad_lengths),
        cmocka_unit_test(bounds_the_depth),
        cmocka_unit_test(reports_all_faults),
        cmocka_unit_test(bounds_the_report),
        cmocka_unit_test(refuses_what_is_no_file),
        cmocka_unit_test(takes_what_is_right),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(refuses_to_write_what_is_wrong),
        cmocka_unit_test(opens_a_large_file_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
