/* Normally distributed numbers in sequences that are each a function of (seed, stream, block): many
 * a second, unlike random.h without access to a number by itself. */
#ifndef BASE_NORMAL_H
#define BASE_NORMAL_H

#include <stdint.h>

enum { NORMAL_LAYERS = 128 };

/* What the method needs to know of the density; made once, then read by any number of threads. */
typedef struct normal_table {
    double edge[NORMAL_LAYERS + 1]; /* right edges of the layers; [0] stands for the tail's area */
    double ratio[NORMAL_LAYERS];    /* edge[i + 1] / edge[i] */
} normal_table;

typedef struct normal_generator {
    const normal_table *table;
    uint64_t s[4];
} normal_generator;

void normal_table_init(normal_table *table);
/* The beginning of a sequence. `table` must outlive it. */
normal_generator normal_sequence(const normal_table *table, uint64_t seed, uint64_t stream,
                                 uint64_t block);
double normal_next(normal_generator *g); /* mean 0, variance 1 */

#endif
