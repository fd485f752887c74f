/* The little language of shapes: dimensions separated by commas, each a product of numbers, names
 * and sums in parentheses, or a name plus or minus 1. Shapes are our own (kernel_list.c), so nothing
 * else occurs in them. */
#include "ops/kernel_shape.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

static int64_t find(const kernel_sizes *s, const char *name, size_t length) {
    for (int i = 0; i < s->count; i++)
        if (strlen(s->name[i]) == length && memcmp(s->name[i], name, length) == 0)
            return s->value[i];
    if (length == 2 && memcmp(name, "NC", 2) == 0) {
        int64_t tokens = find(s, "S", 1);
        int64_t chunk = s->chunk_size > 0 ? s->chunk_size : KERNEL_DEFAULT_CHUNK;
        return tokens < 1 ? tokens : (tokens - 1) / chunk + 1;
    }
    return -1;
}

int64_t kernel_size(const kernel_sizes *sizes, const char *name) {
    return find(sizes, name, strlen(name));
}

static void remember(kernel_sizes *s, const char *name, size_t length, int64_t value) {
    memcpy(s->name[s->count], name, length);
    s->name[s->count][length] = 0;
    s->value[s->count++] = value;
}

/* One dimension; `at` moves behind it. -1: not known, or too large. */
static int64_t evaluate(const kernel_sizes *s, const char **at) {
    int64_t value = 1;
    for (;; (*at)++) {
        int64_t factor;
        if (**at == '(') {
            (*at)++;
            factor = evaluate(s, at);
            (*at)++;
        } else if (isdigit((unsigned char)**at)) {
            char *end;
            factor = strtol(*at, &end, 10);
            *at = end;
        } else {
            size_t length = strspn(*at, letters);
            factor = find(s, *at, length);
            *at += length;
        }
        if (value < 0 || factor < 0 || __builtin_mul_overflow(value, factor, &value))
            value = -1;
        if (**at != '*')
            break;
    }
    if (**at == '+' || **at == '-') {
        int64_t more = **at == '+' ? 1 : -1;
        *at += 2;
        value = value < 0 ? value : value + more;
    }
    return value;
}

/* Whether the dimension is a name alone. */
static bool is_name(const char *dimension, size_t *length) {
    *length = strspn(dimension, letters);
    return *length > 0 && (dimension[*length] == ',' || dimension[*length] == 0);
}

int kernel_shape_rank(const char *shape) {
    int rank = 1;
    for (; *shape; shape++)
        rank += *shape == ',';
    return rank;
}

bool kernel_shape_match(kernel_sizes *sizes, const char *shape, const int64_t *actual,
                        int64_t *expected) {
    int rank = kernel_shape_rank(shape);
    bool fits = true;
    for (int d = 0; d < rank; d++, shape += *shape == ',') {
        size_t length;
        if (is_name(shape, &length) && find(sizes, shape, length) < 0)
            remember(sizes, shape, length, actual[d]);
        expected[d] = evaluate(sizes, &shape);
        fits = fits && actual[d] == expected[d];
    }
    return fits;
}

bool kernel_shape_evaluate(kernel_sizes *sizes, const char *shape, int64_t *out) {
    int rank = kernel_shape_rank(shape);
    bool known = true;
    for (int d = 0; d < rank; d++, shape += *shape == ',') {
        out[d] = evaluate(sizes, &shape);
        known = known && out[d] >= 0;
    }
    return known;
}
