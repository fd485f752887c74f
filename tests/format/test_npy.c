/* .npy: headers as NumPy and others write them, what is refused, round trips, and a file that NumPy
 * wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/error.h"
#include "format/npy.h"
#include "support/support.h"

/* A file of the given version, header and bytes of data, in `room`. Returns its size. */
static size_t make_file(uint8_t *room, int version, const char *header, const void *data,
                        size_t size) {
    size_t length = strlen(header), at = version == 1 ? 10 : 12;
    memcpy(room, "\x93NUMPY", 6);
    room[6] = (uint8_t)version;
    room[7] = 0;
    for (size_t i = 8; i < at; i++)
        room[i] = (uint8_t)(length >> (8 * (i - 8)));
    memcpy(room + at, header, length);
    memcpy(room + at + length, data, size);
    return at + length + size;
}

static void reads_every_form_of_header(void **state) {
    (void)state;
    static const char *const headers[] = {
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }      \n",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3)}",
        "{\"shape\":(2,3,),\"descr\":\"<i4\",\"fortran_order\":False}\n",
        "  { 'fortran_order' : False ,\t'shape' : ( 2 , 3 ) , 'descr' : '<i4' , } ",
        "{'descr': '=i4', 'fortran_order': False, 'shape': (2L, 3L)}",
    };
    const int32_t data[6] = {1, -2, 3, 4, INT32_MIN, INT32_MAX};
    for (int version = 1; version <= 3; version++) {
        for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
            uint8_t bytes[256];
            npy_array array;
            size_t size = make_file(bytes, version, headers[i], data, sizeof data);
            if (npy_parse(bytes, size, "f.npy", &array) != XLSTM_OK)
                fail_msg("%s: %s", headers[i], xlstm_last_error());
            assert_int_equal(array.dtype, DTYPE_I32);
            assert_int_equal(array.rank, 2);
            assert_int_equal(array.shape[0], 2);
            assert_int_equal(array.shape[1], 3);
            assert_int_equal(array.count, 6);
            assert_int_equal((uintptr_t)array.data % 64, 0);
            assert_memory_equal(array.data, data, sizeof data);
            npy_close(&array);
        }
    }
}

static void reads_every_shape_and_order(void **state) {
    (void)state;
    static const struct {
        const char *header;
        int rank;
        int64_t count;
    } cases[] = {
        {"{'descr': '|u1', 'fortran_order': False, 'shape': ()}", 0, 1},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': ( )}", 0, 1},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (5,)}", 1, 5},
        {"{'descr': '|u1', 'fortran_order': True, 'shape': (5,)}", 1, 5},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (0,)}", 1, 0},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 0)}", 2, 0},
        {"{'descr': '>u1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,2)}", 8, 2},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (2, 2)}", 2, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[256];
        npy_array array;
        size_t size = make_file(bytes, 1, cases[i].header, "abcdefgh", (size_t)cases[i].count);
        if (npy_parse(bytes, size, "f.npy", &array) != XLSTM_OK)
            fail_msg("%s: %s", cases[i].header, xlstm_last_error());
        assert_int_equal(array.rank, cases[i].rank);
        assert_int_equal(array.count, cases[i].count);
        npy_close(&array);
    }
}

static void refuses_bad_headers(void **state) {
    (void)state;
    static const struct {
        const char *header, *part;
    } cases[] = {
        {"", "does not begin with '{'"},
        {"{", "no dictionary of quoted keys"},
        {"{}", "the header lacks 'descr'"},
        {"{'descr': '<f4'}", "the header lacks 'fortran_order'"},
        {"{'descr': '<f4', 'fortran_order': False}", "the header lacks 'shape'"},
        {"{'descr': '<f4' 'fortran_order': False}", "lacks a comma"},
        {"{'descr': '<f4', 'descr': '<f4'}", "key 'descr' is there twice"},
        {"{'dtype': '<f4'}", "key 'dtype' is unknown"},
        {"{descr: '<f4'}", "no dictionary of quoted keys"},
        {"{'descr: '<f4'}", "no dictionary of quoted keys"},
        {"{'descr': '<f4\"}", "descr must be a short string"},
        {"{'descr': '<f4", "descr must be a short string"},
        {"{'descr': 4}", "descr must be a short string"},
        {"{'descr': [('a', '<f4')]}", "descr is a structured type"},
        {"{'fortran_order': 0}", "fortran_order must be True or False"},
        {"{'shape': 3}", "shape must be a tuple"},
        {"{'shape': [3]}", "shape must be a tuple"},
        {"{'shape': (3)}", "shape (3) is no tuple; (3,) would be"},
        {"{'shape': (,)}", "tuple of non-negative integers"},
        {"{'shape': (-3,)}", "tuple of non-negative integers"},
        {"{'shape': (3.0,)}", "lacks a comma or its bracket"},
        {"{'shape': (3 4)}", "lacks a comma or its bracket"},
        {"{'shape': (3,", "tuple of non-negative integers"},
        {"{'shape': (9223372036854775808,)}", "exceeds 64 bits"},
        {"{'shape': (1,1,1,1,1,1,1,1,1)}", "more than 8 dimensions"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
         "text after the header's closing"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}",
         "'>f4' is big-endian; save it with array.astype('<f4')"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "descr '|O' cannot be read"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "descr '<c8' cannot be read"},
        {"{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", "descr '<U4' cannot be read"},
        {"{'descr': '|f4', 'fortran_order': False, 'shape': (1,)}", "descr '|f4' cannot be read"},
        {"{'descr': '', 'fortran_order': False, 'shape': (1,)}", "descr '' cannot be read"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1)}",
         "Fortran order; save it with numpy.ascontiguousarray"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
         "ask for 8 bytes of data, but there are 4"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}",
         "ask for 0 bytes of data, but there are 4"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
         "elements exceeds 64 bits"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904,)}",
         "size of the data exceeds 64 bits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[256];
        npy_array array;
        size_t size = make_file(bytes, 1, cases[i].header, "\0\0\0", 4);
        if (npy_parse(bytes, size, "f.npy", &array) == XLSTM_OK)
            fail_msg("not refused: %s", cases[i].header);
        test_expect_message(cases[i].part);
        test_expect_message("f.npy: ");
        assert_null(array.data);
    }
}

static void refuses_bad_files(void **state) {
    (void)state;
    uint8_t bytes[256];
    npy_array array;
    size_t size =
        make_file(bytes, 2, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "abcd", 4);
    for (size_t cut = 0; cut < size;
         cut++) { /* at its exact size, so that a sanitizer sees a read beyond */
        uint8_t *exact = malloc(cut > 0 ? cut : 1);
        assert_non_null(exact);
        memcpy(exact, bytes, cut);
        assert_int_not_equal(npy_parse(exact, cut, "f.npy", &array), XLSTM_OK);
        free(exact);
    }
    assert_int_equal(npy_parse(bytes, size, "f.npy", &array), XLSTM_OK);
    npy_close(&array);
    bytes[6] = 4;
    assert_int_equal(npy_parse(bytes, size, "f.npy", &array), XLSTM_UNSUPPORTED);
    test_expect_message(".npy version 4.0; 1, 2 and 3 can be read");
    bytes[0] = 'x';
    assert_int_equal(npy_parse(bytes, size, "f.npy", &array), XLSTM_FORMAT_ERROR);
    test_expect_message("not a .npy file");
    assert_int_equal(npy_open(test_path("absent.npy"), &array), XLSTM_IO_ERROR);
    test_expect_message("absent.npy: No such file");
    test_write_file(test_path("empty.npy"), "", 0);
    assert_int_equal(npy_open(test_path("empty.npy"), &array), XLSTM_FORMAT_ERROR);
    test_expect_message("empty.npy: not a .npy file");
}

static void writes_what_it_reads(void **state) {
    (void)state;
    static const dtype types[] = {DTYPE_F64, DTYPE_F32, DTYPE_F16, DTYPE_I64,
                                  DTYPE_I32, DTYPE_I16, DTYPE_I8,  DTYPE_U64,
                                  DTYPE_U32, DTYPE_U16, DTYPE_U8,  DTYPE_BOOL};
    static const int64_t shapes[][3] = {{1, 1, 1}, {7, 1, 1}, {2, 3, 1}, {2, 3, 5}};
    const char *path = test_path("written.npy");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        for (int rank = 0; rank <= 3; rank++) {
            const int64_t *shape = shapes[rank];
            uint8_t data[30 * 8];
            size_t size = dtype_size(types[i]) * (size_t)(shape[0] * shape[1] * shape[2]);
            for (size_t at = 0; at < size; at++)
                data[at] = (uint8_t)(at * 7 + i);
            npy_writer writer;
            npy_array array;
            assert_int_equal(npy_writer_open(path, types[i], rank, shape, &writer), XLSTM_OK);
            npy_writer_write(&writer, data, 1);
            npy_writer_write(&writer, data + 1, size - 1);
            assert_int_equal(npy_writer_commit(&writer), XLSTM_OK);
            assert_int_equal(npy_open(path, &array), XLSTM_OK);
            assert_int_equal(array.dtype, types[i]);
            assert_int_equal(array.rank, rank);
            assert_memory_equal(array.shape, shape, (size_t)rank * sizeof *shape);
            assert_memory_equal(array.data, data, size);
            assert_null(array.copy); /* the header was padded to 64 */
            npy_close(&array);
        }
    }
}

/* Byte for byte what numpy.save wrote for numpy.array([[1.5, -2.0]], dtype='<f4'). */
static void writes_as_numpy_does(void **state) {
    (void)state;
    static const char header[] =
        "\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }"
        "                                                          \n";
    const float data[2] = {1.5F, -2.0F};
    const int64_t shape[2] = {1, 2};
    const char *path = test_path("numpy.npy");
    npy_writer writer;
    buffer text = {0};
    assert_int_equal(npy_writer_open(path, DTYPE_F32, 2, shape, &writer), XLSTM_OK);
    npy_writer_write(&writer, data, sizeof data);
    assert_int_equal(npy_writer_commit(&writer), XLSTM_OK);
    assert_int_equal(file_read(path, 1000, &text), XLSTM_OK);
    assert_int_equal(text.size, 128 + sizeof data);
    assert_int_equal(sizeof header - 1, 128);
    assert_memory_equal(text.data, header, 128);
    assert_memory_equal(text.data + 128, data, sizeof data);
    buffer_free(&text);
}

static void refuses_to_write_what_is_wrong(void **state) {
    (void)state;
    const int64_t negative[1] = {-1}, large[2] = {INT64_MAX, 4}, three[1] = {3};
    const char *path = test_path("unwritten.npy");
    npy_writer writer;
    int before = test_count_entries(test_folder());
    assert_int_equal(npy_writer_open(path, DTYPE_BF16, 1, three, &writer), XLSTM_INVALID_ARGUMENT);
    test_expect_message(".npy has no type for bf16");
    assert_int_equal(npy_writer_open(path, DTYPE_F32, 9, three, &writer), XLSTM_INVALID_ARGUMENT);
    test_expect_message("9 dimensions; at most 8");
    assert_int_equal(npy_writer_open(path, DTYPE_F32, 1, negative, &writer),
                     XLSTM_INVALID_ARGUMENT);
    test_expect_message("dimension 0, -1, is negative or too large");
    assert_int_equal(npy_writer_open(path, DTYPE_F32, 2, large, &writer), XLSTM_INVALID_ARGUMENT);
    test_expect_message("negative or too large");
    assert_int_equal(npy_writer_open(path, DTYPE_U8, 1, three, &writer), XLSTM_OK);
    npy_writer_write(&writer, "ab", 2);
    assert_int_equal(npy_writer_commit(&writer), XLSTM_INVALID_ARGUMENT);
    test_expect_message("less data was written than its shape says");
    assert_int_equal(npy_writer_open(path, DTYPE_U8, 1, three, &writer), XLSTM_OK);
    npy_writer_write(&writer, "abcd", 4);
    npy_writer_write(&writer, "abc", 3);
    assert_int_equal(npy_writer_commit(&writer), XLSTM_INVALID_ARGUMENT);
    test_expect_message("more data was written than its shape says");
    assert_int_equal(npy_writer_open(path, DTYPE_U8, 1, three, &writer), XLSTM_OK);
    npy_writer_cancel(&writer);
    assert_int_equal(test_count_entries(test_folder()), before); /* nothing is left behind */
}

static void gives_ids(void **state) {
    (void)state;
    static const struct {
        const char *descr;
        size_t size;
        bool is_signed;
    } types[] = {{"|i1", 1, true},  {"<i2", 2, true},  {"<i4", 4, true},  {"<i8", 8, true},
                 {"|u1", 1, false}, {"<u2", 2, false}, {"<u4", 4, false}, {"<u8", 8, false}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char header[100];
        uint8_t bytes[256], data[3 * 8] = {0};
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (3,)}",
                 types[i].descr);
        data[0] = 7;
        memset(data + types[i].size, types[i].is_signed ? 0xff : 0, types[i].size); /* -1 or 0 */
        data[2 * types[i].size] = 127;
        npy_array array;
        int32_t *ids;
        size_t size = make_file(bytes, 1, header, data, 3 * types[i].size);
        assert_int_equal(npy_parse(bytes, size, "ids.npy", &array), XLSTM_OK);
        assert_int_equal(npy_to_ids(&array, "ids.npy", &ids), XLSTM_OK);
        assert_int_equal(ids[0], 7);
        assert_int_equal(ids[1], types[i].is_signed ? -1 : 0);
        assert_int_equal(ids[2], 127);
        free(ids);
        npy_close(&array);
    }
}

static void refuses_ids_that_do_not_fit(void **state) {
    (void)state;
    static const struct {
        const char *descr;
        uint64_t second;
        const char *part; /* NULL: fits */
    } cases[] = {
        {"<i8", 0x7fffffff, NULL},
        {"<i8", 0x80000000, "ids.npy: the id at index 1 does not fit 32 bits"},
        {"<i8", 0xffffffff80000000, NULL},
        {"<i8", 0xffffffff7fffffff, "index 1"},
        {"<u8", 0x7fffffff, NULL},
        {"<u8", 0x80000000, "index 1"},
        {"<u8", 0xffffffffffffffff, "index 1"},
        {"<f8", 0, "ids must be integers, the array is f64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char header[100];
        uint8_t bytes[256];
        uint64_t data[2] = {5, cases[i].second};
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (2,)}",
                 cases[i].descr);
        npy_array array;
        int32_t *ids;
        size_t size = make_file(bytes, 1, header, data, sizeof data);
        assert_int_equal(npy_parse(bytes, size, "ids.npy", &array), XLSTM_OK);
        xlstm_status status = npy_to_ids(&array, "ids.npy", &ids);
        if (cases[i].part == NULL) {
            assert_int_equal(status, XLSTM_OK);
            assert_true((int64_t)ids[1] == (int64_t)cases[i].second);
        } else {
            assert_int_equal(status, XLSTM_FORMAT_ERROR);
            assert_null(ids);
            test_expect_message(cases[i].part);
        }
        free(ids);
        npy_close(&array);
    }
}

/* Files that NumPy wrote; the values are those that NumPy prints. */
static void reads_the_fixtures(void **state) {
    (void)state;
    npy_array array;
    int32_t *ids;
    assert_int_equal(npy_open("tests/golden/reference-17m/p0_ids.npy", &array), XLSTM_OK);
    assert_int_equal(npy_to_ids(&array, "p0_ids", &ids), XLSTM_OK);
    static const int32_t expected[] = {0, 343, 467, 278, 3011, 325};
    assert_int_equal(array.count, sizeof expected / sizeof expected[0]);
    assert_memory_equal(ids, expected, sizeof expected);
    free(ids);
    npy_close(&array);
    assert_int_equal(npy_open("tests/golden/reference-17m/p_long_nll.npy", &array), XLSTM_OK);
    assert_int_equal(array.rank, 0);
    assert_true(dtype_load(array.dtype, array.data, 0) == 3.418641317903555);
    npy_close(&array);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_form_of_header),
        cmocka_unit_test(reads_every_shape_and_order),
        cmocka_unit_test(refuses_bad_headers),
        cmocka_unit_test(refuses_bad_files),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(writes_as_numpy_does),
        cmocka_unit_test(refuses_to_write_what_is_wrong),
        cmocka_unit_test(gives_ids),
        cmocka_unit_test(refuses_ids_that_do_not_fit),
        cmocka_unit_test(reads_the_fixtures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
