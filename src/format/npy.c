/* Reading .npy files. The header is a Python dictionary literal,
 *     {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
 * of which only this one form exists in the wild; the scanner below takes its three keys in any
 * order and with any spacing, and nothing else of Python. */
#include "format/npy.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "format/printable.h"

enum { NPY_ALIGNMENT = 64 };

typedef struct scanner {
    const char *at, *end;
} scanner;

typedef struct npy_header {
    char descr[16];
    bool fortran_order;
    int rank;
    int64_t shape[NPY_MAX_RANK];
    bool has_descr, has_order, has_shape;
} npy_header;

static void skip_space(scanner *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

/* Takes `c` after white space, if it is there. */
static bool take(scanner *s, char c) {
    skip_space(s);
    if (s->at < s->end && *s->at == c) {
        s->at++;
        return true;
    }
    return false;
}

static bool take_word(scanner *s, const char *word) {
    size_t size = strlen(word);
    skip_space(s);
    if ((size_t)(s->end - s->at) >= size && memcmp(s->at, word, size) == 0) {
        s->at += size;
        return true;
    }
    return false;
}

/* A quoted string without escapes, of at most room - 1 bytes. */
static bool take_string(scanner *s, char *out, size_t room) {
    skip_space(s);
    if (s->at == s->end || (*s->at != '\'' && *s->at != '"'))
        return false;
    char quote = *s->at++;
    size_t size = 0;
    while (s->at < s->end && *s->at != quote) {
        if (size + 1 == room || *s->at == '\\' || *s->at == '\0')
            return false;
        out[size++] = *s->at++;
    }
    out[size] = '\0';
    return take(s, quote);
}

static xlstm_status take_dimension(scanner *s, const char *path, int64_t *dimension) {
    int64_t value = 0;
    skip_space(s);
    if (s->at == s->end || *s->at < '0' || *s->at > '9') {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: shape must be a tuple of non-negative integers, like (3, 4)", path);
    }
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *s->at - '0', &value))
            return error_set(XLSTM_FORMAT_ERROR, "%s: a dimension of shape exceeds 64 bits", path);
    if (s->at < s->end && *s->at == 'L') /* a long integer of Python 2 */
        s->at++;
    *dimension = value;
    return XLSTM_OK;
}

static xlstm_status take_shape(scanner *s, const char *path, npy_header *header) {
    if (!take(s, '('))
        return error_set(XLSTM_FORMAT_ERROR, "%s: shape must be a tuple, like (3, 4)", path);
    bool comma = true;
    while (!take(s, ')')) {
        if (!comma)
            return error_set(XLSTM_FORMAT_ERROR, "%s: shape lacks a comma or its bracket", path);
        if (header->rank == NPY_MAX_RANK) {
            return error_set(XLSTM_UNSUPPORTED, "%s: shape has more than %d dimensions", path,
                             NPY_MAX_RANK);
        }
        xlstm_status status = take_dimension(s, path, &header->shape[header->rank]);
        if (status != XLSTM_OK)
            return status;
        header->rank++;
        comma = take(s, ',');
    }
    if (header->rank == 1 && !comma) {
        return error_set(XLSTM_FORMAT_ERROR, "%s: shape (%lld) is no tuple; (%lld,) would be", path,
                         (long long)header->shape[0], (long long)header->shape[0]);
    }
    return XLSTM_OK;
}

static xlstm_status take_descr(scanner *s, const char *path, npy_header *header) {
    skip_space(s);
    if (s->at < s->end && *s->at == '[') {
        return error_set(XLSTM_UNSUPPORTED,
                         "%s: descr is a structured type; only plain numbers can be read", path);
    }
    if (!take_string(s, header->descr, sizeof header->descr))
        return error_set(XLSTM_FORMAT_ERROR, "%s: descr must be a short string, like '<f4'", path);
    return XLSTM_OK;
}

/* One `key: value` of the dictionary. */
static xlstm_status take_item(scanner *s, const char *path, npy_header *header) {
    char key[32];
    if (!take_string(s, key, sizeof key) || !take(s, ':')) {
        return error_set(XLSTM_FORMAT_ERROR, "%s: the header is no dictionary of quoted keys",
                         path);
    }
    bool *seen = strcmp(key, "descr") == 0           ? &header->has_descr
                 : strcmp(key, "fortran_order") == 0 ? &header->has_order
                 : strcmp(key, "shape") == 0         ? &header->has_shape
                                                     : NULL;
    if (seen == NULL || *seen) {
        return error_set(XLSTM_FORMAT_ERROR, "%s: the header's key '%s' is %s", path,
                         printable_of(key).text, seen == NULL ? "unknown" : "there twice");
    }
    *seen = true;
    if (seen == &header->has_descr)
        return take_descr(s, path, header);
    if (seen == &header->has_shape)
        return take_shape(s, path, header);
    header->fortran_order = take_word(s, "True");
    if (!header->fortran_order && !take_word(s, "False"))
        return error_set(XLSTM_FORMAT_ERROR, "%s: fortran_order must be True or False", path);
    return XLSTM_OK;
}

static xlstm_status scan_header(const char *text, size_t size, const char *path,
                                npy_header *header) {
    scanner s = {text, text + size};
    bool comma = take(&s, '{');
    if (!comma)
        return error_set(XLSTM_FORMAT_ERROR, "%s: the header does not begin with '{'", path);
    while (!take(&s, '}')) {
        if (!comma) {
            return error_set(XLSTM_FORMAT_ERROR, "%s: the header lacks a comma or its closing '}'",
                             path);
        }
        xlstm_status status = take_item(&s, path, header);
        if (status != XLSTM_OK)
            return status;
        comma = take(&s, ',');
    }
    skip_space(&s);
    if (s.at != s.end) {
        return error_set(XLSTM_FORMAT_ERROR, "%s: there is text after the header's closing '}'",
                         path);
    }
    if (!header->has_descr || !header->has_order || !header->has_shape) {
        return error_set(XLSTM_FORMAT_ERROR, "%s: the header lacks '%s'", path,
                         !header->has_descr   ? "descr"
                         : !header->has_order ? "fortran_order"
                                              : "shape");
    }
    return XLSTM_OK;
}

static xlstm_status read_descr(const char *descr, const char *path, dtype *type) {
    static const struct {
        const char *name;
        dtype type;
    } known[] = {{"f8", DTYPE_F64}, {"f4", DTYPE_F32}, {"f2", DTYPE_F16}, {"i8", DTYPE_I64},
                 {"i4", DTYPE_I32}, {"i2", DTYPE_I16}, {"i1", DTYPE_I8},  {"u8", DTYPE_U64},
                 {"u4", DTYPE_U32}, {"u2", DTYPE_U16}, {"u1", DTYPE_U8},  {"b1", DTYPE_BOOL}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (descr[0] == '\0' || strcmp(descr + 1, known[i].name) != 0)
            continue;
        *type = known[i].type;
        bool byte = dtype_size(*type) == 1;
        if (descr[0] == '>' && !byte) {
            return error_set(XLSTM_UNSUPPORTED,
                             "%s: descr '%s' is big-endian; save it with array.astype('<%s')", path,
                             descr, known[i].name);
        }
        if (descr[0] == '<' || descr[0] == '=' || byte)
            return XLSTM_OK;
    }
    return error_set(
        XLSTM_UNSUPPORTED,
        "%s: descr '%s' cannot be read; '<f8', '<f4', '<f2', integers of 1 to 8 bytes like "
        "'<i8' and '|u1', and '|b1' can",
        path, printable_of(descr).text);
}

/* Where the header's text begins and ends; checks the magic string and the version. */
static xlstm_status find_header(const uint8_t *bytes, size_t size, const char *path, size_t *begin,
                                size_t *end) {
    if (size < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: not a .npy file (it does not begin with \\x93NUMPY)", path);
    }
    if (bytes[6] < 1 || bytes[6] > 3) {
        return error_set(XLSTM_UNSUPPORTED, "%s: .npy version %d.%d; 1, 2 and 3 can be read", path,
                         bytes[6], bytes[7]);
    }
    *begin = bytes[6] == 1 ? 10 : 12;
    if (size < *begin)
        return error_set(XLSTM_FORMAT_ERROR, "%s: cut short within the header", path);
    uint32_t length = (uint32_t)bytes[8] | (uint32_t)bytes[9] << 8;
    if (bytes[6] > 1)
        length |= (uint32_t)bytes[10] << 16 | (uint32_t)bytes[11] << 24;
    if (length > size - *begin) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: the header is said to have %lu bytes, but the file ends after %zu",
                         path, (unsigned long)length, size);
    }
    *end = *begin + length;
    return XLSTM_OK;
}

static xlstm_status check_size(const npy_header *header, size_t available, const char *path,
                               npy_array *array) {
    size_t bytes = dtype_size(array->dtype);
    array->rank = header->rank;
    array->count = 1;
    for (int i = 0; i < header->rank; i++) {
        array->shape[i] = header->shape[i];
        if (__builtin_mul_overflow(array->count, header->shape[i], &array->count)) {
            return error_set(XLSTM_FORMAT_ERROR, "%s: the number of elements exceeds 64 bits",
                             path);
        }
    }
    if (__builtin_mul_overflow(bytes, array->count, &bytes))
        return error_set(XLSTM_FORMAT_ERROR, "%s: the size of the data exceeds 64 bits", path);
    if (bytes != available) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: shape and descr ask for %zu bytes of data, but there are %zu", path,
                         bytes, available);
    }
    return XLSTM_OK;
}

/* Old writers padded the header to 16 bytes only: such data is copied to where it can be read. */
static xlstm_status align_data(const uint8_t *data, size_t size, const char *path,
                               npy_array *array) {
    array->data = data;
    if ((uintptr_t)data % NPY_ALIGNMENT == 0)
        return XLSTM_OK;
    if (posix_memalign(&array->copy, NPY_ALIGNMENT, size > 0 ? size : 1) != 0) {
        array->copy = NULL;
        return error_memory(size, path);
    }
    memcpy(array->copy, data, size);
    array->data = array->copy;
    return XLSTM_OK;
}

xlstm_status npy_parse(const uint8_t *bytes, size_t size, const char *path, npy_array *array) {
    npy_header header = {0};
    size_t begin = 0, end = 0;
    npy_array parsed = {0};
    memset(array, 0, sizeof *array);
    xlstm_status status = find_header(bytes, size, path, &begin, &end);
    if (status == XLSTM_OK)
        status = scan_header((const char *)bytes + begin, end - begin, path, &header);
    if (status == XLSTM_OK)
        status = read_descr(header.descr, path, &parsed.dtype);
    if (status == XLSTM_OK && header.fortran_order && header.rank > 1) {
        status = error_set(
            XLSTM_UNSUPPORTED,
            "%s: the array is in Fortran order; save it with numpy.ascontiguousarray", path);
    }
    if (status == XLSTM_OK)
        status = check_size(&header, size - end, path, &parsed);
    if (status == XLSTM_OK)
        status = align_data(bytes + end, size - end, path, &parsed);
    if (status == XLSTM_OK)
        *array = parsed;
    return status;
}

xlstm_status npy_open(const char *path, npy_array *array) {
    file_map map;
    memset(array, 0, sizeof *array);
    xlstm_status status = file_map_open(path, &map);
    if (status != XLSTM_OK)
        return status;
    status = npy_parse(map.data, map.size, path, array);
    if (status != XLSTM_OK || array->copy != NULL) {
        file_map_close(&map);
        return status;
    }
    array->map = map;
    return XLSTM_OK;
}

void npy_close(npy_array *array) {
    free(array->copy);
    file_map_close(&array->map);
    memset(array, 0, sizeof *array);
}

/* Element `index` as an int64; false where an unsigned value does not fit it. */
static bool load_integer(const npy_array *array, int64_t index, int64_t *value) {
    union {
        int8_t i8;
        int16_t i16;
        int32_t i32;
        int64_t i64;
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
    } element;
    size_t size = dtype_size(array->dtype);
    memcpy(&element, (const uint8_t *)array->data + (size_t)index * size, size);
    switch (array->dtype) {
    case DTYPE_I8:
        *value = element.i8;
        return true;
    case DTYPE_I16:
        *value = element.i16;
        return true;
    case DTYPE_I32:
        *value = element.i32;
        return true;
    case DTYPE_I64:
        *value = element.i64;
        return true;
    case DTYPE_U8:
        *value = element.u8;
        return true;
    case DTYPE_U16:
        *value = element.u16;
        return true;
    case DTYPE_U32:
        *value = element.u32;
        return true;
    default:
        *value = (int64_t)element.u64;
        return element.u64 <= INT64_MAX;
    }
}

xlstm_status npy_to_ids(const npy_array *array, const char *path, int32_t **ids) {
    *ids = NULL;
    if (dtype_is_float(array->dtype) || array->dtype == DTYPE_BOOL) {
        return error_set(XLSTM_FORMAT_ERROR, "%s: ids must be integers, the array is %s", path,
                         dtype_name(array->dtype));
    }
    size_t bytes;
    if (__builtin_mul_overflow(array->count, sizeof(int32_t), &bytes))
        return error_memory(SIZE_MAX, path);
    int32_t *out = malloc(bytes > 0 ? bytes : 1);
    if (out == NULL)
        return error_memory(bytes, path);
    for (int64_t i = 0; i < array->count; i++) {
        int64_t value;
        if (!load_integer(array, i, &value) || value < INT32_MIN || value > INT32_MAX) {
            free(out);
            return error_set(XLSTM_FORMAT_ERROR, "%s: the id at index %lld does not fit 32 bits",
                             path, (long long)i);
        }
        out[i] = (int32_t)value;
    }
    *ids = out;
    return XLSTM_OK;
}
