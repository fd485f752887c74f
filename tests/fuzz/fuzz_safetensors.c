/* Any bytes as a safetensors file: an error or tensors that lie within it. */
#include <stdlib.h>

#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    stored_tensors s;
    if (safetensors_parse(bytes, size, "input", &s) != XLSTM_OK)
        return 0;
    for (size_t i = 0; i < s.count; i++) {
        const stored_tensor *t = &s.tensors[i];
        size_t before = (size_t)(t->data - bytes);
        if (stored_find(&s, t->name) != t || before > size || t->size > size - before)
            abort();
    }
    stored_close(&s);
    return 0;
}
