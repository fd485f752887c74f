/* Writing safetensors files in one pass: the header is known from the layout, the data follows
 * piece by piece, so that a checkpoint larger than memory can be written. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/printable.h"
#include "format/safetensors_load.h"

enum { DATA_ALIGNMENT = 64 };

struct safetensors_writer {
    file_writer file;
    uint64_t left; /* bytes still to come */
    bool overrun;  /* more came */
};

/* The header's entry of one tensor; moves *offset to its end. */
static xlstm_status make_entry(const char *path, const stored_entry *entry, json_t **made,
                               uint64_t *offset) {
    uint64_t size = dtype_size(entry->dtype), begin = *offset;
    json_t *shape = json_array();
    bool valid = entry->rank >= 0 && entry->rank <= STORED_MAX_RANK && size > 0 &&
                 safetensors_type_names[entry->dtype] != NULL;
    bool failed = shape == NULL;
    for (int i = 0; valid && i < entry->rank; i++) {
        valid = entry->shape[i] >= 0 && !__builtin_mul_overflow(size, entry->shape[i], &size);
        failed |= json_array_append_new(shape, json_integer(entry->shape[i])) != 0;
    }
    if (!valid || __builtin_add_overflow(begin, size, offset) || *offset > INT64_MAX) {
        json_decref(shape);
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s: tensor %s: its dtype or shape cannot be written", path,
                         printable_of(entry->name).text);
    }
    *made = failed
                ? NULL
                : json_pack("{s:s, s:O, s:[I, I]}", "dtype", safetensors_type_names[entry->dtype],
                            "shape", shape, "data_offsets", (json_int_t)begin, (json_int_t)*offset);
    json_decref(shape);
    return *made != NULL ? XLSTM_OK : error_memory(256, path);
}

/* The header as an object. The metadata is what transformers insists on. */
static xlstm_status make_header(const char *path, const stored_entry *entries, size_t count,
                                json_t **header, uint64_t *size) {
    *size = 0;
    *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    if (*header == NULL)
        return error_memory(256, path);
    for (size_t i = 0; i < count; i++) {
        const char *name = entries[i].name;
        json_t *entry;
        if (json_object_get(*header, name) != NULL) {
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s: tensor %s: the name is used twice or reserved", path,
                             printable_of(name).text);
        }
        xlstm_status status = make_entry(path, &entries[i], &entry, size);
        if (status != XLSTM_OK)
            return status;
        if (json_object_set_new(*header, name, entry) != 0) {
            return error_set(XLSTM_INVALID_ARGUMENT, "%s: tensor %zu: its name is not UTF-8", path,
                             i);
        }
    }
    return XLSTM_OK;
}

/* Length and header, padded with spaces to where the data begins. */
static xlstm_status write_header(file_writer *file, const char *path, json_t *header) {
    char *text = json_dumps(header, JSON_COMPACT);
    if (text == NULL)
        return error_memory(256, path);
    static const char spaces[DATA_ALIGNMENT] =
        "                                                                ";
    size_t size = strlen(text);
    size_t padding = (DATA_ALIGNMENT - (8 + size) % DATA_ALIGNMENT) % DATA_ALIGNMENT;
    uint64_t length = size + padding;
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++)
        prefix[i] = (uint8_t)(length >> (8 * i));
    file_writer_write(file, prefix, sizeof prefix);
    file_writer_write(file, text, size);
    file_writer_write(file, spaces, padding);
    free(text);
    return XLSTM_OK;
}

xlstm_status safetensors_writer_open(const char *path, const stored_entry *entries, size_t count,
                                     safetensors_writer **out) {
    *out = NULL;
    safetensors_writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL)
        return error_memory(sizeof *writer, path);
    json_t *header;
    xlstm_status status = make_header(path, entries, count, &header, &writer->left);
    if (status == XLSTM_OK)
        status = file_writer_open(path, &writer->file);
    if (status == XLSTM_OK) {
        status = write_header(&writer->file, path, header);
        if (status != XLSTM_OK)
            file_writer_cancel(&writer->file);
    }
    json_decref(header);
    if (status != XLSTM_OK) {
        free(writer);
        return status;
    }
    *out = writer;
    return XLSTM_OK;
}

void safetensors_writer_write(safetensors_writer *writer, const void *bytes, size_t size) {
    if (size > writer->left) {
        writer->overrun = true;
        return;
    }
    writer->left -= size;
    file_writer_write(&writer->file, bytes, size);
}

xlstm_status safetensors_writer_commit(safetensors_writer *writer) {
    xlstm_status status;
    if (writer->left != 0 || writer->overrun) {
        status = error_set(XLSTM_INVALID_ARGUMENT, "%s: %s data was written than the tensors need",
                           writer->file.path, writer->overrun ? "more" : "less");
        file_writer_cancel(&writer->file);
    } else {
        status = file_writer_commit(&writer->file);
    }
    free(writer);
    return status;
}

void safetensors_writer_cancel(safetensors_writer *writer) {
    if (writer != NULL) {
        file_writer_cancel(&writer->file);
        free(writer);
    }
}
