/* A growing string of bytes, NUL-terminated. A failed allocation sticks: `failed` is set, later
 * calls do nothing, and the owner checks once at the end. */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct buffer {
    char *data; /* NULL while empty and never appended to */
    size_t size, capacity;
    bool failed;
} buffer;

void buffer_append(buffer *b, const void *bytes, size_t count);
void buffer_print(buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buffer_clear(buffer *b); /* keeps the memory */
void buffer_free(buffer *b);

#endif
