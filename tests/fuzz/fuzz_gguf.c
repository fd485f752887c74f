/* Any bytes as a GGUF file: an error, or values and tensors that lie within it. */
#include <stdlib.h>

#include "format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static bool is_within(const uint8_t *bytes, size_t size, const void *part, size_t part_size) {
    size_t before = (size_t)((const uint8_t *)part - bytes);
    return before <= size && part_size <= size - before;
}

static void check_value(const gguf_file *file, const uint8_t *bytes, size_t size,
                        const gguf_value *v) {
    gguf_text text = {0};
    int64_t integer;
    if (!is_within(bytes, size, v->key.bytes, v->key.size) ||
        !is_within(bytes, size, v->data, v->size))
        abort();
    if (gguf_get_text(v, &text) && !is_within(bytes, size, text.bytes, text.size))
        abort();
    (void)gguf_get_integer(v, &integer);
    char *key = strndup(v->key.bytes, v->key.size);
    if (key && gguf_find(file, key) != v)
        abort();
    free(key);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    gguf_file file;
    if (gguf_parse(bytes, size, "input", &file) != XLSTM_OK)
        return 0;
    for (size_t i = 0; i < file.value_count; i++)
        check_value(&file, bytes, size, &file.values[i]);
    for (size_t i = 0; i < file.tensors.count; i++) {
        const stored_tensor *t = &file.tensors.tensors[i];
        int64_t elements = 1;
        for (int j = 0; j < t->rank; j++)
            elements *= t->shape[j];
        if (stored_find(&file.tensors, t->name) != t || !is_within(bytes, size, t->data, t->size) ||
            dtype_bytes(t->dtype, elements) != (int64_t)t->size)
            abort();
    }
    gguf_close(&file);
    return 0;
}
