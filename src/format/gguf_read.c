/* Reading GGUF files.
 *
 * A file may come from anywhere, so nothing in it is believed: counts and lengths are checked
 * against what the file still has before anything is reserved or skipped, types, shapes and offsets
 * against each other before a pointer into the map is handed out. A wrong length makes all that
 * follows unreadable, so faults of metadata and of the table's form end the reading at once; what
 * is wrong with single tensors is collected. The tensors' data is not touched. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/shape.h"
#include "format/gguf_types.h"
#include "format/printable.h"

enum {
    HEADER_SIZE = 24,
    KEY_MAX = 65535,
    NAME_MAX_READ = 64,    /* of the format's documentation */
    LEAST_VALUE_SIZE = 14, /* a key of one byte and a value of one */
    LEAST_TENSOR_SIZE = 25 /* a name of one byte and no dimension */
};

typedef struct reader {
    gguf_file *file;
    const char *path;
    const uint8_t *bytes;
    size_t size, at;
    char place[PRINTABLE_MAX + 48]; /* what is being read: "value 3 (general.name)" */
    uint64_t *offsets;              /* [tensor count], as the file has them */
    error_list faults;              /* of tensors */
} reader;

/* ---- Taking bytes ---- */

static xlstm_status wrong(const reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "FILE: PLACE: …" */
static xlstm_status wrong(const reader *r, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(XLSTM_FORMAT_ERROR, "%s: %s: %s", r->path, r->place, text);
}

static void set_place(reader *r, const char *what, uint64_t index, gguf_text name) {
    char text[PRINTABLE_MAX + 2] = "";
    size_t length = name.size < PRINTABLE_MAX + 1 ? name.size : PRINTABLE_MAX + 1;
    if (length > 0)
        memcpy(text, name.bytes, length);
    text[length] = 0;
    if (length > 0)
        snprintf(r->place, sizeof r->place, "%s %s", what, printable_of(text).text);
    else
        snprintf(r->place, sizeof r->place, "%s %" PRIu64, what, index);
}

static xlstm_status cut_short(const reader *r, uint64_t wanted) {
    return wrong(r, "the file is cut short: %" PRIu64 " bytes are wanted at byte %zu of %zu",
                 wanted, r->at, r->size);
}

/* The next `count` bytes; NULL: there are not so many, and the error is set. */
static const uint8_t *take(reader *r, uint64_t count) {
    if (count > r->size - r->at) {
        cut_short(r, count);
        return NULL;
    }
    const uint8_t *found = r->bytes + r->at;
    r->at += (size_t)count;
    return found;
}

static bool take_u32(reader *r, uint32_t *value) {
    const uint8_t *found = take(r, sizeof *value);
    if (found)
        memcpy(value, found, sizeof *value);
    return found != NULL;
}

static bool take_u64(reader *r, uint64_t *value) {
    const uint8_t *found = take(r, sizeof *value);
    if (found)
        memcpy(value, found, sizeof *value);
    return found != NULL;
}

static bool take_text(reader *r, gguf_text *text) {
    uint64_t length;
    if (!take_u64(r, &length))
        return false;
    text->bytes = (const char *)take(r, length);
    text->size = text->bytes ? (size_t)length : 0;
    return text->bytes != NULL;
}

/* ---- Metadata ---- */

static xlstm_status read_header(reader *r, uint64_t *tensors, uint64_t *values) {
    uint32_t version = 0;
    snprintf(r->place, sizeof r->place, "header");
    if (r->size < 4 || memcmp(r->bytes, "GGUF", 4) != 0)
        return error_set(XLSTM_FORMAT_ERROR, "%s: not a GGUF file: it does not begin with \"GGUF\"",
                         r->path);
    if (r->size < HEADER_SIZE)
        return cut_short(r, HEADER_SIZE);
    r->at = 4;
    if (!take_u32(r, &version) || !take_u64(r, tensors) || !take_u64(r, values))
        return XLSTM_FORMAT_ERROR;
    if (version != 0 && version % 65536 == 0)
        return wrong(r, "the file is big-endian; only little-endian files can be read");
    if (version != 2 && version != 3)
        return wrong(r, "version %" PRIu32 " is not supported; 2 and 3 are", version);
    r->file->version = version;
    if (*values > (r->size - HEADER_SIZE) / LEAST_VALUE_SIZE)
        return wrong(r, "%" PRIu64 " values do not fit into a file of %zu bytes", *values, r->size);
    if (*tensors > (r->size - HEADER_SIZE) / LEAST_TENSOR_SIZE)
        return wrong(r, "%" PRIu64 " tensors do not fit into a file of %zu bytes", *tensors,
                     r->size);
    return XLSTM_OK;
}

/* `count` values of the type, one after the other. */
static xlstm_status read_elements(reader *r, uint32_t type, uint64_t count) {
    size_t size = gguf_scalar_size(type);
    uint64_t total;
    if (type == GGUF_TEXT) {
        gguf_text text;
        for (uint64_t i = 0; i < count; i++)
            if (!take_text(r, &text))
                return XLSTM_FORMAT_ERROR;
        return XLSTM_OK;
    }
    if (size == 0 || type >= GGUF_TYPE_COUNT)
        return type == GGUF_ARRAY
                   ? wrong(r, "an array of arrays; such values are not supported")
                   : wrong(r, "type %" PRIu32 " is unknown; types are 0 to 12", type);
    if (__builtin_mul_overflow(size, count, &total))
        return wrong(r, "an array of %" PRIu64 " elements is larger than any file", count);
    const uint8_t *elements = take(r, total);
    if (!elements)
        return XLSTM_FORMAT_ERROR;
    for (uint64_t i = 0; type == GGUF_BOOL && i < count; i++)
        if (elements[i] > 1)
            return wrong(r, "a boolean is %u; it must be 0 or 1", elements[i]);
    return XLSTM_OK;
}

static xlstm_status read_value(reader *r, uint64_t index, gguf_value *value) {
    uint32_t type, element;
    set_place(r, "value", index, (gguf_text){0});
    if (!take_text(r, &value->key))
        return XLSTM_FORMAT_ERROR;
    if (value->key.size == 0 || value->key.size > KEY_MAX ||
        memchr(value->key.bytes, 0, value->key.size))
        return wrong(r, "its key has %zu bytes; 1 to %d are possible, none of them NUL",
                     value->key.size, KEY_MAX);
    set_place(r, "value", index, value->key);
    if (!take_u32(r, &type))
        return XLSTM_FORMAT_ERROR;
    element = type;
    value->count = 1;
    if (type == GGUF_ARRAY && (!take_u32(r, &element) || !take_u64(r, &value->count)))
        return XLSTM_FORMAT_ERROR;
    size_t begin = r->at;
    xlstm_status status = read_elements(r, element, value->count);
    if (status != XLSTM_OK)
        return status;
    value->type = (gguf_type)type;
    value->element = (gguf_type)element;
    value->data = r->bytes + begin;
    value->size = r->at - begin;
    return XLSTM_OK;
}

static int compare_texts(const gguf_text *a, const gguf_text *b) {
    size_t least = a->size < b->size ? a->size : b->size;
    int order = least > 0 ? memcmp(a->bytes, b->bytes, least) : 0;
    return order != 0 ? order : (a->size > b->size) - (a->size < b->size);
}

static int compare_keys(const void *left, const void *right) {
    return compare_texts(&((const gguf_value *)left)->key, &((const gguf_value *)right)->key);
}

static xlstm_status check_keys(reader *r) {
    size_t count = r->file->value_count;
    gguf_value *sorted = calloc(count + 1, sizeof *sorted);
    if (!sorted)
        return error_memory(count * sizeof *sorted, r->path);
    if (count > 0)
        memcpy(sorted, r->file->values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_keys);
    xlstm_status status = XLSTM_OK;
    for (size_t i = 1; i < count && status == XLSTM_OK; i++) {
        set_place(r, "value", i, sorted[i].key);
        if (compare_keys(&sorted[i - 1], &sorted[i]) == 0)
            status = wrong(r, "the key is there twice");
    }
    free(sorted);
    return status;
}

static xlstm_status find_alignment(reader *r) {
    const gguf_value *value = gguf_find(r->file, "general.alignment");
    int64_t alignment = GGUF_ALIGNMENT;
    snprintf(r->place, sizeof r->place, "value general.alignment");
    if (value && (value->type != GGUF_U32 || !gguf_get_integer(value, &alignment)))
        return wrong(r, "it must be a u32");
    if (alignment == 0 || (alignment & (alignment - 1)) != 0)
        return wrong(r, "%" PRId64 " is not a power of two", alignment);
    r->file->alignment = (uint64_t)alignment;
    return XLSTM_OK;
}

static xlstm_status read_values(reader *r, uint64_t count) {
    r->file->values = calloc((size_t)count + 1, sizeof *r->file->values);
    if (!r->file->values)
        return error_memory((size_t)count * sizeof *r->file->values, r->path);
    xlstm_status status = XLSTM_OK;
    for (uint64_t i = 0; i < count && status == XLSTM_OK; i++) {
        status = read_value(r, i, &r->file->values[i]);
        r->file->value_count += status == XLSTM_OK;
    }
    if (status == XLSTM_OK)
        status = check_keys(r);
    return status == XLSTM_OK ? find_alignment(r) : status;
}

/* ---- Tensors ---- */

/* A fault of the tensor whose place is set; reading goes on. */
static void fault(reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void fault(reader *r, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    error_list_add(&r->faults, "%s: %s: %s", r->path, r->place, text);
}

/* The size in bytes follows from type and shape; false after a fault. */
static bool measure(reader *r, stored_tensor *tensor, uint32_t type) {
    const char *name;
    int64_t elements;
    uint64_t size;
    if (!gguf_tensor_dtype(type, &tensor->dtype, &name)) {
        fault(r,
              "type %" PRIu32 "%s%s is not supported; F32, F16, BF16, F64, signed integers, Q8_0, "
              "Q5_0, Q5_1, Q4_0, Q4_1 and IQ4_NL are",
              type, name ? " " : "", name ? name : "");
        return false;
    }
    bool representable = true;
    for (int i = 0; i < tensor->rank; i++)
        representable &= tensor->shape[i] >= 0;
    if (!representable || !shape_elements(tensor->rank, tensor->shape, &elements)) {
        fault(r, "its shape overflows: the dimensions multiply to more than 63 bits");
        return false;
    }
    int64_t block = dtype_block(tensor->dtype);
    if (block > 1 && (tensor->rank == 0 || tensor->shape[tensor->rank - 1] % block != 0)) {
        fault(r, "rows of %" PRId64 " elements are not whole blocks of 32, as %s has them",
              tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1, dtype_name(tensor->dtype));
        return false;
    }
    if (__builtin_mul_overflow(elements / block, dtype_size(tensor->dtype), &size) ||
        size > SIZE_MAX) {
        fault(r, "its shape overflows: its size in bytes exceeds 64 bits");
        return false;
    }
    tensor->size = (size_t)size;
    return true;
}

/* One entry of the table; data is set later, when it is known where it begins. */
static xlstm_status read_tensor(reader *r, uint64_t index, bool *sound) {
    stored_tensor *tensor = &r->file->tensors.tensors[index];
    gguf_text name;
    uint32_t rank, type;
    set_place(r, "tensor", index, (gguf_text){0});
    if (!take_text(r, &name))
        return XLSTM_FORMAT_ERROR;
    if (name.size == 0 || name.size > NAME_MAX_READ || memchr(name.bytes, 0, name.size))
        return wrong(r, "its name has %zu bytes; 1 to %d are possible, none of them NUL", name.size,
                     NAME_MAX_READ);
    set_place(r, "tensor", index, name);
    if (!take_u32(r, &rank))
        return XLSTM_FORMAT_ERROR;
    if (rank > GGUF_MAX_RANK)
        return wrong(r, "it has %" PRIu32 " dimensions; at most %d are possible", rank,
                     GGUF_MAX_RANK);
    tensor->name = strndup(name.bytes, name.size);
    if (!tensor->name)
        return error_memory(name.size, r->path);
    r->file->tensors.count++;
    tensor->rank = (int)rank;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        uint64_t dimension;
        if (!take_u64(r, &dimension))
            return XLSTM_FORMAT_ERROR;
        tensor->shape[i] = dimension <= INT64_MAX ? (int64_t)dimension : -1;
    }
    if (!take_u32(r, &type) || !take_u64(r, &r->offsets[index]))
        return XLSTM_FORMAT_ERROR;
    *sound &= measure(r, tensor, type);
    if (r->offsets[index] % r->file->alignment != 0) {
        fault(r, "it begins at byte %" PRIu64 " of the data, which is no multiple of %" PRIu64,
              r->offsets[index], r->file->alignment);
        *sound = false;
    }
    return XLSTM_OK;
}

/* A tensor and where it lies, for putting them in order. */
typedef struct range {
    uint64_t begin;
    stored_tensor *tensor;
} range;

static int compare_ranges(const void *left, const void *right) {
    const range *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return (a->tensor->size > b->tensor->size) - (a->tensor->size < b->tensor->size);
}

/* Tensors follow each other, each at the next multiple of the alignment. Every tensor lies within
 * the data, since none begins where the one before does not end. */
static void place_in_order(reader *r, const range *ranges, const uint8_t *data, uint64_t room) {
    uint64_t alignment = r->file->alignment, end = 0, next = 0;
    for (size_t i = 0; i < r->file->tensors.count; i++) {
        stored_tensor *tensor = ranges[i].tensor;
        uint64_t begin = ranges[i].begin;
        set_place(r, "tensor", i, (gguf_text){tensor->name, strlen(tensor->name)});
        if (begin < end)
            fault(r, "it begins at byte %" PRIu64 " of the data, within tensor %s", begin,
                  printable_of(ranges[i - 1].tensor->name).text);
        else if (begin != next)
            fault(r,
                  "it begins at byte %" PRIu64 " of the data instead of %" PRIu64
                  ", where the one before ends",
                  begin, next);
        else if (tensor->size > room || begin > room - tensor->size)
            fault(r,
                  "the file is cut short: its data is bytes %" PRIu64 " to %" PRIu64
                  " of the data, and %" PRIu64 " are there",
                  begin, begin + tensor->size, room);
        else
            tensor->data = data + begin;
        if (r->faults.count > 0)
            return;
        end = begin + tensor->size;
        next = end + (alignment - end % alignment) % alignment;
    }
    if (room > next)
        error_list_add(&r->faults, "%s: %" PRIu64 " bytes follow the last tensor", r->path,
                       room - next);
}

static xlstm_status place_tensors(reader *r) {
    stored_tensors *s = &r->file->tensors;
    uint64_t alignment = r->file->alignment, rest = r->at % alignment;
    uint64_t padding = rest > 0 ? alignment - rest : 0, room = r->size - r->at;
    range *ranges = calloc(s->count + 1, sizeof *ranges);
    if (!ranges)
        return error_memory(s->count * sizeof *ranges, r->path);
    for (size_t i = 0; i < s->count; i++)
        ranges[i] = (range){r->offsets[i], &s->tensors[i]};
    qsort(ranges, s->count, sizeof *ranges, compare_ranges);
    snprintf(r->place, sizeof r->place, "data");
    if (padding > room && s->count > 0)
        fault(r, "the file is cut short: it ends before the data begins");
    else if (padding <= room)
        place_in_order(r, ranges, r->bytes + r->at + padding, room - padding);
    free(ranges);
    return XLSTM_OK;
}

static int compare_tensors(const void *left, const void *right) {
    return strcmp(((const stored_tensor *)left)->name, ((const stored_tensor *)right)->name);
}

static void sort_tensors(reader *r) {
    stored_tensors *s = &r->file->tensors;
    qsort(s->tensors, s->count, sizeof *s->tensors, compare_tensors);
    for (size_t i = 1; i < s->count; i++) {
        const char *name = s->tensors[i].name;
        set_place(r, "tensor", i, (gguf_text){name, strlen(name)});
        if (strcmp(s->tensors[i - 1].name, name) == 0)
            fault(r, "the name is there twice");
    }
}

static xlstm_status read_tensors(reader *r, uint64_t count) {
    stored_tensors *s = &r->file->tensors;
    s->tensors = calloc((size_t)count + 1, sizeof *s->tensors);
    r->offsets = calloc((size_t)count + 1, sizeof *r->offsets);
    if (!s->tensors || !r->offsets)
        return error_memory((size_t)count * sizeof *s->tensors, r->path);
    bool sound = true;
    xlstm_status status = XLSTM_OK;
    for (uint64_t i = 0; i < count && status == XLSTM_OK; i++)
        status = read_tensor(r, i, &sound);
    if (status == XLSTM_OK && sound)
        status = place_tensors(r);
    if (status == XLSTM_OK)
        sort_tensors(r);
    return status;
}

/* ---- The file ---- */

/* The list of files has one, which may be in memory. */
static xlstm_status reserve_file(const char *path, gguf_file *file) {
    stored_tensors *s = &file->tensors;
    s->maps = calloc(1, sizeof *s->maps);
    s->files = calloc(1, sizeof *s->files);
    if (s->maps && s->files)
        s->files[0] = strdup(path);
    s->file_count = s->maps && s->files;
    return s->maps && s->files && s->files[0] ? XLSTM_OK : error_memory(strlen(path), path);
}

static xlstm_status read_file(reader *r) {
    uint64_t tensors, values;
    xlstm_status status = read_header(r, &tensors, &values);
    if (status == XLSTM_OK)
        status = read_values(r, values);
    if (status == XLSTM_OK)
        status = read_tensors(r, tensors);
    free(r->offsets);
    if (status == XLSTM_OK)
        return error_list_finish(&r->faults, XLSTM_FORMAT_ERROR);
    error_list_add_last(&r->faults); /* what was found before */
    return error_list_finish(&r->faults, status);
}

xlstm_status gguf_parse(const uint8_t *bytes, size_t size, const char *path, gguf_file *file) {
    memset(file, 0, sizeof *file);
    reader r = {.file = file, .path = path, .bytes = bytes, .size = size};
    xlstm_status status = reserve_file(path, file);
    if (status == XLSTM_OK)
        status = read_file(&r);
    if (status != XLSTM_OK)
        gguf_close(file);
    return status;
}

xlstm_status gguf_open(const char *path, gguf_file *file) {
    memset(file, 0, sizeof *file);
    file_map map;
    xlstm_status status = file_map_open(path, &map);
    if (status != XLSTM_OK)
        return status;
    status = gguf_parse(map.data, map.size, path, file);
    if (status == XLSTM_OK)
        file->tensors.maps[0] = map;
    else
        file_map_close(&map);
    return status;
}

void gguf_close(gguf_file *file) {
    stored_close(&file->tensors);
    free(file->values);
    memset(file, 0, sizeof *file);
}

/* ---- Values ---- */

const gguf_value *gguf_find(const gguf_file *file, const char *key) {
    gguf_text wanted = {key, strlen(key)};
    for (size_t i = 0; i < file->value_count; i++)
        if (compare_texts(&file->values[i].key, &wanted) == 0)
            return &file->values[i];
    return NULL;
}

bool gguf_get_text(const gguf_value *value, gguf_text *text) {
    if (!value || value->type != GGUF_TEXT)
        return false;
    *text =
        (gguf_text){(const char *)value->data + sizeof(uint64_t), value->size - sizeof(uint64_t)};
    return true;
}

bool gguf_get_integer(const gguf_value *value, int64_t *integer) {
    uint64_t bits = 0;
    if (!value || value->size > sizeof bits)
        return false;
    memcpy(&bits, value->data, value->size);
    unsigned unused = 64 - 8 * (unsigned)value->size; /* bits above the value's */
    switch (value->type) {
    case GGUF_U64:
        if (bits > INT64_MAX)
            return false;
        *integer = (int64_t)bits;
        return true;
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
        *integer = (int64_t)bits;
        return true;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        *integer = (int64_t)(bits << unused) >> unused;
        return true;
    default:
        return false;
    }
}
