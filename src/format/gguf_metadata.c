/* Values for the metadata of a GGUF file, laid out as the file will have them. */
#include <string.h>

#include "format/gguf_types.h"

enum { KEY_MAX = 65535 };

void gguf_metadata_free(gguf_metadata *m) {
    buffer_free(&m->bytes);
    buffer_free(&m->keys);
    *m = (gguf_metadata){0};
}

/* The machine's order of bytes is the file's, here and wherever files are mapped. */
static void put_u32(gguf_metadata *m, uint32_t value) {
    buffer_append(&m->bytes, &value, sizeof value);
}

static void put_u64(gguf_metadata *m, uint64_t value) {
    buffer_append(&m->bytes, &value, sizeof value);
}

static bool is_known(const gguf_metadata *m, const char *key) {
    for (size_t at = 0; at < m->keys.size; at += strlen(m->keys.data + at) + 1)
        if (strcmp(m->keys.data + at, key) == 0)
            return true;
    return false;
}

static void begin(gguf_metadata *m, const char *key, gguf_type type) {
    size_t size = strlen(key);
    if (size == 0 || size > KEY_MAX)
        m->fault = "a key has 1 to 65535 bytes";
    else if (is_known(m, key))
        m->fault = "a key is given twice";
    else if (strcmp(key, "general.alignment") == 0)
        m->fault = "general.alignment is the writer's";
    buffer_append(&m->keys, key, size + 1);
    put_u64(m, size);
    buffer_append(&m->bytes, key, size);
    put_u32(m, type);
    m->count++;
}

static void put_scalars(gguf_metadata *m, gguf_type type, const void *values, size_t count) {
    size_t size = gguf_scalar_size(type), bytes;
    if (size == 0 || __builtin_mul_overflow(size, count, &bytes))
        m->fault = "a value has a wrong type or size";
    else
        buffer_append(&m->bytes, values, bytes);
}

void gguf_put(gguf_metadata *m, const char *key, gguf_type type, const void *value) {
    begin(m, key, type);
    put_scalars(m, type, value, 1);
}

void gguf_put_u32(gguf_metadata *m, const char *key, uint32_t value) {
    gguf_put(m, key, GGUF_U32, &value);
}

void gguf_put_f32(gguf_metadata *m, const char *key, float value) {
    gguf_put(m, key, GGUF_F32, &value);
}

void gguf_put_bool(gguf_metadata *m, const char *key, bool value) {
    gguf_put(m, key, GGUF_BOOL, &value);
}

void gguf_put_text(gguf_metadata *m, const char *key, const char *bytes, size_t size) {
    begin(m, key, GGUF_TEXT);
    put_u64(m, size);
    buffer_append(&m->bytes, bytes, size);
}

void gguf_put_array(gguf_metadata *m, const char *key, gguf_type element, const void *values,
                    size_t count) {
    begin(m, key, GGUF_ARRAY);
    put_u32(m, element);
    put_u64(m, count);
    put_scalars(m, element, values, count);
}

void gguf_put_texts(gguf_metadata *m, const char *key, const gguf_text *texts, size_t count) {
    begin(m, key, GGUF_ARRAY);
    put_u32(m, GGUF_TEXT);
    put_u64(m, count);
    for (size_t i = 0; i < count; i++) {
        put_u64(m, texts[i].size);
        buffer_append(&m->bytes, texts[i].bytes, texts[i].size);
    }
}
