/* The search for the scale (and offset) of one block: what the encoders of rows share. */
#ifndef FORMAT_QUANTISE_SEARCH_H
#define FORMAT_QUANTISE_SEARCH_H

#include <stdint.h>

#include "base/blocks.h"

enum { SEARCH_LANES = 16, SEARCH_PASSES = 3 };

/* Where sixteen descents begin: the extreme value lies at levels from `first` to `last`, in equal
 * steps. With an offset, the range of the values is that many steps of q, and `anchor` says which
 * part of a range longer or shorter than that of q sticks out below. */
typedef struct search_starts {
    float first, last, anchor;
} search_starts;

typedef struct search_grid {
    float lowest, highest; /* q, as blocks.h multiplies it with d */
    bool offset;           /* d q + m */
    bool table;            /* q is one of block_levels, which are the starts of a pass too */
    float widest;          /* the level of the extreme value in plain rounding */
    int rounds;            /* of fitting; more improve little */
    int passes;
    search_starts pass[SEARCH_PASSES];
} search_grid;

const search_grid *search_grid_of(dtype type);

/* A block to be rounded. With `carry`, the error of its value j changes each later value k of the
 * block by -error * carry[j * stride + k] before that is rounded: the error that counts is that of
 * the changed value. */
typedef struct search_problem {
    const float *values;     /* [32], finite */
    const float *importance; /* [32], none negative; all 0 or NULL: all equal */
    const float *carry;      /* 32 rows; NULL: values stay as they are */
    int64_t stride;          /* of carry */
} search_problem;

/* unit is a power of two, d * unit and m * unit are f16. d = 0: every value is nearest to m. */
typedef struct search_scale {
    float unit, d, m;
} search_scale;

/* The d and m that make the sum of importance[i] * error[i]^2 small, never larger than with the scale
 * that plain rounding takes. False, and all 0, where the values are so near to 0 that nothing else
 * comes nearer. */
bool search_block_scale(const search_grid *grid, const search_problem *problem,
                        search_scale *found);

/* The best q for a value of which m was taken, and which was divided by d. */
float search_nearest(const search_grid *grid, float value);

#endif
