/* Arguments of the kernels of norms and projections, for C and Metal alike: scalars of 4 bytes, sizes
 * multiples of 16. What is called first is what metal_first gives, counted in elements, of weights in
 * bytes; strides are in elements, of weights in bytes; types are those of enum metal_type. */
#ifndef OPS_METAL_PROJECT_ARGUMENTS_H
#define OPS_METAL_PROJECT_ARGUMENTS_H

#include "ops/metal/types.h"

#ifndef __METAL_VERSION__
#include <stdint.h>
#endif

enum {
    PROJECT_SIMD_GROUPS = 4,  /* of every threadgroup: they cut the rows' width among them */
    PROJECT_PARTS = 8,        /* projections of one dispatch */
    PROJECT_NORM_GROUPS = 64, /* most that a projection normalises on the way */
    PROJECT_ROWS = 16,        /* of weights, for a threadgroup and one token */
    PROJECT_TOKENS = 8,       /* that a threadgroup takes otherwise, with fewer rows */
    PROJECT_TOKENS_ROWS = 4,
    /* Tiles for many tokens. */
    TILE_TOKENS = 64,
    TILE_ROWS = 64,
    TILE_DEPTH = 32,
    TILE_STRIDE = TILE_DEPTH + 8 /* of a row of operands in threadgroup memory */
};

/* How input rows come about: y = x, or norm(x), or act(gate) (norm(x) + skip skip_input). */
struct input_arguments {
    uint32_t tokens, width;
    uint32_t x_first, x_stride;
    uint32_t kind, groups; /* enum metal_norm_kind */
    float eps;
    uint32_t weight_first, weight_type;
    uint32_t bias_first, bias_type, has_bias;
    uint32_t gated, activation;
    uint32_t gate_first, gate_stride;
    uint32_t has_skip, skip_first;
    uint32_t skip_input_first, skip_input_stride;
};

struct normalize_arguments {
    struct input_arguments input;
    uint32_t out_first, out_stride;
    uint32_t halves_stride, unused;
};

/* A matrix [rows][width] and its bias. */
struct matrix_arguments {
    uint32_t type, rows;
    uint32_t weight_first, row_bytes;
    uint32_t wide; /* rows begin at multiples of 16 bytes */
    uint32_t bias_first, bias_type, has_bias;
};

struct part_arguments {
    struct matrix_arguments matrix;
    uint32_t first_block; /* of rows, among those of all parts */
    uint32_t out_first, out_stride;
    float soft_cap;
};

struct norm_project_arguments {
    struct input_arguments input;
    uint32_t count, unused[3];
    struct part_arguments part[PROJECT_PARTS];
};

/* out = act(gate) * up */
struct project_gated_arguments {
    struct input_arguments input;
    struct matrix_arguments gate, up;
    uint32_t activation;
    uint32_t out_first, out_stride, unused;
};

/* out = residual + sign z, or act(z) * residual */
struct project_add_arguments {
    struct input_arguments input;
    struct matrix_arguments matrix;
    uint32_t multiply, activation;
    float sign;
    uint32_t has_residual, residual_first, residual_stride;
    uint32_t out_first, out_stride;
};

/* A tile's rows are those of `low`, or with TILE_GATED half of them those of each. */
enum tile_ending { TILE_CAP, TILE_GATED, TILE_ADD, TILE_MULTIPLY };

struct tiles_arguments {
    struct matrix_arguments low, high;
    uint32_t tokens, width;
    uint32_t x_first, x_stride;
    uint32_t ending, activation;
    float soft_cap, sign;
    uint32_t has_residual, residual_first, residual_stride;
    uint32_t out_first, out_stride, unused[3];
};

#endif
