/* Reading safetensors files.
 *
 * A checkpoint may come from anywhere, so nothing in a header is believed: types, shapes, offsets
 * and sizes are checked against each other and against the file before a pointer into the map is
 * handed out. All faults of all files are collected, since whoever repairs a checkpoint wants to
 * see them at once. Only headers are read: the data of a 7B model stays on disk until a kernel
 * touches it. */
#include "format/safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/shape.h"
#include "format/json.h"
#include "format/printable.h"
#include "format/safetensors_load.h"

enum { LENGTH_SIZE = 8, HEADER_LIMIT = 100 * 1000 * 1000 }; /* of the official implementation */

const char *const safetensors_type_names[DTYPE_COUNT] = {
    [DTYPE_F64] = "F64",  [DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16",
    [DTYPE_I64] = "I64",  [DTYPE_I32] = "I32", [DTYPE_I16] = "I16",   [DTYPE_I8] = "I8",
    [DTYPE_U64] = "U64",  [DTYPE_U32] = "U32", [DTYPE_U16] = "U16",   [DTYPE_U8] = "U8",
    [DTYPE_BOOL] = "BOOL"};

/* Where a tensor says that it lies in the data section of its file. */
typedef struct range {
    uint64_t begin, end;
    const char *name;
} range;

/* One file while its header is being looked at. */
typedef struct reader {
    safetensors_load *load;
    const char *path;
    int file;
    const uint8_t *data;
    uint64_t data_size;
    range *ranges; /* of the tensors whose offsets agree with their type and shape */
    size_t range_count;
    bool all_placed; /* every tensor has its range: a gap is then a fault of its own */
} reader;

void safetensors_load_fault(safetensors_load *load, xlstm_status status) {
    /* A file that is there and wrong says more than one that cannot be opened. */
    if (load->status == XLSTM_OK || load->status == XLSTM_IO_ERROR)
        load->status = status;
}

/* "FILE: tensor NAME: …", or "FILE: …" where `name` is NULL. */
static void fault(reader *r, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void fault(reader *r, const char *name, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (name != NULL) {
        error_list_add(&r->load->faults, "%s: tensor %s: %s", r->path, printable_of(name).text,
                       text);
    } else {
        error_list_add(&r->load->faults, "%s: %s", r->path, text);
    }
    safetensors_load_fault(r->load, XLSTM_FORMAT_ERROR);
}

/* The last error of this thread is a fault. */
static void fault_last(safetensors_load *load, xlstm_status status) {
    error_list_add_last(&load->faults);
    safetensors_load_fault(load, status);
}

static bool out_of_memory(safetensors_load *load) {
    load->status = XLSTM_OUT_OF_MEMORY;
    return false;
}

static bool read_type(reader *r, const char *name, const json_t *entry, dtype *type) {
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    if (text == NULL) {
        fault(r, name, "dtype is missing or no string");
        return false;
    }
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (safetensors_type_names[i] && strcmp(text, safetensors_type_names[i]) == 0) {
            *type = (dtype)i;
            return true;
        }
    }
    fault(r, name,
          "dtype %s is not supported; F64, F32, BF16, F16, BOOL and integers of 8 to 64 bits are",
          printable_of(text).text);
    return false;
}

/* *count: the product of the dimensions. */
static bool read_shape(reader *r, const json_t *entry, stored_tensor *tensor, int64_t *count) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) {
        fault(r, tensor->name, "shape is missing or no array");
        return false;
    }
    if (json_array_size(shape) > STORED_MAX_RANK) {
        fault(r, tensor->name, "shape has %zu dimensions; at most %d are supported",
              json_array_size(shape), STORED_MAX_RANK);
        return false;
    }
    tensor->rank = (int)json_array_size(shape);
    for (int i = 0; i < tensor->rank; i++) {
        const json_t *value = json_array_get(shape, (size_t)i);
        if (!json_is_integer(value) || json_integer_value(value) < 0) {
            fault(r, tensor->name, "dimension %d of shape is not a non-negative integer", i);
            return false;
        }
        tensor->shape[i] = json_integer_value(value);
    }
    if (!shape_elements(tensor->rank, tensor->shape, count)) {
        fault(r, tensor->name, "shape overflows: its dimensions multiply to more than 63 bits");
        return false;
    }
    return true;
}

static bool read_offsets(reader *r, const json_t *entry, const char *name, range *out) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        fault(r, name, "data_offsets is missing or not an array of two integers");
        return false;
    }
    int64_t first = json_integer_value(begin), last = json_integer_value(end);
    if (first < 0 || last < first) {
        fault(r, name, "data_offsets [%" PRId64 ", %" PRId64 "] is not a range: 0 <= begin <= end",
              first, last);
        return false;
    }
    *out = (range){(uint64_t)first, (uint64_t)last, name};
    return true;
}

/* Everything that can be said of one tensor alone. */
static void read_entry(reader *r, const json_t *entry, stored_tensor *tensor) {
    range place;
    int64_t count = 0;
    uint64_t size = 0;
    if (!json_is_object(entry)) {
        fault(r, tensor->name, "its entry is no object with dtype, shape and data_offsets");
        r->all_placed = false;
        return;
    }
    bool typed = read_type(r, tensor->name, entry, &tensor->dtype);
    bool shaped = read_shape(r, entry, tensor, &count);
    bool placed = read_offsets(r, entry, tensor->name, &place);
    if (typed && shaped && __builtin_mul_overflow(count, dtype_size(tensor->dtype), &size)) {
        fault(r, tensor->name, "shape overflows: its size in bytes exceeds 64 bits");
        placed = false;
    } else if (typed && shaped && placed && size != place.end - place.begin) {
        fault(r, tensor->name,
              "shape and dtype ask for %" PRIu64 " bytes, data_offsets [%" PRIu64 ", %" PRIu64
              "] hold %" PRIu64,
              size, place.begin, place.end, place.end - place.begin);
        placed = false;
    }
    if (!placed) {
        r->all_placed = false;
        return;
    }
    r->ranges[r->range_count++] = place;
    if (place.end <= r->data_size) {
        tensor->data = r->data + place.begin;
        tensor->size = (size_t)(place.end - place.begin);
    }
}

static int compare_ranges(const void *left, const void *right) {
    const range *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

/* The format demands that the tensors cover the data section without gap or overlap. Returns
 * whether they do, up to the end of the last one. */
static bool check_cover(reader *r) {
    bool covered = r->all_placed;
    uint64_t end = 0;
    const char *previous = NULL;
    for (size_t i = 0; i < r->range_count; i++) {
        const range *at = &r->ranges[i];
        if (at->begin < end) {
            fault(r, at->name,
                  "overlaps tensor %s: it begins at byte %" PRIu64 " before that ends at %" PRIu64,
                  printable_of(previous).text, at->begin, end);
            covered = false;
        } else if (at->begin > end && r->all_placed) {
            fault(r, at->name,
                  "begins at byte %" PRIu64 ", but the data before it ends at %" PRIu64 ": a gap",
                  at->begin, end);
            covered = false;
        }
        if (at->end > end || previous == NULL) {
            end = at->end;
            previous = at->name;
        }
    }
    return covered;
}

static void check_bounds(reader *r, bool covered) {
    uint64_t end = 0;
    size_t cut = 0;
    const char *first = NULL;
    for (size_t i = 0; i < r->range_count; i++) {
        const range *at = &r->ranges[i];
        end = at->end > end ? at->end : end;
        if (at->end <= r->data_size)
            continue;
        first = cut++ == 0 ? at->name : first;
        if (!covered) {
            fault(r, at->name,
                  "ends at byte %" PRIu64 " of the data, but the file has only %" PRIu64, at->end,
                  r->data_size);
        }
    }
    if (covered && cut > 0) { /* the header is sound: it is the file that is short */
        fault(r, first,
              "the file is cut short: %" PRIu64 " bytes of data are announced, %" PRIu64
              " are there; tensors affected: %zu",
              end, r->data_size, cut);
    } else if (covered && end < r->data_size) {
        fault(r, NULL, "%" PRIu64 " bytes follow the last tensor; no tensor accounts for them",
              r->data_size - end);
    }
}

/* One more tensor in the list; NULL when memory is out. */
static stored_tensor *add_tensor(safetensors_load *load, const char *name, int file) {
    if (load->s.count == load->capacity) {
        size_t capacity = load->capacity > 0 ? 2 * load->capacity : 64;
        stored_tensor *grown = realloc(load->s.tensors, capacity * sizeof *grown);
        if (grown == NULL)
            return NULL;
        load->s.tensors = grown;
        load->capacity = capacity;
    }
    stored_tensor *tensor = &load->s.tensors[load->s.count];
    *tensor = (stored_tensor){.name = strdup(name), .file = file};
    if (tensor->name == NULL)
        return NULL;
    load->s.count++;
    return tensor;
}

static bool read_tensors(reader *r, json_t *header) {
    const char *name;
    json_t *entry;
    r->ranges = calloc(json_object_size(header) + 1, sizeof *r->ranges);
    if (r->ranges == NULL)
        return out_of_memory(r->load);
    r->all_placed = true;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        stored_tensor *tensor = add_tensor(r->load, name, r->file);
        if (tensor == NULL) {
            free(r->ranges);
            return out_of_memory(r->load);
        }
        read_entry(r, entry, tensor);
    }
    qsort(r->ranges, r->range_count, sizeof *r->ranges, compare_ranges);
    check_bounds(r, check_cover(r));
    free(r->ranges);
    return true;
}

/* Finds and parses the header; *header is NULL after a fault. */
static bool read_header(reader *r, const uint8_t *bytes, size_t size, json_t **header) {
    uint64_t length = 0;
    *header = NULL;
    if (size < LENGTH_SIZE) {
        fault(r, NULL, "%zu bytes are no safetensors file: it begins with 8 bytes of header length",
              size);
        return true;
    }
    for (int i = LENGTH_SIZE - 1; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > HEADER_LIMIT) {
        fault(r, NULL,
              "not a safetensors file: a header of %" PRIu64 " bytes, at most %d are allowed",
              length, HEADER_LIMIT);
        return true;
    }
    if (length > size - LENGTH_SIZE) {
        fault(r, NULL, "cut short within the header: it has %" PRIu64 " bytes, the file only %zu",
              length, size);
        return true;
    }
    r->data = bytes + LENGTH_SIZE + length;
    r->data_size = size - LENGTH_SIZE - length;
    xlstm_status status =
        json_parse((const char *)bytes + LENGTH_SIZE, (size_t)length, r->path, header);
    if (status == XLSTM_OUT_OF_MEMORY)
        return out_of_memory(r->load);
    if (status != XLSTM_OK) {
        fault_last(r->load, status);
    } else if (!json_is_object(*header)) {
        fault(r, NULL, "the header is not a JSON object");
        json_decref(*header);
        *header = NULL;
    }
    return true;
}

static bool read_file(safetensors_load *load, int file, const uint8_t *bytes, size_t size) {
    reader r = {.load = load, .path = load->s.files[file], .file = file};
    json_t *header;
    if (!read_header(&r, bytes, size, &header))
        return false;
    if (header == NULL)
        return true;
    load->readable[file] = true;
    bool done = read_tensors(&r, header);
    json_decref(header);
    return done;
}

static int compare_tensors(const void *left, const void *right) {
    const stored_tensor *a = left, *b = right;
    int order = strcmp(a->name, b->name);
    return order != 0 ? order : a->file - b->file;
}

static void sort_and_check_names(safetensors_load *load) {
    stored_tensors *s = &load->s;
    if (s->count > 0)
        qsort(s->tensors, s->count, sizeof *s->tensors, compare_tensors);
    for (size_t i = 1; i < s->count; i++) {
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0) {
            error_list_add(&load->faults, "%s: tensor %s: it is also in %s",
                           s->files[s->tensors[i].file], printable_of(s->tensors[i].name).text,
                           s->files[s->tensors[i - 1].file]);
            safetensors_load_fault(load, XLSTM_FORMAT_ERROR);
        }
    }
}

static bool reserve_files(safetensors_load *load, const char *const *paths, int count) {
    size_t room = count > 0 ? (size_t)count : 1;
    load->s.maps = calloc(room, sizeof *load->s.maps);
    load->s.files = calloc(room, sizeof *load->s.files);
    load->readable = calloc(room, sizeof *load->readable);
    if (load->s.maps == NULL || load->s.files == NULL || load->readable == NULL)
        return out_of_memory(load);
    for (int i = 0; i < count; i++) {
        load->s.files[i] = strdup(paths[i]);
        if (load->s.files[i] == NULL)
            return out_of_memory(load);
        load->s.file_count = i + 1;
    }
    return true;
}

bool safetensors_load_files(safetensors_load *load, const char *const *paths, int count) {
    if (!reserve_files(load, paths, count))
        return false;
    for (int i = 0; i < count; i++) {
        xlstm_status status = file_map_open(paths[i], &load->s.maps[i]);
        if (status != XLSTM_OK)
            fault_last(load, status);
        else if (!read_file(load, i, load->s.maps[i].data, load->s.maps[i].size))
            return false;
    }
    sort_and_check_names(load);
    return true;
}

xlstm_status safetensors_load_finish(safetensors_load *load, stored_tensors *out) {
    xlstm_status status = load->status;
    if (status == XLSTM_OUT_OF_MEMORY) {
        error_list_finish(&load->faults, status);
        error_memory(load->capacity * sizeof *load->s.tensors, "the headers of a checkpoint");
    } else {
        status = error_list_finish(&load->faults, status);
    }
    free(load->readable);
    if (status == XLSTM_OK) {
        *out = load->s;
    } else {
        stored_close(&load->s);
        memset(out, 0, sizeof *out);
    }
    return status;
}

xlstm_status safetensors_open(const char *const *paths, int count, stored_tensors *out) {
    safetensors_load load = {0};
    safetensors_load_files(&load, paths, count);
    return safetensors_load_finish(&load, out);
}

xlstm_status safetensors_parse(const uint8_t *bytes, size_t size, const char *path,
                               stored_tensors *out) {
    safetensors_load load = {0};
    if (reserve_files(&load, &path, 1) && read_file(&load, 0, bytes, size))
        sort_and_check_names(&load);
    return safetensors_load_finish(&load, out);
}
