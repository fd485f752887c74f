/* Writing GGUF files in one pass: everything before the data is known from the layout, the data
 * follows piece by piece, so that a checkpoint larger than memory can be written. */
#include <stdlib.h>
#include <string.h>

#include "format/gguf_types.h"
#include "format/printable.h"

enum { VERSION = 3 };

struct gguf_writer {
    file_writer file;
    uint64_t *sizes; /* [count] of the tensors, in bytes */
    size_t count, at;
    uint64_t left; /* bytes still to come of tensor `at` */
    bool overrun;  /* more came than all tensors need */
};

static uint64_t padding_after(uint64_t size) {
    return (GGUF_ALIGNMENT - size % GGUF_ALIGNMENT) % GGUF_ALIGNMENT;
}

static void pad(file_writer *file, uint64_t size) {
    static const uint8_t zeros[GGUF_ALIGNMENT] = {0};
    file_writer_write(file, zeros, (size_t)padding_after(size));
}

static xlstm_status refuse(const char *path, const stored_entry *entry, const char *why) {
    return error_set(XLSTM_INVALID_ARGUMENT, "%s: tensor %s: %s", path,
                     printable_of(entry->name).text, why);
}

/* *size: the bytes of the tensor. */
static xlstm_status measure(const char *path, const stored_entry *entry, uint64_t *size) {
    size_t length = strlen(entry->name);
    int64_t block = gguf_tensor_type(entry->dtype) >= 0 ? dtype_block(entry->dtype) : 0;
    if (length == 0 || length > GGUF_NAME_MAX)
        return refuse(path, entry, "a name in a GGUF file has 1 to 63 bytes");
    if (block == 0)
        return refuse(path, entry, "GGUF files have no such dtype");
    if (entry->rank < 0 || entry->rank > GGUF_MAX_RANK)
        return refuse(path, entry, "a tensor of a GGUF file has at most 4 dimensions");
    uint64_t elements = 1;
    for (int i = 0; i < entry->rank; i++)
        if (entry->shape[i] < 0 || __builtin_mul_overflow(elements, entry->shape[i], &elements))
            return refuse(path, entry, "its shape is too large");
    if (block > 1 && (entry->rank == 0 || entry->shape[entry->rank - 1] % block != 0))
        return refuse(path, entry, "its rows are not whole blocks of 32");
    if (__builtin_mul_overflow(elements / (uint64_t)block, dtype_size(entry->dtype), size) ||
        *size > INT64_MAX - GGUF_ALIGNMENT)
        return refuse(path, entry, "its shape is too large");
    return XLSTM_OK;
}

static int compare_names(const void *left, const void *right) {
    const stored_entry *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static xlstm_status check_names(const char *path, const stored_entry *entries, size_t count) {
    const stored_entry **sorted = calloc(count + 1, sizeof *sorted);
    if (!sorted)
        return error_memory(count * sizeof *sorted, path);
    for (size_t i = 0; i < count; i++)
        sorted[i] = &entries[i];
    qsort(sorted, count, sizeof *sorted, compare_names);
    xlstm_status status = XLSTM_OK;
    for (size_t i = 1; i < count && status == XLSTM_OK; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            status = refuse(path, sorted[i], "the name is used twice");
    free(sorted);
    return status;
}

static void put_entry(buffer *head, const stored_entry *entry, uint64_t offset) {
    uint64_t length = strlen(entry->name);
    uint32_t rank = (uint32_t)entry->rank, type = (uint32_t)gguf_tensor_type(entry->dtype);
    buffer_append(head, &length, sizeof length);
    buffer_append(head, entry->name, length);
    buffer_append(head, &rank, sizeof rank);
    for (int i = entry->rank - 1; i >= 0; i--)
        buffer_append(head, &entry->shape[i], sizeof entry->shape[i]);
    buffer_append(head, &type, sizeof type);
    buffer_append(head, &offset, sizeof offset);
}

/* Everything before the data, without the padding; fills writer->sizes. */
static xlstm_status make_head(const char *path, const gguf_metadata *metadata,
                              const stored_entry *entries, gguf_writer *writer, buffer *head) {
    uint32_t version = VERSION;
    buffer_append(head, "GGUF", 4);
    buffer_append(head, &version, sizeof version);
    uint64_t counts[2] = {writer->count, metadata->count + 1};
    buffer_append(head, counts, sizeof counts);
    buffer_append(head, metadata->bytes.data, metadata->bytes.size);
    const char key[] = "general.alignment";
    uint64_t length = sizeof key - 1;
    uint32_t value[2] = {GGUF_U32, GGUF_ALIGNMENT};
    buffer_append(head, &length, sizeof length);
    buffer_append(head, key, length);
    buffer_append(head, value, sizeof value);
    uint64_t offset = 0;
    xlstm_status status = check_names(path, entries, writer->count);
    for (size_t i = 0; i < writer->count && status == XLSTM_OK; i++) {
        uint64_t size = 0;
        status = measure(path, &entries[i], &size);
        if (status != XLSTM_OK)
            break;
        put_entry(head, &entries[i], offset);
        writer->sizes[i] = size;
        if (__builtin_add_overflow(offset, size + padding_after(size), &offset) ||
            offset > INT64_MAX)
            status = refuse(path, &entries[i], "the file would be too large");
    }
    if (status == XLSTM_OK && (head->failed || metadata->bytes.failed || metadata->keys.failed))
        status = error_memory(head->size, path);
    return status;
}

/* Finished tensors are padded; stops at the first with bytes to come. */
static void advance(gguf_writer *writer) {
    while (writer->left == 0 && writer->at < writer->count) {
        pad(&writer->file, writer->sizes[writer->at]);
        writer->at++;
        writer->left = writer->at < writer->count ? writer->sizes[writer->at] : 0;
    }
}

static void release(gguf_writer *writer) {
    free(writer->sizes);
    free(writer);
}

xlstm_status gguf_writer_open(const char *path, const gguf_metadata *metadata,
                              const stored_entry *entries, size_t count, gguf_writer **out) {
    *out = NULL;
    if (metadata->fault)
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: metadata: %s", path, metadata->fault);
    gguf_writer *writer = calloc(1, sizeof *writer);
    uint64_t *sizes = calloc(count + 1, sizeof *sizes);
    if (!writer || !sizes) {
        free(writer);
        free(sizes);
        return error_memory(count * sizeof *sizes, path);
    }
    writer->sizes = sizes;
    writer->count = count;
    buffer head = {0};
    xlstm_status status = make_head(path, metadata, entries, writer, &head);
    if (status == XLSTM_OK)
        status = file_writer_open(path, &writer->file);
    if (status == XLSTM_OK) {
        file_writer_write(&writer->file, head.data, head.size);
        pad(&writer->file, head.size);
        writer->left = sizes[0];
        advance(writer);
        *out = writer;
    } else {
        release(writer);
    }
    buffer_free(&head);
    return status;
}

void gguf_writer_write(gguf_writer *writer, const void *bytes, size_t size) {
    const uint8_t *at = bytes;
    while (size > 0 && writer->at < writer->count) {
        size_t part = size < writer->left ? size : (size_t)writer->left;
        file_writer_write(&writer->file, at, part);
        at += part;
        size -= part;
        writer->left -= part;
        advance(writer);
    }
    writer->overrun |= size > 0;
}

xlstm_status gguf_writer_commit(gguf_writer *writer) {
    xlstm_status status;
    if (writer->at < writer->count || writer->overrun) {
        status = error_set(XLSTM_INVALID_ARGUMENT, "%s: %s data was written than the tensors need",
                           writer->file.path, writer->overrun ? "more" : "less");
        file_writer_cancel(&writer->file);
    } else {
        status = file_writer_commit(&writer->file);
    }
    release(writer);
    return status;
}

void gguf_writer_cancel(gguf_writer *writer) {
    if (writer) {
        file_writer_cancel(&writer->file);
        release(writer);
    }
}
