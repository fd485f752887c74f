/* Shapes: their elements, and how messages write them. */
#ifndef BASE_SHAPE_H
#define BASE_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "[384, 1024]"; a dimension of -1 is "any". Cut where `size` ends; returns `text`. */
const char *shape_text(int rank, const int64_t *shape, char *text, size_t size);

/* The product of dimensions that are not negative; false if what remains without those of 0 exceeds INT64_MAX, so
 * that no order of multiplying overflows. */
bool shape_elements(int rank, const int64_t *shape, int64_t *elements);

#endif
