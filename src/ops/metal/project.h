/* What the files of norms and projections share: input rows, and how they become arguments of kernels. */
#ifndef OPS_METAL_PROJECT_H
#define OPS_METAL_PROJECT_H

#include "ops/metal/internal.h"
#include "ops/metal/project_arguments.h"

/* The rows of a projection before its matrix: norm(x), or act(gate) (norm(x) + skip skip_input). */
typedef struct metal_input {
    ops_tensor x; /* [tokens][width] */
    ops_norm norm;
    ops_tensor gate, skip, skip_input; /* absent: none */
    enum ops_activation activation;
} metal_input;

enum { METAL_PROJECT_THREADS = PROJECT_SIMD_GROUPS * METAL_SIMD };

static inline uint32_t metal_tokens(const metal_input *in) {
    return (uint32_t)in->x.shape[0];
}
static inline uint32_t metal_width(const metal_input *in) {
    return (uint32_t)in->x.shape[1];
}

/* Whether a tensor that may be absent has a type, and numbers that the kernels can count. */
bool metal_expect_type(metal_stream *s, const char *op, const char *name, const ops_tensor *t);
/* Checks a norm, also that its types are those of the device. */
bool metal_expect_norm(metal_stream *s, const char *op, const ops_norm *norm, int64_t width);

struct input_arguments metal_input_arguments(const metal_input *in);
/* Adds the operands x, norm weight and bias; and those of the gate. */
void metal_bind(metal_dispatch *d, const ops_tensor *t, bool written);
void metal_bind_input(metal_dispatch *d, const metal_input *in);
void metal_bind_gate(metal_dispatch *d, const metal_input *in);

/* out [tokens][width] = the rows. */
void metal_lay_rows(metal_stream *s, const metal_input *in, const ops_tensor *out);

struct matrix_arguments metal_matrix_arguments(const ops_tensor *weight, const ops_tensor *bias);

/* ---- Tiles ---- */

typedef struct metal_tiles {
    enum tile_ending ending;
    const ops_tensor *weight, *bias, *up_weight, *up_bias; /* the last two with TILE_GATED */
    const ops_tensor *residual;                            /* NULL: none */
    enum ops_activation activation;
    float soft_cap, sign;
    const ops_tensor *out;
} metal_tiles;

/* Whether this product is to go through tiles. Their input has neither norm nor gate. */
bool metal_is_for_tiles(const metal_stream *s, const metal_input *in, const ops_tensor *weight);
/* Whether they take the input from scratch memory, where metal_lay_halves has laid it. */
bool metal_tiles_need_halves(const metal_tiles *t);
void metal_lay_halves(metal_stream *s, const metal_input *in);
void metal_run_tiles(metal_stream *s, const metal_input *in, const metal_tiles *t);

#endif
