/* Shapes in messages. */
#ifndef BASE_SHAPE_H
#define BASE_SHAPE_H

#include <stddef.h>
#include <stdint.h>

/* "[384, 1024]"; a dimension of -1 is "any". Cut where `size` ends; returns `text`. */
const char *shape_text(int rank, const int64_t *shape, char *text, size_t size);

#endif
