/* A growing string. Capacity doubles, so that appending n bytes one at a time costs O(n). */
#include "base/buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for `count` more bytes and the NUL. */
static bool reserve(buffer *b, size_t count) {
    if (b->failed)
        return false;
    if (count >= SIZE_MAX - b->size) {
        b->failed = true;
        return false;
    }
    size_t needed = b->size + count + 1;
    if (needed <= b->capacity)
        return true;
    size_t capacity = b->capacity < 64 ? 64 : b->capacity;
    while (capacity < needed)
        capacity = capacity > SIZE_MAX / 2 ? needed : 2 * capacity;
    char *data = realloc(b->data, capacity);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

void buffer_append(buffer *b, const void *bytes, size_t count) {
    if (!reserve(b, count))
        return;
    if (count)
        memcpy(b->data + b->size, bytes, count);
    b->size += count;
    b->data[b->size] = '\0';
}

void buffer_print(buffer *b, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0)
        b->failed = true;
    else if (reserve(b, (size_t)length)) {
        vsnprintf(b->data + b->size, (size_t)length + 1, format, again);
        b->size += (size_t)length;
    }
    va_end(again);
}

void buffer_clear(buffer *b) {
    b->size = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

void buffer_free(buffer *b) {
    free(b->data);
    *b = (buffer){0};
}
