/* Shapes: their elements, and how messages write them. */
#include "base/shape.h"

#include <stdio.h>

const char *shape_text(int rank, const int64_t *shape, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += shape[i] < 0 ? (size_t)snprintf(text + used, size - used, "%sany", i ? ", " : "")
                             : (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "",
                                                (long long)shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
    return text;
}

bool shape_elements(int rank, const int64_t *shape, int64_t *elements) {
    int64_t product = 1;
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        empty |= shape[i] == 0;
        if (shape[i] != 0 && __builtin_mul_overflow(product, shape[i], &product))
            return false;
    }
    *elements = empty ? 0 : product;
    return true;
}
